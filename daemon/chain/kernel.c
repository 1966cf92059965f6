/*
 * What the kernel can do here, found out once at start, and said to people. Each means is probed on its own; one that is
 * configured `on` and missing keeps the daemon from starting, all others are gone without.
 */
#include "chain/kernel.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "chain/inspect.h"
#include "tls/ktls.h"
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* Return: 0, or @r with the sentence when @must */
static int missing(struct kernel *k, enum kernel_means m, int r, const char *name, bool must, struct err *reterr)
{
	if (must)
		return err_set(reterr, r, "%s: %s", name, k->why[m].msg);
	log_info(LA_MAIN, "%s: %s; going without", name, k->why[m].msg);
	return 0;
}

static int probe_bypass(struct kernel *k, const struct config *cfg, struct err *reterr)
{
	struct err *why = &k->why[KERNEL_BYPASS];
	int r;

	if (cfg->mover == MOVER_RELAY || !cfg->kernel.bypass.enabled) {
		err_set(why, 0, "%s", cfg->mover == MOVER_RELAY ? "mover: relay" : "kernel.bypass.enabled is false");
		return 0;
	}
	r = bypass_create(&k->bypass, &cfg->kernel, why);
	if (r == 0)
		bypass_hold_legs(k->bypass);
	if (r < 0) {
		k->bypass = NULL;
		return missing(k, KERNEL_BYPASS, r, "bypass", false, reterr);
	}
	return 0;
}

static int probe_splice(struct kernel *k, const struct config *cfg)
{
	int p[2];

	if (cfg->mover == MOVER_RELAY || cfg->kernel.splice == SWITCH_OFF) {
		err_set(&k->why[KERNEL_SPLICE], 0, "%s", cfg->mover == MOVER_RELAY ? "mover: relay" : "kernel.splice: off");
		return 0;
	}
	if (pipe(p)) {
		err_set(&k->why[KERNEL_SPLICE], 0, "pipe: %s", strerror(errno));
		return 0;
	}
	close(p[0]);
	close(p[1]);
	k->splice = true;
	return 0;
}

static int probe_ktls(struct kernel *k, const struct config *cfg, struct err *reterr)
{
	int r;

	if (cfg->mover == MOVER_RELAY || cfg->kernel.ktls == SWITCH_OFF) {
		err_set(&k->why[KERNEL_KTLS], 0, "%s", cfg->mover == MOVER_RELAY ? "mover: relay" : "kernel.ktls: off");
		return 0;
	}
	r = ktls_probe(&k->why[KERNEL_KTLS]);
	k->ktls = r == 0;
	return r < 0 ? missing(k, KERNEL_KTLS, r, "kTLS", cfg->kernel.ktls == SWITCH_ON, reterr) : 0;
}

int kernel_probe(struct kernel *k, const struct config *cfg, struct err *reterr)
{
	int r = probe_bypass(k, cfg, reterr);

	if (r == 0)
		r = probe_splice(k, cfg);
	if (r == 0)
		r = probe_ktls(k, cfg, reterr);
	if (r == 0 && local_create(&k->local, &k->why[KERNEL_LOCAL]) < 0) {
		k->local = NULL;
		(void)missing(k, KERNEL_LOCAL, 0, "netlink", false, reterr);
	}
	if (r == 0)
		foreign_start(k, cfg);
	return r;
}

static int listener_fd(void *arg, uint32_t i, uint32_t w)
{
	const struct daemon *d = arg;

	return d->workers[w].listeners[d->cfg->listeners[i].slot]->fd;
}

int kernel_attach(struct daemon *d, struct err *reterr)
{
	struct kernel *k = &d->kernel;

	if (capture_create(&k->capture, d->cfg, listener_fd, d, &k->why[KERNEL_CAPTURE]) < 0) {
		k->capture = NULL;
		log_err(LA_MAIN, "capture: %s; only connections made to the listeners themselves are taken", k->why[KERNEL_CAPTURE].msg);
	}
	if (steer_create(&k->steer, d->cfg, listener_fd, d, &k->why[KERNEL_STEER]) < 0) {
		k->steer = NULL;
		log_err(LA_MAIN, "steer: %s; only connections to the listeners' own addresses are taken", k->why[KERNEL_STEER].msg);
	}
	(void)reterr;
	return 0;
}

void kernel_hand_over(struct kernel *k)
{
	capture_hand_over(k->capture);
	local_hand_over(k->local);
}

static bool captures(const struct config *c)
{
	for (uint32_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].capture)
			return true;
	return false;
}

static bool steers(const struct config *c)
{
	for (uint32_t i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].steer)
			return true;
	return false;
}

