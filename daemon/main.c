/*
 * aditd: options, configuration, signals. The main thread runs the admin API and waits; workers do the work.
 */
#include "admin/admin.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "config/config.h"
#include "control/applied.h"
#include "control/control.h"
#include "control/drain.h"
#include "control/notify.h"
#include "control/fdstore.h"
#include "control/upgrade.h"
#include "net/sock.h"
#include "obs/logging.h"
#include "policy/policy.h"
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>

#define TICK_MS 1000

#define DEFAULT_CONFIG "/etc/adit/adit.yaml"

struct options {
	const char *config, *level;
	bool check, upgrade;
	int mover;   /* -1: as configured */
	int workers; /* 0: as configured */
};

struct program {
	struct daemon *d;
	struct control ctl;
	struct admin *admin;
	struct notify notify;
	struct fdstore store;
	struct upgrade upgrade;
	struct adopt sockets; /* of others, while we start */
	int talk;	      /* with the daemon that we replace; -1: none */
	bool take_over;
	char **argv;
	_Atomic bool replaced; /* somebody else speaks with the service manager now */
	struct drain drain;
};

static const char help[] =
	"Usage: aditd [OPTION]...\n"
	"Carries TCP connections between nodes as HTTP/2 CONNECT streams in mutual-TLS tunnels.\n"
	"\n"
	"  -c, --config FILE    configuration (default " DEFAULT_CONFIG "; conf.d/*.yaml beside it is read, too)\n"
	"      --check FILE     check a configuration, its certificates included, and exit\n"
	"      --mover KIND     auto or relay: what may move bytes (default: as configured)\n"
	"      --workers N      worker threads (default: as configured)\n"
	"      --upgrade        take over from the daemon that runs, if one does: it drains then\n"
	"      --log-level L    error, warn, info or debug (default: as configured)\n"
	"  -f, --foreground     accepted for compatibility: aditd never forks\n"
	"      --version        print the version and exit\n"
	"  -h, --help           print this and exit\n"
	"\n"
	"Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT drain and end (twice: at once);\n"
	"SIGUSR1 reopens access and audit log.\n"
	"See aditd(8), adit.yaml(5), aditctl(1).\n";

