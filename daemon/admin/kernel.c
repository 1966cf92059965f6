/*
 * The kernel plane for people and scrapers: its means (inspect_kernel()), its numbers, what listeners ask of it, and what the kernel
 * knows of the TCP connections behind one of ours. Everything is read when asked; nothing here touches a worker.
 *
 * TCP details come from sock_diag by the two addresses, in the namespace that the listener or cluster works in. The application's own
 * end is the same connection with the addresses exchanged: it is found when it lives in that namespace, and is null when it does not.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "net/diag.h"
#include "net/netns.h"
#include "obs/metrics.h"
#include <stdio.h>
#include <string.h>

/* ---- GET /v1/kernel ---- */

static void put_means(struct json *j, const struct kernel_row *rows, size_t n)
{
	json_open(j, "means", '[');
	for (size_t i = 0; i < n; i++) {
		json_open(j, NULL, '{');
		json_str(j, "name", rows[i].name);
		json_str(j, "state", rows[i].state);
		json_str(j, "why", or_null(rows[i].why));
		json_str(j, "detail", or_null(rows[i].detail));
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_bypass(struct json *j, const struct kernel_numbers *k)
{
	const struct bypass_info *b = &k->bypass;

	if (!k->has_bypass) {
		json_str(j, "bypass", NULL);
		return;
	}
	json_open(j, "bypass", '{');
	json_bool(j, "on", b->switched_on);
	json_bool(j, "evidence", b->evidence);
	json_bool(j, "shared", b->shared);
	json_str(j, "unshared", or_null(b->unshared));
	json_str(j, "self_test", or_null(b->self_test));
	json_u64(j, "joined", b->joined);
	json_u64(j, "slots_used", b->slots_used);
	json_u64(j, "slots", b->slots);
	json_u64(j, "joins", b->joins);
	json_u64(j, "legs", b->legs);
	json_u64(j, "refused_joins", b->refused_joins);
	json_u64(j, "demoted", b->demoted);
	json_u64(j, "bytes", b->bytes);
	json_u64(j, "messages", b->messages);
	json_open(j, "refused", '{');
	for (uint32_t i = 0; i < BYPASS_REFUSALS; i++)
		json_u64(j, bypass_refusal_str(i), b->refused[i]);
	json_close(j, '}');
	json_close(j, '}');
}

static void put_capture(struct json *j, const struct kernel_numbers *k)
{
	const struct capture_info *c = &k->capture;

	if (!k->has_capture) {
		json_str(j, "capture", NULL);
		return;
	}
	json_open(j, "capture", '{');
	json_u64(j, "rules", c->rules);
	json_bool(j, "shared", c->shared);
	json_u64(j, "captured", c->captured);
	json_u64(j, "claimed", c->claimed);
	json_u64(j, "unclaimed", c->unclaimed);
	json_u64(j, "pending", c->pending);
	json_u64(j, "excluded", c->excluded);
	json_u64(j, "failed_open", c->failed_open);
	json_u64(j, "failed_closed", c->failed_closed);
	json_u64(j, "unable", c->unable);
	json_close(j, '}');
}

static void put_steer(struct json *j, const struct kernel_numbers *k)
{
	if (!k->has_steer) {
		json_str(j, "steer", NULL);
		return;
	}
	json_open(j, "steer", '{');
	json_u64(j, "rules", k->steer.rules);
	json_u64(j, "namespaces", k->steer.namespaces);
	json_u64(j, "steered", k->steer.steered);
	json_close(j, '}');
}

void api_kernel(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct kernel_row *rows = NULL;
	struct kernel_numbers k = {0};
	const char *release = NULL;
	struct json j;
	size_t n = 0;
	int r = inspect_kernel(a->d, &rows, &n, &release);

	(void)req;
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	inspect_kernel_numbers(a->d, &k);
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_str(&j, "release", release);
	put_means(&j, rows, n);
	put_bypass(&j, &k);
	put_capture(&j, &k);
	put_steer(&j, &k);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

void api_put_kernel_line(struct json *j, struct daemon *d)
{
	static const char *const states[] = {"on", "missing"}; /* what people ask for at a glance; off and idle were their choice */
	AUTO_FREE struct kernel_row *rows = NULL;
	const char *release = NULL;
	size_t n = 0;

	if (inspect_kernel(d, &rows, &n, &release) < 0) {
		json_str(j, "kernel", NULL);
		return;
	}
	json_open(j, "kernel", '{');
	json_str(j, "release", release);
	for (size_t k = 0; k < ARRAY_LEN(states); k++) {
		json_open(j, states[k], '[');
		for (size_t i = 0; i < n; i++)
			if (!strcmp(rows[i].state, states[k]))
				json_str(j, NULL, rows[i].name);
		json_close(j, ']');
	}
	json_close(j, '}');
}

/* ---- what listeners ask of it ---- */

static void put_ports(struct json *j, const char *key, const struct cfg_ports *p, uint32_t n)
{
	char out[16];

	json_open(j, key, '[');
	for (uint32_t i = 0; i < n; i++) {
		if (p[i].first == p[i].last)
			snprintf(out, sizeof(out), "%u", p[i].first);
		else
			snprintf(out, sizeof(out), "%u-%u", p[i].first, p[i].last);
		json_str(j, NULL, out);
	}
	json_close(j, ']');
}

static void put_cidrs(struct json *j, const char *key, const struct cidr *c, uint32_t n)
{
	json_open(j, key, '[');
	for (uint32_t i = 0; i < n; i++) {
		struct text t = {0};

		api_cidr(&t, &c[i]);
		json_strn(j, NULL, t.s ? t.s : "", t.len);
		text_finish(&t);
	}
	json_close(j, ']');
}

static void put_who(struct json *j, const struct cfg_who *w)
{
	json_open(j, "cgroups", '[');
	for (uint32_t i = 0; i < w->n_cgroups; i++)
		json_str(j, NULL, w->cgroups[i]);
	json_close(j, ']');
	json_open(j, "uids", '[');
	for (uint32_t i = 0; i < w->n_uids; i++)
		json_u64(j, NULL, w->uids[i]);
	json_close(j, ']');
	put_ports(j, "ports", w->ports, w->n_ports);
}

void api_put_reach(struct json *j, const struct cfg_listener *l)
{
	json_str(j, "netns", l->netns);
	json_bool(j, "proxy_protocol", l->proxy_protocol);
	if (l->capture) {
		json_open(j, "capture", '{');
		put_who(j, &l->capture->who);
		put_cidrs(j, "to", l->capture->to, l->capture->n_to);
		put_cidrs(j, "except", l->capture->except, l->capture->n_except);
		put_ports(j, "except_ports", l->capture->except_ports, l->capture->n_except_ports);
		json_str(j, "when_away", l->capture->fail_closed ? "closed" : "open");
		json_close(j, '}');
	}
	if (l->steer) {
		json_open(j, "steer", '{');
		put_cidrs(j, "to", l->steer->to, l->steer->n_to);
		put_ports(j, "ports", l->steer->ports, l->steer->n_ports);
		put_ports(j, "except_ports", l->steer->except_ports, l->steer->n_except_ports);
		json_close(j, '}');
	}
}

/* ---- TCP details of one connection ---- */

static const char *netns_of_listener(const struct config *c, const char *name)
{
	for (uint32_t i = 0; c && i < c->n_listeners; i++)
		if (!strcmp(c->listeners[i].name, name))
			return c->listeners[i].netns;
	return NULL;
}

/* the last "cluster:NAME" of the chain */
static const char *netns_of_cluster(const struct config *c, const char *chain)
{
	const char *at, *name = NULL;
	size_t n;

	for (at = chain; (at = strstr(at, "cluster:")); at++)
		name = at + strlen("cluster:");
	n = name ? strcspn(name, " ") : 0;
	for (uint32_t i = 0; n && c && i < c->n_clusters; i++)
		if (strlen(c->clusters[i].name) == n && !memcmp(c->clusters[i].name, name, n))
			return c->clusters[i].netns;
	return NULL;
}

static void put_end(struct json *j, const char *key, int netns, const struct addr *local, const struct addr *remote)
{
	char text[ADDR_STR];
	struct diag_tcp t;

	if (diag_tcp(netns, local, remote, &t) < 0) {
		json_str(j, key, NULL);
		return;
	}
	json_open(j, key, '{');
	json_str(j, "local", addr_str(local, text));
	json_str(j, "remote", addr_str(remote, text));
	json_str(j, "state", t.state);
	json_str(j, "congestion", or_null(t.congestion));
	json_u64(j, "rtt_us", t.rtt_us);
	json_u64(j, "rttvar_us", t.rttvar_us);
	json_u64(j, "min_rtt_us", t.min_rtt_us);
	json_u64(j, "cwnd", t.cwnd);
	json_u64(j, "mss", t.mss);
	json_u64(j, "rqueue", t.rqueue);
	json_u64(j, "wqueue", t.wqueue);
	json_u64(j, "unacked", t.unacked);
	json_u64(j, "lost", t.lost);
	json_u64(j, "retransmits", t.retransmits);
	json_u64(j, "total_retransmits", t.total_retransmits);
	json_u64(j, "delivery_bps", t.delivery_bps);
	json_u64(j, "acked_bytes", t.acked_bytes);
	json_u64(j, "received_bytes", t.received_bytes);
	json_u64(j, "uid", t.uid);
	json_u64(j, "inode", t.inode);
	json_close(j, '}');
}

void api_put_tcp(struct json *j, const struct config *c, const struct conn_row *r)
{
	static const char *const legs[] = {"source", "destination"};
	const char *netns[] = {netns_of_listener(c, r->listener), netns_of_cluster(c, r->chain)};
	struct err why;

	json_open(j, "tcp", '{');
	for (size_t i = 0; i < ARRAY_LEN(legs); i++) {
		const struct addr *local = &r->tcp[i][0], *remote = &r->tcp[i][1];

		if (local->family == AF_UNSPEC || remote->family == AF_UNSPEC) {
			json_str(j, legs[i], NULL);
			continue;
		}
		AUTO_FD fd = netns[i] ? netns_open(netns[i], &why) : -1;
		if (netns[i] && fd < 0) { /* gone since: not to be looked for in ours */
			json_str(j, legs[i], NULL);
			continue;
		}
		json_open(j, legs[i], '{');
		put_end(j, "agent", fd, local, remote);
		put_end(j, "application", fd, remote, local);
		json_close(j, '}');
	}
	json_close(j, '}');
}

/* ---- metrics ---- */

static void add_bypass(struct text *t, const struct bypass_info *b)
{
	metrics_family(t, "adit_bypass_joined", METRICS_GAUGE, "sockets or pairs in the bypass now");
	metrics_u64(t, "adit_bypass_joined", NULL, 0, b->joined);
	metrics_family(t, "adit_bypass_messages_total", METRICS_COUNTER, "messages that the bypass moved");
	metrics_u64(t, "adit_bypass_messages_total", NULL, 0, b->messages);
	metrics_family(t, "adit_bypass_messages_refused_total", METRICS_COUNTER, "messages that went by TCP, by reason");
	for (uint32_t i = 0; i < BYPASS_REFUSALS; i++)
		metrics_u64(t, "adit_bypass_messages_refused_total", &(struct metrics_label){"reason", bypass_refusal_str(i)}, 1, b->refused[i]);
}

static void add_capture(struct text *t, const struct capture_info *c)
{
	const struct {
		const char *result;
		uint64_t v;
	} rows[] = {
		{"captured", c->captured},	   {"excluded", c->excluded}, {"failed_open", c->failed_open},
		{"failed_closed", c->failed_closed}, {"unable", c->unable},	      {"claimed", c->claimed},
		{"unclaimed", c->unclaimed},
	};

	metrics_family(t, "adit_capture_connects_total", METRICS_COUNTER, "connect() calls that a capture looked at, by what became of them");
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		metrics_u64(t, "adit_capture_connects_total", &(struct metrics_label){"result", rows[i].result}, 1, rows[i].v);
}

void api_add_kernel(struct text *t, struct daemon *d)
{
	AUTO_FREE struct kernel_row *rows = NULL;
	struct kernel_numbers k = {0};
	const char *release = NULL;
	size_t n = 0;

	if (inspect_kernel(d, &rows, &n, &release) < 0) {
		t->failed = true;
		return;
	}
	metrics_family(t, "adit_kernel_feature", METRICS_GAUGE, "1; a means of the kernel plane and its state");
	for (size_t i = 0; i < n; i++) {
		const struct metrics_label l[] = {{"name", rows[i].name}, {"state", rows[i].state}};

		metrics_u64(t, "adit_kernel_feature", l, ARRAY_LEN(l), 1);
	}
	inspect_kernel_numbers(d, &k);
	if (k.has_bypass)
		add_bypass(t, &k.bypass);
	if (k.has_capture)
		add_capture(t, &k.capture);
	if (k.has_steer) {
		metrics_family(t, "adit_steered_total", METRICS_COUNTER, "connections that steering took to a listener");
		metrics_u64(t, "adit_steered_total", NULL, 0, k.steer.steered);
	}
}