/* the new programs are in their places before the old ones go: nobody who connects meanwhile is lost */
static void renew_steer(struct daemon *d)
{
	struct kernel *k = &d->kernel;
	struct err why = {""};
	struct steer *s;

	if (steer_create(&s, d->cfg, listener_fd, d, &why) < 0) {
		log_err(LA_MAIN, "steer: %s; it stays as it was", why.msg);
		k->why[KERNEL_STEER] = why;
		return;
	}
	steer_destroy(k->steer);
	k->steer = s;
	k->why[KERNEL_STEER] = why;
}

static void renew_capture(struct daemon *d)
{
	struct kernel *k = &d->kernel;
	struct err why = {""};
	int r = k->capture ? capture_renew(k->capture, d->cfg, &why) : capture_create(&k->capture, d->cfg, listener_fd, d, &why);

	if (r < 0)
		log_err(LA_MAIN, "capture: %s; only what was captured before, or connects to the listeners themselves, is taken", why.msg);
	k->why[KERNEL_CAPTURE] = why;
}

void kernel_renew(struct daemon *d, const struct config *old)
{
	if (d->cfg == old)
		return;
	if (captures(old) || captures(d->cfg))
		renew_capture(d);
	else if (d->kernel.capture)
		capture_keep(d->kernel.capture, d->cfg);
	if (steers(old) || steers(d->cfg))
		renew_steer(d);
	foreign_start(&d->kernel, d->cfg);
}

void kernel_finish(struct kernel *k, bool keep)
{
	steer_destroy(TAKE(k->steer));
	capture_destroy(TAKE(k->capture), keep);
	bypass_destroy(TAKE(k->bypass));
	foreign_finish(k);
	local_destroy(TAKE(k->local));
}

int kernel_fd(const struct kernel *k)
{
	return k->local ? local_fd(k->local) : -1;
}

void kernel_run(struct kernel *k)
{
	if (k->local)
		local_run(k->local);
}

void kernel_tick(struct kernel *k)
{
	if (k->capture)
		capture_age(k->capture);
	if (k->local)
		local_tick(k->local);
	foreign_tick(k);
}

/* ---- for people ---- */

static void row(struct kernel_row *r, const char *name, const char *state, const char *why)
{
	memset(r, 0, sizeof(*r));
	snprintf(r->name, sizeof(r->name), "%s", name);
	snprintf(r->state, sizeof(r->state), "%s", state);
	snprintf(r->why, sizeof(r->why), "%s", why);
}

/* off: so configured; missing: asked for and not to be had; idle: nothing asks for it */
static const char *absent(const struct config *cfg, const struct err *why, bool configured)
{
	if (cfg->mover == MOVER_RELAY && !strcmp(why->msg, "mover: relay"))
		return "off";
	return !configured ? "off" : why->msg[0] ? "missing" : "idle";
}

static void bypass_rows(const struct kernel *k, const struct config *cfg, struct kernel_row *r, struct kernel_row *evidence)
{
	const char *why = k->why[KERNEL_BYPASS].msg;
	struct bypass_info n;

	if (!k->bypass) {
		row(r, "bypass", absent(cfg, &k->why[KERNEL_BYPASS], cfg->kernel.bypass.enabled), why);
		row(evidence, "evidence", r->state, why);
		return;
	}
	bypass_info(k->bypass, &n);
	row(r, "bypass", n.switched_on ? "on" : "off", n.switched_on ? "" : "switched off by an operator: aditctl kernel bypass on");
	snprintf(r->detail, sizeof(r->detail), "%u joined, %llu joins, %llu legs, %llu MB redirected; maps %s; self-test %s", n.joined,
		 (unsigned long long)n.joins, (unsigned long long)n.legs, (unsigned long long)(n.bytes / 1000000),
		 n.shared ? "shared with other agents" : "our own", n.self_test);
	row(evidence, "evidence", n.evidence ? "on" : cfg->kernel.bypass.evidence == SWITCH_OFF ? "off" : "missing",
	    n.evidence				       ? "" :
	    cfg->kernel.bypass.evidence == SWITCH_OFF ? "kernel.bypass.evidence: off" :
							 "this kernel offers no fentry on tcp_bpf_recvmsg: the allow-list alone decides");
}

static void capture_row(const struct kernel *k, struct kernel_row *r)
{
	struct capture_info n;

	if (!k->capture) {
		row(r, "capture", k->why[KERNEL_CAPTURE].msg[0] ? "missing" : "idle",
		    k->why[KERNEL_CAPTURE].msg[0] ? k->why[KERNEL_CAPTURE].msg : "no listener has `capture`");
		return;
	}
	capture_info(k->capture, &n);
	if (!n.rules) {
		row(r, "capture", n.private[0] ? "missing" : "idle", n.private[0] ? n.private : "no listener has `capture`");
		return;
	}
	row(r, "capture", "on", n.private);
	snprintf(r->detail, sizeof(r->detail),
		 "%u rules, %llu captured, %llu claimed, %llu never claimed, %u pending, %llu excluded, %llu let through and %llu refused while "
		 "away",
		 n.rules, (unsigned long long)n.captured, (unsigned long long)n.claimed, (unsigned long long)n.unclaimed, n.pending,
		 (unsigned long long)n.excluded, (unsigned long long)n.failed_open, (unsigned long long)n.failed_closed);
}