static int options_parse(int argc, char **argv, struct options *o)
{
	enum { O_CHECK = 256, O_MOVER, O_WORKERS, O_LEVEL, O_VERSION, O_UPGRADE };
	static const struct option longs[] = {
		{ "config", required_argument, NULL, 'c' },	{ "check", required_argument, NULL, O_CHECK },
		{ "mover", required_argument, NULL, O_MOVER },	{ "workers", required_argument, NULL, O_WORKERS },
		{ "log-level", required_argument, NULL, O_LEVEL }, { "foreground", no_argument, NULL, 'f' },
		{ "upgrade", no_argument, NULL, O_UPGRADE },
		{ "version", no_argument, NULL, O_VERSION },	{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	char *end;
	int c;

	*o = (struct options){ .config = DEFAULT_CONFIG, .mover = -1 };
	while ((c = getopt_long(argc, argv, "c:fh", longs, NULL)) >= 0) {
		switch (c) {
		case 'c':
			o->config = optarg;
			break;
		case O_CHECK:
			o->config = optarg;
			o->check = true;
			break;
		case O_MOVER:
			o->mover = !strcmp(optarg, "relay") ? MOVER_RELAY : !strcmp(optarg, "auto") ? MOVER_AUTO : -2;
			if (o->mover == -2) {
				fprintf(stderr, "aditd: --mover '%s': want auto or relay\n", optarg);
				return 2;
			}
			break;
		case O_WORKERS:
			o->workers = (int)strtol(optarg, &end, 10);
			if (*end || o->workers < 1 || o->workers > 256) {
				fprintf(stderr, "aditd: --workers '%s': want 1..256\n", optarg);
				return 2;
			}
			break;
		case O_LEVEL:
			o->level = optarg;
			if (log_level_set("all", optarg) < 0) {
				fprintf(stderr, "aditd: --log-level '%s': want error, warn, info or debug\n", optarg);
				return 2;
			}
			break;
		case O_UPGRADE:
			o->upgrade = true;
			break;
		case 'f':
			break;
		case O_VERSION:
			printf("aditd %s, wolfSSL %s\n", ADIT_VERSION, tls_library());
			return -1;
		case 'h':
			fputs(help, stdout);
			return -1;
		default:
			fputs("Try 'aditd --help'.\n", stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "aditd: '%s': no arguments are expected\nTry 'aditd --help'.\n", argv[optind]);
		return 2;
	}
	return 0;
}

/* what of them is not plainly in force, and what they cost */
static void print_policies(const struct config *cfg)
{
	uint32_t allow = 0, dry = 0, elsewhere = 0;
	struct policy_cost cost;

	if (!cfg->n_policies) {
		printf("\n");
		return;
	}
	for (uint32_t i = 0; i < cfg->n_policies; i++) {
		allow += cfg->policies[i].action == POLICY_ALLOW;
		dry += cfg->policies[i].dry_run;
		elsewhere += cfg->policies[i].elsewhere;
	}
	policy_cost(cfg->policy_set, &cost);
	printf(" (%u allow, %u deny; %u in dry run, %u for other nodes; %u rules, %zu KiB, %u look-ups per decision", allow,
	       cfg->n_policies - allow, dry, elsewhere, cost.rules, (cost.bytes + 1023) / 1024, cost.lookups);
	if (cost.unindexed)
		printf(", and %u rules that every decision goes through", cost.unindexed);
	printf(")\n");
}

static void print_note(void *file, bool bad, const char *text)
{
	(void)bad;
	fprintf(stderr, "%s: warning: %s\n", (const char *)file, text);
}

static int check(const struct config *cfg, const char *file)
{
	uint64_t now = (uint64_t)time(NULL);
	struct err e = { "" }, warn;
	const struct tls_info *info;
	struct tls_ctx *t;
	char left[TLS_AGO];

	for (uint32_t i = 0; i < cfg->n_identities; i++) {
		if (tls_ctx_create(&t, &cfg->identities[i], &warn, &e) < 0) {
			fprintf(stderr, "%s: %s\n", file, e.msg);
			return 1;
		}
		tls_ctx_notes(t, now, print_note, (void *)(uintptr_t)file);
		info = tls_ctx_info(t);
		printf("%s: identity %s: %s, serial %s, %s %s\n", file, cfg->identities[i].name, tls_ctx_id(t), info->cert.serial,
		       info->cert.not_after >= now ? "expires in" : "expired since", tls_ago((int64_t)(info->cert.not_after - now), left));
		tls_ctx_put(t);
	}
	printf("%s: ok: %u listeners, %u clusters, %u identities, %u policies", file, cfg->n_listeners, cfg->n_clusters, cfg->n_identities,
	       cfg->n_policies);
	print_policies(cfg);
	return 0;
}

/* each connection takes two descriptors; the soft limit is for programs that use select(2) */
static void raise_descriptors(const struct config *cfg)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r))
		return;
	r.rlim_cur = r.rlim_max;
	sock_reserve(r.rlim_cur);
	if (setrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur / 2 < cfg->limits.max_connections)
		log_info(LA_MAIN, "descriptor limit %llu carries about %llu connections; limits.max_connections is %u (LimitNOFILE=, ulimit -n)",
			 (unsigned long long)r.rlim_cur, (unsigned long long)r.rlim_cur / 2, cfg->limits.max_connections);
}

static void drain(void *arg, uint64_t within_ms)
{
	struct program *p = arg;

	drain_begin(&p->drain, within_ms, true);
}

