/* Explanations and denials of a daemon that does not run, with everything in them that aditctl shows; see fake_inspect.h. */
#pragma once
#include "chain/explain.h"
#include "chain/inspect.h"
#include <stdio.h>
#include <string.h>

static inline void fake_flag(struct json *j, const char *key, const char *value, const char *flag, bool is)
{
	json_open(j, NULL, '{');
	json_str(j, key, value);
	json_bool(j, flag, is);
}

static inline void fake_policies(struct json *j, bool allowed)
{
	json_open(j, "policies", '{');
	json_bool(j, "allowed", allowed);
	json_str(j, "by", allowed ? "web/rules/1" : "no-dev/rules/0");
	json_str(j, "why", allowed ? "an ALLOW policy matches and no DENY policy does" : "a DENY policy matches");
	json_open(j, "dry_run", '[');
	fake_flag(j, "by", "try/rules/0", "would_allow", false);
	json_close(j, '}');
	json_close(j, ']');
	json_bool(j, "dry_run_default_deny", true);
	json_open(j, "list", '[');
	fake_flag(j, "policy", "web", "matched", allowed);
	json_str(j, "action", "allow");
	json_bool(j, "decided", allowed);
	json_open(j, "rules", '[');
	fake_flag(j, "other", "", "matched", false);
	json_u64(j, "rule", 0);
	json_open(j, "failed", '[');
	json_str(j, NULL, "namespace is 'ops\x1b[31m'; the rule wants shop");
	json_close(j, ']');
	json_close(j, '}');
	json_close(j, ']');
	json_close(j, '}');
	if (!allowed) {
		fake_flag(j, "policy", "no-dev", "matched", true);
		json_str(j, "action", "deny");
		json_bool(j, "decided", true);
		json_open(j, "rules", '[');
		fake_flag(j, "other", "", "matched", true);
		json_u64(j, "rule", 0);
		json_close(j, '}');
		json_close(j, ']');
		json_close(j, '}');
	}
	json_close(j, ']');
	json_u64(j, "left_out", 7);
	json_close(j, '}');
}

static inline void fake_steps(struct json *j, bool allowed)
{
	json_open(j, "steps", '[');
	fake_flag(j, "at", "listener", "forward", false);
	json_str(j, "name", "outbound");
	fake_policies(j, true);
	json_open(j, "routes", '[');
	fake_flag(j, "route", "redis", "matched", false);
	json_str(j, "why", "port is 80; it wants 6379");
	json_close(j, '}');
	json_close(j, ']');
	json_str(j, "to_cluster", "to-b");
	json_close(j, '}');
	fake_flag(j, "at", "short-way", "x", true);
	json_str(j, "name", "tunnel-in");
	json_str(j, "why", "the endpoint is this node");
	json_close(j, '}');
	fake_flag(j, "at", "cluster", "x", true);
	json_str(j, "name", "to-b");
	fake_policies(j, allowed);
	json_close(j, '}');
	json_close(j, ']');
}

static inline void fake_out(struct json *j)
{
	json_open(j, "cluster", '{');
	json_str(j, "name", "to-b");
	json_str(j, "type", "tunnel");
	json_str(j, "balance", "round robin");
	json_str(j, "identity", "spiffe://adit.test/node-a");
	json_open(j, "endpoints", '[');
	fake_flag(j, "endpoint", "node-b:15008", "x", true);
	json_str(j, "name", "resolved");
	json_open(j, "addresses", '[');
	json_str(j, NULL, "10.0.0.2:15008");
	json_close(j, ']');
	json_close(j, '}');
	json_close(j, ']');
	json_open(j, "workers", '[');
	for (uint32_t i = 0; i < 2; i++) {
		fake_flag(j, "address", "10.0.0.2:15008", "x", true);
		json_u64(j, "worker", i);
		json_str(j, "tunnel", i ? "a new tunnel is dialled" : "goes into tunnel 3, which has 2 streams and room for 10");
		json_str(j, "short_way", "the endpoint is another node");
		json_close(j, '}');
	}
	json_close(j, ']');
	json_close(j, '}');
	json_open(j, "movers", '[');
	fake_flag(j, "mover", "splice", "may", false);
	json_str(j, "why", "off");
	json_close(j, '}');
	json_close(j, ']');
}

