/*
 * Why is, or was, a connection as it is: its facts from the worker that has it or remembers it, and sentences about them. Where the time
 * went before it was open, what keeps it waiting now, how it ended; and, with what is known of it, what the configuration in force
 * now says about a connection like it.
 *
 * Sentences are made of figures that are there anyway; none is a guess about the network. What the kernel knows of the sockets stands
 * beside them (admin/).
 */
#include "base/clean.h"
#include "chain/inspect_int.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SLOW_US 20000u	  /* a phase that took longer is told as slow, if it was a quarter of the whole, too */
#define STUCK_MS 20u

/* ---- facts ---- */

static void leg_look(const struct conn *c, const struct leg *g, struct leg_now *r)
{
	const struct tunnel *t = g->kind == LEG_STREAM && g->s.id ? g->s.h->owner : NULL;

	r->stream = g->kind == LEG_STREAM;
	r->readable = g->readable;
	r->held = g->held;
	r->in_done = g->in_done;
	r->out_done = g->out_done;
	r->waiting = (uint64_t)g->q.len + (g->pipe ? g->pipe->len : 0);
	r->stuck = g->stuck & 1;
	if (!t)
		return;
	r->window = nghttp2_session_get_stream_remote_window_size(t->h2.ng, g->s.id);
	r->tunnel_window = nghttp2_session_get_remote_window_size(t->h2.ng);
	r->tunnel_waiting = t->rec.pend.len + (t->rec.out ? t->rec.out->len : 0);
	r->stuck |= (r->window <= 0 || r->tunnel_window <= 0) && (r->waiting || c->leg[!g->side].readable);
}

static void facts_live(struct conn *c, struct conn_facts *f)
{
	const struct metadata *md = c->leg[SRC].md;

	bypass_sync(c);
	f->live = true;
	f->open = c->state == CONN_OPEN;
	f->proxy_wait = c->proxy_wait;
	f->tunnel_wait = c->wait.peer != NULL;
	f->name_wait = !f->open && !c->proxy_wait && !f->tunnel_wait && c->leg[DST].kind == LEG_NONE;
	recent_facts(c, &f->c);
	inspect_conn_fill(c, &f->row);
	for (int i = 0; i < 2; i++)
		leg_look(c, &c->leg[i], &f->leg[i]);
	if (md && md->size <= sizeof(f->md))
		memcpy(f->md, md, md->size);
}

static void facts_run(struct worker *w, struct call *call)
{
	struct rows_call *c = container_of(call, struct rows_call, call);
	struct conn_facts *f = &c->rows.facts;
	const struct recent_conn *r;
	struct conn *k;

	for (uint32_t i = 0; (k = slab_next(&w->conns, &i));)
		if (k->id == c->arg && k->state != CONN_CLOSED) {
			facts_live(k, f);
			c->n = 1;
			return;
		}
	for (uint32_t i = 0; (r = recent_each(&w->recent, &i));)
		if (r->id == c->arg) {
			f->c = *r;
			c->n = 1;
			return;
		}
	for (uint32_t i = 0; i < w->recent.n_denials; i++)
		if (w->recent.denial[i].conn == c->arg) {
			f->d = w->recent.denial[i];
			c->n = 1;
			return;
		}
}

/* ---- sentences ---- */

static void say(struct json *j, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct json *j, const char *fmt, ...)
{
	char s[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s, sizeof(s), fmt, ap);
	va_end(ap);
	json_str(j, NULL, s);
}

static bool slow(uint32_t us, const struct recent_conn *c)
{
	uint64_t whole = c->open_us ? c->open_us : c->duration_us;

	return us >= SLOW_US && (uint64_t)us * 4 >= whole;
}

static uint32_t since(uint32_t to, uint32_t from)
{
	return to > from ? to - from : 0;
}

/* how long each phase took; what did not happen is null */
struct phases {
	uint32_t header, name, queue, connect; /* of the destination: TCP connect, or the CONNECT's answer */
	uint32_t first;			       /* byte of the destination, after it was open */
};