/* the manager waits for a reload that it asked for, and hears of the others; a refused one leaves us as ready as before */
static int reload_as(struct program *p, const char *why, struct text *ret_report, struct err *reterr)
{
	int r;

	notify_reloading(&p->notify);
	r = control_reload(&p->ctl, why, ret_report, reterr);
	if (r < 0)
		notify_ready(&p->notify, "ready; the last reload was refused: see the log");
	else
		notify_ready(&p->notify, "ready");
	return r;
}

static int reload(void *arg, struct text *ret_report, struct err *reterr)
{
	return reload_as(arg, "reload", ret_report, reterr);
}

static int upgrade(void *arg, const char *program, struct err *reterr)
{
	struct program *p = arg;

	return upgrade_spawn(&p->upgrade, program, reterr);
}

static void how_upgrade_is(void *arg, struct admin_upgrade *ret)
{
	const struct program *p = arg;

	upgrade_state(&p->upgrade, ret);
}

static int check_text(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	struct program *p = arg;
	struct config *c = NULL;
	int r;

	health_release(&p->d->health); /* it may take long, and touches nothing of ours */
	r = text ? config_parse(name, text, n, &c, reterr) : config_load(name, &c, reterr);
	health_hold(&p->d->health);
	config_free(c);
	return r;
}

/* the health thread's: the service manager hears of us only while everything turns */
static uint64_t watch_health(void *arg)
{
	struct program *p = arg;
	uint64_t tick = health_tick_ms(&p->d->health);

	if (health_watch(p->d) && !atomic_load(&p->replaced))
		notify_watchdog(&p->notify);
	return p->notify.watchdog_ms ? max_u64(min_u64(tick, p->notify.watchdog_ms / 2), 1) : tick;
}

/* Return: true to go on */
static bool on_signal(struct program *p, int sfd)
{
	struct signalfd_siginfo si;

	if (read(sfd, &si, sizeof(si)) != sizeof(si))
		return true;
	if (si.ssi_signo == SIGUSR1) {
		if (p->d->access_log)
			access_log_reopen(p->d->access_log);
		audit_reopen(p->ctl.audit);
		return true;
	}
	if (si.ssi_signo == SIGHUP) {
		struct err e = { "" };

		applied_signal(&p->ctl, &si, reload_as(p, "SIGHUP", NULL, &e), &e); /* it says what comes of it */
		return true;
	}
	if (p->drain.step != DRAIN_NOT) {
		log_warn(LA_MAIN, "second signal: ending at once");
		return false;
	}
	applied_signal(&p->ctl, &si, 0, NULL);
	drain(p, p->d->cfg->timeouts.drain_ms);
	return true;
}

static int watch(int ep, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
}

/* once a second, however busy the admin socket is */
static bool tick_due(void)
{
	static time_t last;
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	if (ts.tv_sec == last)
		return false;
	last = ts.tv_sec;
	return true;
}

/* another daemon has our sockets, and the manager's ear */
static void replaced(struct program *p)
{
	static const struct notify nobody = { .fd = -1 };

	atomic_store(&p->replaced, true);
	p->drain.notify = &nobody;
	drain_begin(&p->drain, p->d->cfg->timeouts.drain_ms, false);
}

