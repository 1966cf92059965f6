/*
 * Why a handshake failed, for people: wolfSSL's error numbers, the peer's alerts, its certificates and its first bytes as sentences that
 * say what to do.
 *
 * A number says "expired"; whoever reads it wants to know whose certificate, since when, and by which clock. wolfSSL shows the peer's
 * certificates only while it judges them, so verify_note() keeps what it saw of them for this thread; tls_explain() comes right after, on
 * the same stack, and looks at it. A peer that is no TLS peer at all is known by its first bytes.
 *
 * Names and texts in certificates are the peer's: they are quoted and cut.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/asn.h>

#include "base/clean.h"
#include "base/log.h"
#include "tls/ctx.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define NAME_MAX_ 96u /* bytes of a quoted name */

/* the certificate that was not accepted, of the handshake in this thread that is failing */
static _Thread_local struct {
	int64_t not_before, not_after;
	int depth; /* 0: the peer's own, else a CA's of its chain */
	char who[NAME_MAX_], issuer[NAME_MAX_];
} noted;

const char *tls_reason(int e, char *out)
{
	wolfSSL_ERR_error_string_n((unsigned long)-e, out, WOLFSSL_MAX_ERROR_SZ);
	return out;
}

static int64_t date_unix(const byte *date, int len)
{
	struct tm tm = { 0 };

	/* @date starts with its ASN.1 tag and length */
	if (!date || len < 3 || wc_GetDateAsCalendarTime(date + 2, len - 2, date[0], &tm))
		return 0;
	return (int64_t)timegm(&tm);
}

/* the SPIFFE id if there is one, else the subject */
static void name_of(const struct DecodedCert *c, char out[NAME_MAX_])
{
	for (const DNS_entry *e = c->altNames; e; e = e->next)
		if (e->type == ASN_URI_TYPE && e->len > 0) {
			log_quote(out, NAME_MAX_, e->name, (size_t)e->len);
			return;
		}
	log_quote(out, NAME_MAX_, c->subject, strlen(c->subject));
}

int tls_verify_note(int ok, struct WOLFSSL_X509_STORE_CTX *store)
{
	int at = store->error_depth;
	struct DecodedCert c;

	memset(&noted, 0, sizeof(noted));
	if (ok || !store->certs || at < 0 || at >= store->totalCerts)
		return ok;
	wc_InitDecodedCert(&c, store->certs[at].buffer, store->certs[at].length, NULL);
	if (wc_ParseCert(&c, CERT_TYPE, NO_VERIFY, NULL) == 0) {
		noted.depth = at;
		noted.not_before = date_unix(c.beforeDate, c.beforeDateLen);
		noted.not_after = date_unix(c.afterDate, c.afterDateLen);
		name_of(&c, noted.who);
		log_quote(noted.issuer, sizeof(noted.issuer), c.issuer, strlen(c.issuer));
	}
	wc_FreeDecodedCert(&c);
	return ok;
}

char *tls_ago(int64_t seconds, char out[TLS_AGO])
{
	uint64_t s = (uint64_t)(seconds < 0 ? -seconds : seconds);

	if (s < 120)
		snprintf(out, TLS_AGO, "%llu seconds", (unsigned long long)s);
	else if (s < 2 * 3600)
		snprintf(out, TLS_AGO, "%llu minutes", (unsigned long long)s / 60);
	else if (s < 2 * 86400)
		snprintf(out, TLS_AGO, "%llu hours", (unsigned long long)s / 3600);
	else
		snprintf(out, TLS_AGO, "%llu days", (unsigned long long)s / 86400);
	return out;
}

static char *clock_text(int64_t t, char out[24])
{
	struct tm tm;
	time_t v = (time_t)t;

	gmtime_r(&v, &tm);
	strftime(out, 24, "%Y-%m-%d %H:%M:%SZ", &tm);
	return out;
}

/* ---- the peer's certificate ---- */

static int dates(bool after, struct err *reterr)
{
	int64_t now = (int64_t)time(NULL);
	char ago[TLS_AGO], at[24];
	const char *what = noted.depth ? "a CA of the peer's chain," : "peer's certificate,";

	if (!noted.not_after)
		return err_set(reterr, -EACCES, after ? "peer's certificate has expired, or this node's clock is ahead" :
							"peer's certificate is not valid yet, or this node's clock is behind");
	if (after)
		return err_set(reterr, -EACCES, "%s %s, expired %s ago; it is %s here: renew it there, or put this node's clock right (NTP)",
			       what, noted.who, tls_ago(now - noted.not_after, ago), clock_text(now, at));
	return err_set(reterr, -EACCES, "%s %s, is valid only in %s; it is %s here: one of the two nodes' clocks is wrong (NTP)", what,
		       noted.who, tls_ago(noted.not_before - now, ago), clock_text(now, at));
}