static struct phases phases_of(const struct recent_conn *c)
{
	uint32_t routed = c->at[AT_ROUTED], named = c->at[AT_NAMED];

	return (struct phases){
		.header = routed,
		.name = named ? since(named, routed) : 0,
		.queue = c->queue_us,
		.connect = c->begun_us && c->open_us ? since(c->open_us, c->begun_us) : 0,
		.first = c->open_us && c->at[AT_FIRST] ? since(c->at[AT_FIRST], c->open_us) : 0,
	};
}

static void put_phases(struct json *j, const struct recent_conn *c, bool tunnel)
{
	struct phases p = phases_of(c);

	json_open(j, "phases", '{');
	json_u64(j, "policy_us", p.header);
	json_u64(j, "name_us", p.name);
	json_u64(j, "queue_us", p.queue);
	json_u64(j, tunnel ? "answer_us" : "connect_us", p.connect);
	json_u64(j, "open_us", c->open_us);
	json_u64(j, "first_byte_us", p.first);
	json_close(j, '}');
}

static void say_opening(struct json *j, const struct recent_conn *c, bool tunnel)
{
	struct phases p = phases_of(c);

	if (slow(p.header, c))
		say(j, "it waited %u ms for its PROXY header", p.header / 1000);
	if (slow(p.name, c))
		say(j, "the look-up of the endpoint's name took %u ms (DNS on this node)", p.name / 1000);
	if (slow(p.queue, c))
		say(j, "it waited %u ms for a tunnel with room (aditctl cluster: QUEUED; pool.max_tunnels, the peer's max_streams)", p.queue / 1000);
	if (slow(p.connect, c) && tunnel)
		say(j, "the peer agent took %u ms to answer the CONNECT: its backend, or its own queue (aditctl conn explain there)", p.connect / 1000);
	else if (slow(p.connect, c))
		say(j, "the backend took %u ms to accept the TCP connection", p.connect / 1000);
	if (p.first / 1000 >= 1000)
		say(j, "the destination sent its first byte %u ms after the connection was open", p.first / 1000);
	if (c->tries)
		say(j, "%u endpoints or tunnels were tried in vain before", c->tries);
}

static const char *side_str(int side)
{
	return side == SRC ? "source" : "destination";
}

static void say_stuck(struct json *j, const struct conn_facts *f)
{
	for (int i = 0; i < 2; i++) {
		uint32_t ms = f->c.stuck_ms[i];

		/* live ones say whether it is a stream; of ended ones the stream's number stays */
		if (ms < STUCK_MS)
			continue;
		if (i == SRC ? f->c.stream_in != 0 : f->c.stream_out != 0)
			say(j, "for %u ms bytes for the %s waited for the peer agent's flow control window: behind it, nobody read", ms, side_str(i));
		else
			say(j, "for %u ms bytes for the %s waited because its application did not read, or the path to it is slow", ms, side_str(i));
	}
}

static void say_leg(struct json *j, const struct leg_now *g, int side)
{
	const char *s = side_str(side);

	if (g->held)
		say(j, "now: bytes for the %s wait until it has read what the bypass gave it", s);
	else if (g->stream && g->stuck && g->tunnel_window <= 0)
		say(j, "now: the tunnel's flow control window of the peer agent towards the %s is used up: its other connections hold it, or the path is "
		       "slow",
		    s);
	else if (g->stream && g->stuck)
		say(j, "now: the peer agent's flow control window towards the %s is used up: the application behind it does not read", s);
	else if (g->stuck)
		say(j, "now: the application at the %s does not read, or the path to it is slow; %" PRIu64 " bytes wait here, more in its socket", s,
		    g->waiting);
	if (g->tunnel_waiting)
		say(j, "now: %" PRIu64 " bytes wait for the tunnel's socket towards the %s: the path, or the peer agent does not read",
		    g->tunnel_waiting, s);
}