static void serve(struct program *p, int sfd)
{
	AUTO_FD ep = epoll_create1(EPOLL_CLOEXEC);
	int afd = admin_fd(p->admin), kfd = kernel_fd(&p->d->kernel), wfd = control_watch_fd(&p->ctl), cfd = creds_fd(p->ctl.creds);
	int ufd = upgrade_fd(&p->upgrade);

	if (ep < 0 || watch(ep, sfd) || watch(ep, cfd) || watch(ep, p->d->drained_fd) || (afd >= 0 && watch(ep, afd)) || (kfd >= 0 && watch(ep, kfd)) ||
	    (wfd >= 0 && watch(ep, wfd)) || (ufd >= 0 && watch(ep, ufd))) {
		log_err(LA_MAIN, "epoll: %s", strerror(errno));
		return;
	}
	while (!daemon_drained(p->d)) {
		struct epoll_event ev;
		uint64_t wait = drain_tick(&p->drain);
		int got;

		health_main_beat(&p->d->health);
		if (tick_due()) {
			kernel_tick(&p->d->kernel);
			logging_tick();
			daemon_tick(p->d);
			creds_tick(p->ctl.creds);
			if (p->drain.step == DRAIN_NOT)
				fdstore_update(&p->store, p->d, p->admin, &p->notify);
			if (upgrade_run(&p->upgrade))
				replaced(p);
		}
		health_release(&p->d->health);
		got = epoll_wait(ep, &ev, 1, (int)min_u64(wait, TICK_MS));
		health_hold(&p->d->health);
		if (got < 1)
			continue;
		if (ev.data.fd == wfd)
			control_watch_run(&p->ctl);
		if (ev.data.fd == kfd)
			kernel_run(&p->d->kernel);
		if (ev.data.fd == sfd && !on_signal(p, sfd))
			return;
		if (ev.data.fd == cfd)
			creds_run(p->ctl.creds);
		if (ev.data.fd == ufd && upgrade_run(&p->upgrade))
			replaced(p);
		if (ev.data.fd == afd)
			admin_run(p->admin);
		if (ev.data.fd == p->d->drained_fd) {
			uint64_t n;

			(void)!read(p->d->drained_fd, &n, sizeof(n));
		}
	}
}

static void left_over(void *arg, const struct adopted *a)
{
	const struct program *p = arg;
	char s[ADDR_STR];

	fdstore_forget(&p->notify, a->name);

	log_warn(LA_MAIN, "socket '%s' at %s was handed to us, but no listener of the configuration is called so or listens there; it is closed",
		 a->name, a->path[0] ? a->path : addr_str(&a->at, s));
}

/* sockets of the service manager, and of the daemon that we replace. Return: 0 or -errno with the sentence. */
static int sockets_of_others(struct program *p, const struct config *cfg, struct err *reterr)
{
	int r = notify_inherit(&p->sockets, reterr);

	if (r < 0)
		return r;
	if (reterr->msg[0])
		log_warn(LA_MAIN, "%s", reterr->msg);
	if (!p->take_over)
		return 0;
	p->talk = upgrade_ask(cfg->admin_socket, &p->sockets, reterr);
	if (p->talk >= 0)
		return 0;
	if (p->talk != -ENOENT)
		return p->talk;
	log_warn(LA_MAIN, "%s; starting as usual", reterr->msg);
	return 0;
}

/* from here on people are answered */
static void answer(struct program *p, const struct admin_ops *ops)
{
	struct policy_ops policy_ops;

	applied_ops(&p->ctl, &policy_ops);
	admin_set_policies(p->admin, &policy_ops);
	admin_set_certs(p->admin, &(struct cert_ops){ .list = creds_list, .arg = p->ctl.creds });
	admin_set_ops(p->admin, ops);
}

/* from here on it is ours. Return: 0 or -errno with the sentence: it stays the other's */
static int take_over(struct program *p, const struct admin_ops *ops, struct err *reterr)
{
	int r = upgrade_ready(p->talk, reterr);

	if (r < 0)
		return r;
	daemon_open(p->d);
	answer(p, ops);
	upgrade_taken(p->talk);
	close(fd_take(&p->talk));
	return 0;
}