static void steer_row(const struct kernel *k, struct kernel_row *r)
{
	struct steer_info n;

	if (!k->steer) {
		row(r, "steer", k->why[KERNEL_STEER].msg[0] ? "missing" : "idle",
		    k->why[KERNEL_STEER].msg[0] ? k->why[KERNEL_STEER].msg : "no listener has `steer`");
		return;
	}
	steer_info(k->steer, &n);
	row(r, "steer", "on", n.note);
	snprintf(r->detail, sizeof(r->detail), "%u rules in %u namespaces, %llu connections", n.rules, n.namespaces,
		 (unsigned long long)n.steered);
}

static void local_row(const struct kernel *k, struct kernel_row *r)
{
	struct local_info n;

	if (!k->local) {
		row(r, "netlink", "missing", k->why[KERNEL_LOCAL].msg);
		return;
	}
	local_info(k->local, &n);
	row(r, "netlink", "on", "");
	snprintf(r->detail, sizeof(r->detail), "%u addresses, %u routes, %u policy rules of ours, %llu changes", n.addresses, n.routes,
		 n.rules, (unsigned long long)n.changes);
}

static void transparent_row(const struct kernel *k, struct kernel_row *r)
{
	const char *why = k->why[KERNEL_TRANSPARENT].msg;
	struct local_info n = { 0 };

	if (k->local)
		local_info(k->local, &n);
	row(r, "transparent", n.rules ? "on" : why[0] ? "missing" : "idle", why[0] || n.rules ? why : "no cluster has `source: client`");
	if (!n.rules)
		return;
	snprintf(r->detail, sizeof(r->detail), "mark %#x, rule %u, table %u, %u in force; ", LOCAL_MARK, LOCAL_PREF, LOCAL_TABLE, n.rules);
	foreign_text(k, r->detail + strlen(r->detail), sizeof(r->detail) - strlen(r->detail));
}

int inspect_kernel(struct daemon *d, struct kernel_row **ret, size_t *ret_n, const char **ret_release)
{
	static struct utsname u;
	const struct kernel *k = &d->kernel;
	struct kernel_row *r = calloc(8, sizeof(*r));
	struct stats s;

	if (!r)
		return -ENOMEM;
	if (!u.release[0])
		(void)uname(&u);
	inspect_stats(d, &s);
	bypass_rows(k, d->cfg, &r[0], &r[1]);
	capture_row(k, &r[2]);
	steer_row(k, &r[3]);
	row(&r[4], "splice", k->splice ? "on" : absent(d->cfg, &k->why[KERNEL_SPLICE], d->cfg->kernel.splice != SWITCH_OFF),
	    k->why[KERNEL_SPLICE].msg);
	if (k->splice)
		snprintf(r[4].detail, sizeof(r[4].detail), "%llu MB moved", (unsigned long long)(s.c[ST_SPLICED_BYTES] / 1000000));
	row(&r[5], "ktls", k->ktls ? "on" : absent(d->cfg, &k->why[KERNEL_KTLS], d->cfg->kernel.ktls != SWITCH_OFF), k->why[KERNEL_KTLS].msg);
	if (k->ktls)
		snprintf(r[5].detail, sizeof(r[5].detail), "%s; %llu tunnels sealed, %llu opened by the kernel, %llu refused",
			 ktls_ciphers((char[96]){ 0 }, 96), (unsigned long long)s.c[ST_KTLS_TX], (unsigned long long)s.c[ST_KTLS_RX],
			 (unsigned long long)s.c[ST_KTLS_REFUSED]);
	local_row(k, &r[6]);
	transparent_row(k, &r[7]);
	*ret = r;
	*ret_n = 8;
	*ret_release = u.release;
	return 0;
}

void inspect_kernel_numbers(struct daemon *d, struct kernel_numbers *ret)
{
	const struct kernel *k = &d->kernel;

	*ret = (struct kernel_numbers){.has_bypass = k->bypass, .has_capture = k->capture, .has_steer = k->steer};
	if (k->bypass)
		bypass_info(k->bypass, &ret->bypass);
	if (k->capture)
		capture_info(k->capture, &ret->capture);
	if (k->steer)
		steer_info(k->steer, &ret->steer);
}

int inspect_bypass(struct daemon *d, bool on)
{
	if (!d->kernel.bypass)
		return -ENOENT;
	bypass_switch(d->kernel.bypass, on);
	log_info(LA_MAIN, "bypass switched %s", on ? "on by an operator" : "off by an operator: joined connections go by TCP from now on");
	return 0;
}