static int no_signer(const struct tls_ctx *t, struct err *reterr)
{
	const char *have = t ? tls_ctx_ca_text(t) : NULL;

	return err_set(reterr, -EACCES, "peer's certificate%s%s%s is not signed by our CA: it is by %s, we have %s; add the peer's CA to 'ca' of "
					"the identity, or is this a peer of another mesh?",
		       noted.who[0] ? ", " : "", noted.who, noted.who[0] ? "," : "", noted.issuer[0] ? noted.issuer : "another", have ? have : "others");
}

/* ---- what the peer says of ours ---- */

const char *tls_alert_hint(int code)
{
	switch (code) {
	case 42: /* bad_certificate */
	case 48: /* unknown_ca */
		return "the peer does not trust our CA: add ours to 'ca' there";
	case 43:
		return "the peer does not take certificates of our kind (key type or signature)";
	case 44:
		return "the peer says our certificate is revoked";
	case 45:
		return "the peer says our certificate has expired: rotate it, or check the peer's clock";
	case 46:
		return "the peer could not accept our certificate: its log says why";
	case 47:
		return "the peer found our handshake inconsistent: a TLS proxy in between?";
	case 49: /* access_denied */
		return "the peer does not accept our SPIFFE id (its listener's accept, its cluster's expect, or the trust domain)";
	case 116:
		return "the peer requires a client certificate";
	case 120:
		return "the peer does not speak h2 (ALPN): is it an HBONE agent?";
	case 70:
		return "the peer does not speak TLS 1.3: it is no HBONE agent, or the port is wrong";
	case 40:
		return "no common cipher or parameter: compare 'ciphers' of both sides";
	case 80:
		return "the peer had an internal error: its log says which";
	}
	return "the peer refused the handshake";
}

const char *tls_own_fault(const struct tls_ctx *t)
{
	static _Thread_local char text[160];
	int64_t now = (int64_t)time(NULL);
	int64_t from = t ? (int64_t)tls_ctx_not_before(t) : 0, to = t ? (int64_t)tls_ctx_not_after(t) : 0;
	char ago[TLS_AGO];

	text[0] = '\0';
	if (to && now > to)
		snprintf(text, sizeof(text), "; our certificate expired %s ago: renew it", tls_ago(now - to, ago));
	else if (from > now)
		snprintf(text, sizeof(text), "; our certificate is valid only in %s: this node's clock is behind, or the issuer's ahead",
			 tls_ago(from - now, ago));
	return text;
}

int tls_alert_explain(int code, const struct tls_ctx *t, struct err *reterr)
{
	int64_t now = (int64_t)time(NULL);
	int64_t from = t ? (int64_t)tls_ctx_not_before(t) : 0, to = t ? (int64_t)tls_ctx_not_after(t) : 0;
	char ago[TLS_AGO], more[160] = "";

	if (*tls_own_fault(t))
		snprintf(more, sizeof(more), "%s", tls_own_fault(t));
	else if (code == 45 && to)
		snprintf(more, sizeof(more), "; by our clock it is valid for %s more: is the peer's clock ahead?", tls_ago(to - now, ago));
	else if ((code == 42 || code == 46) && from && now - from < 3600)
		snprintf(more, sizeof(more), "; ours is valid since %s only: is the peer's clock behind?", tls_ago(now - from, ago));
	return err_set(reterr, -EACCES, "TLS alert %d from the peer: %s%s%s%s", code, tls_alert_hint(code),
		       code == 49 && t ? "; ours is " : "", code == 49 && t ? tls_ctx_id(t) : "", more);
}

/* ---- what is no TLS at all ---- */

const char *tls_foreign(const uint8_t *p, size_t n)
{
	static const struct {
		const char *begin;
		size_t n;
		const char *what;
	} known[] = {
		{ "HTTP/1", 5, "it answers HTTP/1 in plain text: that is no tunnel port" },
		{ "PRI * ", 5, "it speaks HTTP/2 without TLS: 'tls: false' there, or 'tls: true' here by mistake" },
		{ "GET /", 5, "it is an HTTP/1 client: who uses the tunnel port?" },
		{ "POST ", 5, "it is an HTTP/1 client: who uses the tunnel port?" },
		{ "HEAD ", 5, "it is an HTTP/1 client: who uses the tunnel port?" },
		{ "CONNE", 5, "it asks for a CONNECT of HTTP/1: HBONE is HTTP/2" },
		{ "PROXY", 5, "it sends a PROXY header, which tunnel listeners do not take" },
		{ "\r\n\r\n\0", 5, "it sends a PROXY header, which tunnel listeners do not take" },
		{ "SSH-", 4, "it is an SSH server: the port is wrong" },
		{ "220 ", 4, "it is a mail or FTP server: the port is wrong" },
	};

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (n >= known[i].n && !memcmp(p, known[i].begin, known[i].n))
			return known[i].what;
	/* the server's part of an HTTP/2 preface: a SETTINGS frame on stream 0 */
	if (n >= 5 && !p[0] && !p[1] && p[3] == 4 && !p[4])
		return "it speaks HTTP/2 without TLS: 'tls: false' there, or 'tls: true' here by mistake";
	return NULL;
}

