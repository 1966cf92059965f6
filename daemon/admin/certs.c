/*
 * GET /v1/certs and the metrics of identities: what control/creds.c has in force, and which tunnels use it. Times are Unix seconds, as
 * certificates say them; what is left of them is said, too, so that nobody has to know this node's clock.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "obs/metrics.h"
#include <string.h>
#include <time.h>

static const char *const states[] = {
	[TLS_GOOD] = "good", [TLS_EXPIRING] = "expiring", [TLS_EXPIRED] = "expired", [TLS_EARLY] = "not yet valid"};

static uint32_t rows_of(const struct api *a, const struct cert_row **ret)
{
	*ret = NULL;
	return a->certs.list ? a->certs.list(a->certs.arg, ret) : 0;
}

static int64_t left(uint64_t until, uint64_t now)
{
	return (int64_t)(until - now);
}

static void put_note(void *arg, bool bad, const char *text)
{
	(void)bad;
	json_str(arg, NULL, text);
}

static void put_cas(struct json *j, const struct tls_info *i, uint64_t now)
{
	json_open(j, "cas", '[');
	for (uint32_t k = 0; k < i->n_cas; k++) {
		json_open(j, NULL, '{');
		json_str(j, "subject", i->cas[k].subject);
		json_str(j, "serial", i->cas[k].serial);
		json_u64(j, "not_before", i->cas[k].not_before);
		json_u64(j, "not_after", i->cas[k].not_after);
		json_i64(j, "seconds_left", left(i->cas[k].not_after, now));
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_crls(struct json *j, const struct crls *c, uint64_t now)
{
	json_open(j, "crls", '[');
	for (uint32_t k = 0; k < crls_count(c); k++) {
		const struct tls_crl_info *i = crls_info(c, k);

		json_open(j, NULL, '{');
		json_str(j, "issuer", i->issuer);
		json_str(j, "number", or_null(i->number));
		json_u64(j, "revoked", i->revoked);
		json_u64(j, "this_update", i->this_update);
		if (i->next_update) {
			json_u64(j, "next_update", i->next_update);
			json_i64(j, "seconds_left", left(i->next_update, now));
		}
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_tunnels(struct json *j, const struct cert_row *c, const struct tunnel_row *t, size_t n)
{
	const char *serial = tls_ctx_info(c->ctx)->cert.serial;

	json_open(j, "tunnels", '[');
	for (size_t i = 0; i < n; i++) {
		if (strcmp(t[i].identity, c->name) != 0)
			continue;
		json_open(j, NULL, '{');
		json_u64(j, "id", t[i].id);
		json_u64(j, "worker", t[i].worker);
		json_str(j, "dir", t[i].dir);
		json_str(j, "state", t[i].state);
		json_str(j, "peer", t[i].peer);
		json_u64(j, "streams", t[i].streams);
		json_str(j, "serial", t[i].own_serial);
		json_bool(j, "current", !strcmp(t[i].own_serial, serial));
		json_close(j, '}');
	}
	json_close(j, ']');
}

static void put_cert(struct json *j, const struct cert_row *c, uint64_t now, const struct tunnel_row *t, size_t n)
{
	const struct tls_info *i = tls_ctx_info(c->ctx);

	json_open(j, NULL, '{');
	json_str(j, "identity", c->name);
	json_str(j, "spiffe_id", tls_ctx_id(c->ctx));
	json_str(j, "trust_domain", tls_ctx_trust_domain(c->ctx));
	json_str(j, "state", c->bad ? "bad" : states[tls_ctx_state(c->ctx, now)]);
	json_str(j, "serial", i->cert.serial);
	json_str(j, "subject", or_null(i->cert.subject));
	json_str(j, "issuer", i->cert.issuer);
	json_str(j, "fingerprint", i->cert.fingerprint);
	json_u64(j, "not_before", i->cert.not_before);
	json_u64(j, "not_after", i->cert.not_after);
	json_i64(j, "seconds_left", left(i->cert.not_after, now));
	json_f(j, "days_left", (double)left(i->cert.not_after, now) / 86400.0);
	json_u64(j, "chain", i->n_chain);
	json_str(j, "certificate", i->certificate);
	json_str(j, "key", i->key);
	json_str(j, "ca", i->ca);
	json_str(j, "crl", i->crl);
	json_str(j, "rotate", c->rotate);
	json_u64(j, "loaded", i->loaded);
	json_u64(j, "loads", c->loads);
	json_u64(j, "reload_failures", c->failures);
	json_str(j, "error", c->bad);
	json_u64(j, "bad_since", c->bad_since);
	json_open(j, "notes", '[');
	tls_ctx_notes(c->ctx, now, put_note, j);
	json_close(j, ']');
	put_cas(j, i, now);
	put_crls(j, tls_ctx_crls(c->ctx), now);
	put_tunnels(j, c, t, n);
	json_close(j, '}');
}

void api_certs(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct tunnel_row *t = NULL;
	const struct cert_row *rows;
	uint32_t n = rows_of(a, &rows);
	uint64_t now = (uint64_t)time(NULL);
	size_t n_tunnels = 0;
	const char *name = api_arg(req, "identity");
	uint32_t matched = 0;
	struct json j;
	int r = inspect_tunnels(a->d, &t, &n_tunnels);

	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_u64(&j, "now", now);
	json_open(&j, "certs", '[');
	for (uint32_t i = 0; i < n; i++)
		if (!name || !strcmp(name, rows[i].name)) {
			put_cert(&j, &rows[i], now, t, n_tunnels);
			matched++;
		}
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
	if (name && !matched)
		api_fail(ans, 404, "no identity is called '%s'", name);
}

/* ---- metrics ---- */