static void say_live(struct json *j, const struct conn_facts *f)
{
	if (f->proxy_wait)
		say(j, "now: it waits for its PROXY header");
	else if (f->tunnel_wait)
		say(j, "now: it waits for a tunnel with room (aditctl tunnel, aditctl cluster)");
	else if (f->name_wait)
		say(j, "now: it waits for the endpoint's name to be resolved");
	else if (!f->open)
		say(j, f->leg[DST].stream ? "now: it waits for the peer agent's answer to its CONNECT" : "now: it waits for the TCP connect");
	for (int i = 0; f->open && i < 2; i++)
		say_leg(j, &f->leg[i], i);
	if (f->row.bypass_refused[0])
		say(j, "messages that the bypass left to TCP: %s", f->row.bypass_refused);
}

/* ---- how it ended ---- */

static const char *who_str(const char *by)
{
	static const char *const names[][2] = { { "src", "the source" },
						{ "dst", "the destination" },
						{ "peer", "the peer agent" },
						{ "adit", "aditd" },
						{ "both", "both sides" } };

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(names[i][0], by))
			return names[i][1];
	return by;
}

static void put_end(struct json *j, const struct recent_conn *c)
{
	char why[RECENT_TEXT], policy[RECENT_TEXT];

	json_open(j, "end", '{');
	json_str(j, "ending", ending_text(c->ending));
	json_str(j, "flags", ending_flags(c->ending));
	json_str(j, "by", recent_by[c->by]);
	json_str(j, "who", who_str(recent_by[c->by]));
	json_str(j, "why", *recent_text(c, RT_WHY, why) ? why : NULL);
	json_str(j, "policy", (c->ending == END_DENIED || c->ending == END_REVOKED) && *recent_text(c, RT_POLICY, policy) ? policy : NULL);
	json_bool(j, "was_open", c->open_us != 0);
	json_u64(j, "ended_us", c->end_us);
	json_close(j, '}');
}

static const char *text_or_null(const struct recent_conn *c, enum recent_text which, char out[RECENT_TEXT])
{
	return *recent_text(c, which, out) ? out : NULL;
}

static const char *addr_or_null(const struct addr *a, char out[ADDR_STR])
{
	return a->family != AF_UNSPEC ? addr_str(a, out) : NULL;
}

static void put_facts(struct json *j, const struct conn_facts *f)
{
	const struct recent_conn *c = &f->c;
	char t[RECENT_TEXT], a[ADDR_STR];

	json_u64(j, "id", c->id);
	json_str(j, "state", f->live ? f->row.state : "ended");
	json_u64(j, "worker", c->worker);
	json_str(j, "listener", text_or_null(c, RT_LISTENER, t));
	json_str(j, "chain", text_or_null(c, RT_CHAIN, t));
	json_str(j, "route", text_or_null(c, RT_ROUTE, t));
	json_str(j, "policy", text_or_null(c, RT_POLICY, t));
	json_str(j, "src", addr_or_null(&c->src, a));
	json_str(j, "original_dst", addr_or_null(&c->orig_dst, a));
	json_str(j, "authority", text_or_null(c, RT_AUTHORITY, t));
	json_str(j, "dst", addr_or_null(&c->dst, a));
	json_str(j, "src_identity", text_or_null(c, RT_PRINCIPAL, t));
	json_str(j, "dst_identity", text_or_null(c, RT_PEER, t));
	json_u64(j, "status", c->status);
	json_u64(j, "tunnel_in", c->tunnel_in);
	json_u64(j, "stream_in", c->stream_in);
	json_u64(j, "tunnel_out", c->tunnel_out);
	json_u64(j, "stream_out", c->stream_out);
	json_u64(j, "bytes_sent", c->bytes[SRC]);
	json_u64(j, "bytes_recv", c->bytes[DST]);
	json_u64(j, "bypassed", c->bypassed);
	json_u64(j, "spliced", c->spliced);
	json_u64(j, "start_us", c->start_us);
	json_u64(j, "duration_us", c->duration_us);
	json_str(j, "mover", recent_mover[c->mover]);
	json_str(j, "mover_why", text_or_null(c, RT_MOVER_WHY, t));
}