/* asked for port 6666 it is denied; "nobody" is no listener */
int explain_connection(struct daemon *d, const struct explain_ask *ask, struct json *j, struct err *reterr)
{
	bool denied = ask->dst.port == 6666;
	char a[ADDR_STR];

	(void)d;
	if (ask->listener && !strcmp(ask->listener, "nobody"))
		return err_set(reterr, -EINVAL, "there is no listener 'nobody'");
	json_open(j, "asked", '{');
	json_str(j, "src", addr_str(&ask->src, a));
	json_str(j, "authority", ask->authority);
	json_open(j, "pairs", '[');
	for (size_t i = 0; i < ask->n_headers + ask->n_members; i++) {
		const struct header *h = i < ask->n_headers ? &ask->headers[i] : &ask->members[i - ask->n_headers];

		json_strn(j, NULL, h->name.p, h->name.n);
		json_strn(j, NULL, h->value.p, h->value.n);
	}
	json_close(j, ']');
	json_close(j, '}');
	json_open(j, "entry", '{');
	json_str(j, "listener", "outbound");
	json_str(j, "how", "captured");
	json_str(j, "why", "its capture takes this destination");
	json_str(j, "note", "a note");
	json_close(j, '}');
	fake_steps(j, !denied);
	if (!denied)
		fake_out(j);
	json_str(j, "verdict", denied ? "denied" : "go");
	json_str(j, "why", denied ? "denied by policy no-dev/rules/0 at cluster 'to-b'" : NULL);
	return 0;
}

/* 7 lives, 8 was denied */
int explain_conn(struct daemon *d, uint64_t id, struct json *j, struct conn_row *ret_row)
{
	struct explain_ask ask = {.dst.port = id == 8 ? 6666 : 80};
	struct err why;

	if (id != 7 && id != 8)
		return -ENOENT;
	ret_row->id = id == 7 ? 7 : 0;
	json_u64(j, "id", id);
	json_str(j, "state", id == 7 ? "open" : "ended");
	json_str(j, "chain", "outbound > cluster:to-b");
	json_str(j, "src", "10.0.0.7:1");
	json_str(j, "original_dst", "10.0.0.9:80");
	json_u64(j, "bytes_sent", 1536);
	json_u64(j, "duration_us", 2000000);
	json_str(j, "mover", "relay");
	json_str(j, "mover_why", "young");
	if (id == 8) {
		json_open(j, "end", '{');
		json_str(j, "ending", "denied");
		json_str(j, "why", "denied by policy no-dev/rules/0 at cluster 'to-b'");
		json_str(j, "who", "aditd");
		json_str(j, "flags", "UAEX");
		json_close(j, '}');
	}
	json_open(j, "phases", '{');
	json_u64(j, "queue_us", 35000);
	json_u64(j, "open_us", id == 7 ? 41000 : 0);
	json_close(j, '}');
	json_open(j, "slow", '[');
	if (id == 7)
		json_str(j, NULL, "it waited 35 ms for a tunnel with room");
	json_close(j, ']');
	json_bool(j, "metadata_known", id == 7);
	json_open(j, "now", '{');
	(void)explain_connection(d, &ask, j, &why);
	json_close(j, '}');
	return 0;
}

int inspect_denied(struct daemon *d, struct denied_row **ret, size_t *ret_n)
{
	struct denied_row *r = calloc(2, sizeof(*r));

	(void)d;
	if (!r)
		return -ENOMEM;
	r[0].d = (struct recent_denial){.first_us = 1000000, .last_us = 1700000002000000, .n = 12, .conn = 8, .kind = DENIAL_POLICY,
					.listener = "outbound", .policy = "no-dev/rules/0", .why = "denied by policy no-dev/rules/0"};
	r[0].d.src = (struct addr){.family = AF_INET, .ip = {10, 0, 0, 7}, .port = 1};
	r[1].d = (struct recent_denial){.first_us = 1000000, .last_us = 1700000001000000, .n = 1, .kind = DENIAL_IDENTITY,
					.listener = "tunnel-in", .principal = "spiffe://other.test/x", .why = "peer is another"};
	*ret = r;
	*ret_n = 2;
	return 0;
}