const char *tls_unexpected(const uint8_t *p, size_t n)
{
	if (n >= 3 && p[0] == 0x16 && p[1] == 3)
		return "the peer speaks TLS, and here is 'tls: false': let both say the same";
	if (n >= 3 && p[0] == 0x15 && p[1] == 3)
		return "the peer wants TLS (it sent an alert), and here is 'tls: false': let both say the same";
	if (n >= 5 && !memcmp(p, "HTTP/", 5))
		return "the peer answers HTTP/1: it is no HBONE agent, or the port is wrong";
	if (n >= 5 && (!memcmp(p, "GET /", 5) || !memcmp(p, "POST ", 5) || !memcmp(p, "HEAD ", 5) || !memcmp(p, "CONNE", 5)))
		return "the peer is an HTTP/1 client: who uses the tunnel port?";
	return NULL;
}

static int explain(struct WOLFSSL *ssl, int ret, const struct tls_ctx *t, const struct tls_frames *f, struct err *reterr)
{
	const char *foreign = f ? tls_foreign(f->first, f->n_first) : NULL;
	WOLFSSL_ALERT_HISTORY h = { .last_rx = { .code = -1 } };
	int e = wolfSSL_get_error(ssl, ret);
	char why[WOLFSSL_MAX_ERROR_SZ];

	if (foreign)
		return err_set(reterr, -EPROTO, "peer does not speak TLS: %s", foreign);
	switch (e) {
	case ASN_AFTER_DATE_E:
		return dates(true, reterr);
	case ASN_BEFORE_DATE_E:
		return dates(false, reterr);
	case ASN_NO_SIGNER_E:
	case ASN_SIG_CONFIRM_E:
	case ASN_SELF_SIGNED_E:
		return no_signer(t, reterr);
	case VERIFY_CERT_ERROR: /* what our own look at it says */
		return err_set(reterr, -EACCES, "peer's chain is longer than %u certificates or %u bytes", TLS_CHAIN_CERTS, TLS_CHAIN_MAX);
	case EXTKEYUSE_AUTH_E:
		return err_set(reterr, -EACCES, "peer's certificate has an extended key usage for one side only: an agent's has serverAuth "
						"and clientAuth");
	case NO_PEER_CERT:
		return err_set(reterr, -EACCES, "peer sent no certificate: is it an agent, or is a TLS proxy in between?");
	case UNKNOWN_ALPN_PROTOCOL_NAME_E:
		return err_set(reterr, -EPROTO, "peer does not offer ALPN h2: is it an HBONE agent?");
	case VERSION_ERROR:
		return err_set(reterr, -EPROTO, "peer does not speak TLS 1.3, only an older TLS: it is no HBONE agent, or the port is wrong");
	case UNKNOWN_RECORD_TYPE:
		return err_set(reterr, -EPROTO, "peer does not speak TLS 1.3 here: is the port right?");
	case SOCKET_ERROR_E: /* what wolfSSL says for FIN and RST alike, since its callbacks report them */
	case SOCKET_PEER_CLOSED_E:
		return err_set(reterr, -ECONNRESET, "peer closed the connection during the handshake%s",
			       *tls_own_fault(t)   ? tls_own_fault(t) :
			       f && f->n_first	   ? ": its log says why" : ", without a byte: is it an HBONE agent, or a firewall or load balancer?");
	}
	wolfSSL_get_alert_history(ssl, &h);
	if (h.last_rx.code > 0)
		return tls_alert_explain(h.last_rx.code, t, reterr);
	return err_set(reterr, -EPROTO, "TLS: %s", tls_reason(e, why));
}

int tls_explain(struct WOLFSSL *ssl, int ret, const struct tls_ctx *t, const struct tls_frames *f, struct err *reterr)
{
	int r = explain(ssl, ret, t, f, reterr);

	memset(&noted, 0, sizeof(noted));
	return r;
}