/* ---- what the configuration says now ---- */

static bool is_listener(const struct config *cfg, const char *name)
{
	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		if (!strcmp(cfg->listeners[i].name, name))
			return true;
	return false;
}

/* the same question again; "now" is null when the listener is there no more */
static int put_now(struct daemon *d, const struct explain_ask *ask, struct json *j)
{
	struct err why = { "" };
	int r = 0;

	if (!is_listener(inspect_config(d), ask->listener)) {
		json_str(j, "now", NULL);
		return 0;
	}
	json_open(j, "now", '{');
	r = explain_connection(d, ask, j, &why);
	if (r == -EINVAL)
		json_str(j, "error", why.msg);
	json_close(j, '}');
	return r == -EINVAL ? 0 : r;
}

static int explain_facts(struct daemon *d, const struct conn_facts *f, struct json *j)
{
	const struct recent_conn *c = &f->c;
	const struct metadata *md = (const struct metadata *)(const void *)f->md;
	char listener[RECENT_TEXT], authority[RECENT_TEXT], principal[RECENT_TEXT];
	bool tunnel = c->stream_out != 0;
	struct explain_ask ask = {
		.src = c->src,
		.dst = c->orig_dst,
		.listener = recent_text(c, RT_LISTENER, listener),
		.principal = *recent_text(c, RT_PRINCIPAL, principal) ? principal : NULL,
		.authority = *recent_text(c, RT_AUTHORITY, authority) ? authority : NULL,
		.md = md->size ? md : NULL,
	};

	put_facts(j, f);
	put_phases(j, c, tunnel);
	if (!f->live)
		put_end(j, c);
	json_open(j, "slow", '[');
	say_opening(j, c, tunnel);
	say_stuck(j, f);
	if (f->live)
		say_live(j, f);
	json_close(j, ']');
	json_bool(j, "metadata_known", f->live);
	return put_now(d, &ask, j);
}

/* of the connection only its denial is left */
static int explain_denial(struct daemon *d, const struct recent_denial *x, struct json *j)
{
	struct explain_ask ask = {
		.src = x->src,
		.dst = x->dst,
		.listener = x->listener,
		.principal = x->principal[0] ? x->principal : NULL,
		.authority = x->authority[0] ? x->authority : NULL,
	};
	char a[ADDR_STR];

	json_u64(j, "id", x->conn);
	json_str(j, "state", "ended");
	json_str(j, "listener", x->listener);
	json_str(j, "src", addr_or_null(&x->src, a));
	json_str(j, "original_dst", addr_or_null(&x->dst, a));
	json_str(j, "authority", ask.authority);
	json_str(j, "src_identity", ask.principal);
	json_open(j, "end", '{');
	json_str(j, "ending", "denied");
	json_str(j, "by", x->kind == DENIAL_PEER ? "peer" : "adit");
	json_str(j, "who", who_str(x->kind == DENIAL_PEER ? "peer" : "adit"));
	json_str(j, "why", x->why);
	json_str(j, "policy", x->policy[0] ? x->policy : NULL);
	json_bool(j, "was_open", false);
	json_u64(j, "ended_us", x->last_us);
	json_close(j, '}');
	json_bool(j, "metadata_known", false);
	return put_now(d, &ask, j);
}

int explain_conn(struct daemon *d, uint64_t id, struct json *j, struct conn_row *ret_row)
{
	AUTO_FREE struct conn_facts *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	r = inspect_one(d, (uint32_t)(id % d->n_workers), facts_run, id, f, sizeof(*f));
	if (r <= 0)
		return r < 0 ? r : -ENOENT;
	*ret_row = f->row;
	return f->c.id ? explain_facts(d, f, j) : explain_denial(d, &f->d, j);
}