/* Return: 0, or -errno with the sentence */
static int begin(struct program *p, struct snapshot *first, const struct admin_ops *ops, struct err *reterr)
{
	const struct config *cfg = first->cfg;
	int r = sockets_of_others(p, cfg, reterr);

	if (r < 0) {
		snapshot_destroy(first);
		return r;
	}
	r = daemon_create_from(&p->d, first, &p->sockets, p->talk >= 0, reterr);
	if (r < 0)
		return r;
	p->ctl.d = p->d;
	health_hold(&p->d->health);
	drain_init(&p->drain, p->d, &p->notify);
	r = admin_start_from(&p->admin, p->d, cfg, &p->sockets, reterr);
	if (r == 0 && p->talk < 0)
		answer(p, ops);
	if (r == 0)
		r = daemon_start(p->d, reterr);
	if (r == 0 && p->talk >= 0)
		r = take_over(p, ops, reterr);
	if (r < 0 && p->talk >= 0) { /* what we have of it is the other's still */
		if (p->admin)
			admin_leave(p->admin);
		kernel_hand_over(&p->d->kernel);
	}
	if (r == 0)
		control_start(&p->ctl, p->d);
	adopt_rest(&p->sockets, r == 0 ? left_over : NULL, p);
	return r;
}

static int run(struct program *p, struct snapshot *first)
{
	struct admin_ops ops = { .drain = drain, .check = check_text, .reload = reload, .watch = watch_health, .upgrade = upgrade,
				 .upgrade_state = how_upgrade_is, .arg = p };
	const struct config *cfg = first->cfg;
	struct err e = { "" };
	sigset_t set;
	AUTO_FD sfd = -1;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	sfd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	raise_descriptors(cfg);
	if (notify_open(&p->notify, &e) < 0)
		log_warn(LA_MAIN, "%s; the service manager is told nothing", e.msg);
	r = sfd < 0 ? err_set(&e, -errno, "signalfd: %s", strerror(errno)) : 0;
	if (r < 0)
		snapshot_destroy(first);
	else
		r = begin(p, first, &ops, &e);
	if (r < 0 || !p->d) {
		log_err(LA_MAIN, "%s", e.msg);
	} else {
		log_info(LA_MAIN, "aditd %s ready: node %s, %u workers, wolfSSL %s", ADIT_VERSION, cfg->node.id, cfg->workers, tls_library());
		if (!tls_library_tuned())
			log_warn(LA_MAIN, "the packaged wolfSSL is many times slower than the tuned build: run make setup where it can be built");
		if (upgrade_open(&p->upgrade, p->d, p->admin, &p->notify, p->argv, &e) < 0)
			log_warn(LA_MAIN, "%s", e.msg);
		fdstore_update(&p->store, p->d, p->admin, &p->notify);
		notify_ready(&p->notify, "ready");
		serve(p, sfd);
		if (!atomic_load(&p->replaced))
			notify_stopping(&p->notify);
	}
	adopt_rest(&p->sockets, NULL, NULL);
	upgrade_close(&p->upgrade);
	fdstore_finish(&p->store);
	if (p->d)
		health_release(&p->d->health); /* or a scrape would hold up the next line */
	admin_stop(p->admin);
	daemon_destroy(p->d);
	notify_close(&p->notify);
	if (r == 0)
		log_info(LA_MAIN, "ended");
	return r < 0;
}

int main(int argc, char **argv)
{
	struct options o;
	struct program p = { .talk = -1, .argv = argv, .upgrade = { .listen = -1, .peer = -1, .epoll = -1 } };
	struct control_override over;
	struct snapshot *first = NULL;
	struct config *cfg = NULL;
	struct err e = { "" };
	int r;

	log_init(STDERR_FILENO, LOG_TEXT, LOG_INFO);
	r = options_parse(argc, argv, &o);
	if (r)
		return r < 0 ? 0 : r;
	over = (struct control_override){ .workers = (uint32_t)o.workers, .mover = o.mover };
	if (o.check) {
		r = config_load(o.config, &cfg, &e);
		if (r == 0)
			r = check(cfg, o.config);
		else
			fprintf(stderr, "aditd: %s\n", e.msg);
		config_free(cfg);
		return r != 0;
	}
	p.take_over = o.upgrade;
	r = control_open(&p.ctl, o.config, &over, &first, &e);
	if (r < 0) {
		fprintf(stderr, "aditd: %s\n", e.msg);
		return 1;
	}
	logging_start(first->cfg, o.level);
	r = run(&p, first);
	control_close(&p.ctl);
	return r;
}