static int64_t soonest_ca(const struct cert_row *c, uint64_t now)
{
	const struct tls_info *i = tls_ctx_info(c->ctx);
	int64_t best = INT64_MAX;

	for (uint32_t k = 0; k < i->n_cas; k++)
		if (left(i->cas[k].not_after, now) < best)
			best = left(i->cas[k].not_after, now);
	return best;
}

static int64_t value(const struct cert_row *c, int which, uint64_t now)
{
	switch (which) {
	case 0:
		return left(tls_ctx_not_after(c->ctx), now);
	case 1:
		return soonest_ca(c, now);
	case 2:
		return c->bad != NULL;
	case 3:
		return (int64_t)c->failures;
	default:
		return (int64_t)c->loads;
	}
}

void api_add_certs(struct text *t, const struct api *a)
{
	static const struct {
		const char *name, *help;
		enum metrics_type type;
	} fam[] = {
		{"adit_identity_expiry_seconds", "seconds until the identity's certificate expires; negative when it has", METRICS_GAUGE},
		{"adit_identity_ca_expiry_seconds", "seconds until the first of its CAs expires; negative when one has", METRICS_GAUGE},
		{"adit_identity_bad", "1 while the identity's files are no good and what was loaded before is in force", METRICS_GAUGE},
		{"adit_identity_reload_failures_total", "times changed files of an identity were not taken", METRICS_COUNTER},
		{"adit_identity_loads_total", "times an identity was loaded with something new, the start included", METRICS_COUNTER},
	};
	const struct cert_row *rows;
	uint32_t n = rows_of(a, &rows);
	uint64_t now = (uint64_t)time(NULL);

	for (int k = 0; n && k < (int)ARRAY_LEN(fam); k++) {
		metrics_family(t, fam[k].name, fam[k].type, fam[k].help);
		for (uint32_t i = 0; i < n; i++) {
			const struct metrics_label l[] = {{"identity", rows[i].name}, {"spiffe_id", tls_ctx_id(rows[i].ctx)}};

			metrics_i64(t, fam[k].name, l, ARRAY_LEN(l), value(&rows[i], k, now));
		}
	}
}
