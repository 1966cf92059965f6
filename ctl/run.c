/*
 * The command line: options may stand before and after the command; one table says what commands there are and what each
 * takes, help.c says it to people. An option that a command does not take is refused, not ignored.
 *
 * --watch runs the command again and again; it ends with the first error, so that a script that watches notices when the
 * daemon is gone.
 */
#include "base/clean.h"
#include "ctl.h"
#include "help.h"
#include "human.h"
#include <adit/admin.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

static ctl_command cmd_help;

#define TAKES_POLICY (TAKES_WATCH | TAKES_FILE | TAKES_DRY_RUN | TAKES_GENERATION | TAKES_PRUNE | TAKES_CONFIG | TAKES_EXPLAIN | \
		      TAKES_LISTENER)

static const struct {
	const char *name;
	ctl_command *run;
	unsigned int takes; /* enum ctl_takes */
	uint32_t words;	    /* at the most */
} commands[] = {
	{"status", cmd_status, TAKES_WATCH, 0},
	{"listener", cmd_listener, TAKES_WATCH, 0},
	{"chain", cmd_chain, 0, 0},
	{"cluster", cmd_cluster, TAKES_WATCH, 0},
	{"tunnel", cmd_tunnel, TAKES_WATCH | TAKES_LIMIT | TAKES_PEER, 0},
	{"conn", cmd_conn, TAKES_WATCH | TAKES_LIMIT | TAKES_LISTENER | TAKES_PEER, 2},
	{"policy", cmd_policy, TAKES_POLICY, 2},
	{"audit", cmd_audit, TAKES_LIMIT, 0},
	{"denied", cmd_denied, TAKES_LIMIT | TAKES_LISTENER | TAKES_SINCE | TAKES_FOLLOW, 0},
	{"kernel", cmd_kernel, TAKES_WATCH, 2},
	{"cert", cmd_cert, TAKES_WATCH, 1},
	{"workload", cmd_workload, TAKES_WATCH, 0},
	{"limits", cmd_limits, TAKES_WATCH | TAKES_LIMIT, 0},
	{"stats", cmd_stats, TAKES_WATCH, 1},
	{"log", cmd_log, TAKES_FOR, CTL_WORDS},
	{"trace", cmd_trace, TAKES_LEVEL | TAKES_FOR | TAKES_COUNT, 2},
	{"log-level", cmd_log_level, 0, CTL_WORDS},
	{"config", cmd_config, 0, 2},
	{"reload", cmd_reload, 0, 0},
	{"drain", cmd_drain, TAKES_WITHIN | TAKES_NO_WAIT, 0},
	{"upgrade", cmd_upgrade, TAKES_NO_WAIT, 1},
	{"metrics", cmd_metrics, 0, 0},
	{"version", cmd_version, 0, 0},
	{"help", cmd_help, 0, 1},
};

enum option_id {
	OPT_SOCKET,
	OPT_OUTPUT,
	OPT_HELP,
	OPT_VERSION,
	OPT_WATCH,
	OPT_LIMIT,
	OPT_LISTENER,
	OPT_PEER,
	OPT_WITHIN,
	OPT_NO_WAIT,
	OPT_LEVEL,
	OPT_FOR,
	OPT_COUNT,
	OPT_FILE,
	OPT_DRY_RUN,
	OPT_GENERATION,
	OPT_PRUNE,
	OPT_CONFIG,
	OPT_SRC,
	OPT_DST,
	OPT_PRINCIPAL,
	OPT_AUTHORITY,
	OPT_HEADER,
	OPT_METADATA,
	OPT_SINCE,
	OPT_FOLLOW
};
enum option_arg { ARG_NONE, ARG_NEEDED, ARG_MAYBE /* only as --name=value */ };

static const struct {
	const char *name;
	char letter; /* 0: none */
	enum option_arg arg;
	unsigned int takes; /* 0: always */
} options[] = {
	[OPT_SOCKET] = {"socket", 's', ARG_NEEDED, 0},
	[OPT_OUTPUT] = {"output", 'o', ARG_NEEDED, 0},
	[OPT_HELP] = {"help", 'h', ARG_NONE, 0},
	[OPT_VERSION] = {"version", 'V', ARG_NONE, 0},
	[OPT_WATCH] = {"watch", 'w', ARG_MAYBE, TAKES_WATCH},
	[OPT_LIMIT] = {"limit", 'n', ARG_NEEDED, TAKES_LIMIT},
	[OPT_LISTENER] = {"listener", 'l', ARG_NEEDED, TAKES_LISTENER},
	[OPT_PEER] = {"peer", 'p', ARG_NEEDED, TAKES_PEER},
	[OPT_WITHIN] = {"within", 0, ARG_NEEDED, TAKES_WITHIN},
	[OPT_NO_WAIT] = {"no-wait", 0, ARG_NONE, TAKES_NO_WAIT},
	[OPT_LEVEL] = {"level", 0, ARG_NEEDED, TAKES_LEVEL},
	[OPT_FOR] = {"for", 0, ARG_NEEDED, TAKES_FOR},
	[OPT_COUNT] = {"count", 0, ARG_NEEDED, TAKES_COUNT},
	[OPT_FILE] = {"file", 'f', ARG_NEEDED, TAKES_FILE},
	[OPT_DRY_RUN] = {"dry-run", 0, ARG_NONE, TAKES_DRY_RUN},
	[OPT_GENERATION] = {"if-generation", 0, ARG_NEEDED, TAKES_GENERATION},
	[OPT_PRUNE] = {"prune", 0, ARG_NONE, TAKES_PRUNE},
	[OPT_CONFIG] = {"config", 'c', ARG_NEEDED, TAKES_CONFIG},
	[OPT_SRC] = {"src", 0, ARG_NEEDED, TAKES_EXPLAIN},
	[OPT_DST] = {"dst", 0, ARG_NEEDED, TAKES_EXPLAIN},
	[OPT_PRINCIPAL] = {"principal", 0, ARG_NEEDED, TAKES_EXPLAIN},
	[OPT_AUTHORITY] = {"authority", 0, ARG_NEEDED, TAKES_EXPLAIN},
	[OPT_HEADER] = {"header", 0, ARG_NEEDED, TAKES_EXPLAIN},
	[OPT_METADATA] = {"metadata", 0, ARG_NEEDED, TAKES_EXPLAIN},
	[OPT_SINCE] = {"since", 0, ARG_NEEDED, TAKES_SINCE},
	[OPT_FOLLOW] = {"follow", 'f', ARG_NONE, TAKES_FOLLOW},
};

struct parse {
	int argc, at; /* at: next word */
	char **argv;
	size_t command;	   /* index; ARRAY_LEN(commands): none yet */
	unsigned int used; /* enum ctl_takes of the options given */
	bool help, version;
};

static size_t command_find(const char *s)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(commands) && strcmp(commands[i].name, s); i++)
		;
	return i;
}

static int cmd_help(struct ctl *c)
{
	struct text out = {0};
	const char *of = c->n_words ? c->word[0] : NULL;

	if (of && command_find(of) == ARRAY_LEN(commands))
		return ctl_usage(c, "no command '%s'", of);
	text_add(&out, help_text(of));
	return ctl_print(c, &out);
}

/* ---- options ---- */

static int option_output(struct ctl *c, const char *v)
{
	static const char *const names[] = {[OUT_TABLE] = "table", [OUT_JSON] = "json", [OUT_WIDE] = "wide"};

	for (uint32_t i = 0; i < ARRAY_LEN(names); i++) {
		if (!v || strcmp(names[i], v))
			continue;
		c->output = i;
		return CTL_OK;
	}
	return ctl_usage(c, "-o '%s': want table, json or wide", v ? v : "");
}

static int option_watch(struct ctl *c, const char *v)
{
	char *end;
	double s = v ? strtod(v, &end) : 2;

	if (v && (end == v || (*end && strcmp(end, "s")) || !(s >= 0.1 && s <= 86400)))
		return ctl_usage(c, "--watch=%s: want seconds, at least 0.1", v);
	c->watch_ms = (uint64_t)(s * 1000);
	return CTL_OK;
}

/* may be given again and again */
static int option_pair(struct ctl *c, const char *name, const char *list[CTL_PAIRS], uint32_t *n, const char *v)
{
	if (*n == CTL_PAIRS)
		return ctl_usage(c, "--%s: at most %u of them", name, CTL_PAIRS);
	if (!strchr(v, '=') || v[0] == '=')
		return ctl_usage(c, "--%s '%s': want NAME=VALUE", name, v);
	list[(*n)++] = v;
	return CTL_OK;
}

static int option_set(struct ctl *c, struct parse *p, enum option_id id, const char *v)
{
	p->used |= options[id].takes;
	switch (id) {
	case OPT_SOCKET: c->socket = v; break;
	case OPT_OUTPUT: return option_output(c, v);
	case OPT_HELP: p->help = true; break;
	case OPT_VERSION: p->version = true; break;
	case OPT_WATCH: return option_watch(c, v);
	case OPT_LIMIT: c->limit = v; break;
	case OPT_LISTENER: c->listener = v; break;
	case OPT_PEER: c->peer = v; break;
	case OPT_WITHIN: c->within = v; break;
	case OPT_NO_WAIT: c->no_wait = true; break;
	case OPT_LEVEL: c->level = v; break;
	case OPT_FOR: c->for_time = v; break;
	case OPT_COUNT: c->count = v; break;
	case OPT_FILE: c->file = v; break;
	case OPT_DRY_RUN: c->dry_run = true; break;
	case OPT_GENERATION: c->if_generation = v; break;
	case OPT_PRUNE: c->prune = true; break;
	case OPT_CONFIG: c->config = v; break;
	case OPT_SRC: c->src = v; break;
	case OPT_DST: c->dst = v; break;
	case OPT_PRINCIPAL: c->principal = v; break;
	case OPT_AUTHORITY: c->authority = v; break;
	case OPT_HEADER: return option_pair(c, "header", c->header, &c->n_headers, v);
	case OPT_METADATA: return option_pair(c, "metadata", c->member, &c->n_members, v);
	case OPT_SINCE: c->since = v; break;
	case OPT_FOLLOW: c->follow = true; break;
	}
	return CTL_OK;
}

/* What follows the option's name, or the next word. Return: false when it is missing. */
static bool option_value(struct parse *p, const char *rest, const char **ret)
{
	if (rest && *rest) {
		*ret = rest;
		return true;
	}
	if (p->at == p->argc)
		return false;
	*ret = p->argv[p->at++];
	return true;
}

static int option_long(struct ctl *c, struct parse *p, const char *s)
{
	const char *eq = strchr(s, '='), *v = eq ? eq + 1 : NULL;
	const size_t n = eq ? (size_t)(eq - s) : strlen(s);

	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (strlen(options[i].name) != n || memcmp(options[i].name, s, n))
			continue;
		if (options[i].arg == ARG_NONE && v)
			return ctl_usage(c, "--%s takes no value", options[i].name);
		if (options[i].arg == ARG_NEEDED && !option_value(p, v, &v))
			return ctl_usage(c, "--%s: value missing", options[i].name);
		return option_set(c, p, i, v);
	}
	return ctl_usage(c, "unknown option --%.*s", (int)n, s);
}

/* -f is --file of one command and --follow of another: which it is, the command says when it came before */
static bool letter_is(const struct parse *p, size_t i)
{
	unsigned int takes = p->command < ARRAY_LEN(commands) ? commands[p->command].takes : 0;

	for (size_t k = 0; k < ARRAY_LEN(options); k++)
		if (k != i && options[k].letter == options[i].letter && (options[k].takes & takes))
			return false;
	return true;
}

static int option_short(struct ctl *c, struct parse *p, const char *s)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		const char *v = NULL;

		if (!options[i].letter || options[i].letter != s[0] || !letter_is(p, i))
			continue;
		if (options[i].arg != ARG_NEEDED && s[1])
			return ctl_usage(c, "-%c takes no value; options are not combined", s[0]);
		if (options[i].arg == ARG_NEEDED && !option_value(p, s + 1, &v))
			return ctl_usage(c, "-%c: value missing", s[0]);
		return option_set(c, p, i, v);
	}
	return ctl_usage(c, "unknown option -%c", s[0]);
}

static int word_set(struct ctl *c, struct parse *p, const char *s)
{
	if (p->command == ARRAY_LEN(commands)) {
		p->command = command_find(s);
		if (p->command == ARRAY_LEN(commands))
			return ctl_usage(c, "no command '%s'", s);
		c->command = commands[p->command].name;
		return CTL_OK;
	}
	if (c->n_words == CTL_WORDS)
		return ctl_usage(c, "too many arguments");
	c->word[c->n_words++] = s;
	return CTL_OK;
}

static int line_parse(struct ctl *c, struct parse *p)
{
	bool only_words = false;
	int r = CTL_OK;

	while (r == CTL_OK && p->at < p->argc) {
		const char *s = p->argv[p->at++];

		if (only_words || s[0] != '-' || !s[1])
			r = word_set(c, p, s);
		else if (!strcmp(s, "--"))
			only_words = true;
		else if (s[1] == '-')
			r = option_long(c, p, s + 2);
		else
			r = option_short(c, p, s + 1);
	}
	return r;
}

/* Does the command take what was given? */
static int line_check(struct ctl *c, const struct parse *p)
{
	const unsigned int wrong = p->used & ~commands[p->command].takes;

	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (options[i].takes & wrong)
			return ctl_usage(c, "does not take --%s", options[i].name);
	if (c->n_words > commands[p->command].words)
		return ctl_usage(c, "unexpected '%s'", c->word[commands[p->command].words]);
	if (c->watch_ms && c->n_words && commands[p->command].run == cmd_conn && strcmp(c->word[0], "list"))
		return ctl_usage(c, "--watch is for the list");
	if (c->watch_ms && c->n_words && commands[p->command].run == cmd_policy && strcmp(c->word[0], "list"))
		return ctl_usage(c, "--watch is for the list");
	if (c->watch_ms && c->n_words && commands[p->command].run == cmd_kernel)
		return ctl_usage(c, "--watch is for the table");
	return CTL_OK;
}

/* ---- running ---- */

static int run_watch(struct ctl *c, ctl_command *run)
{
	const struct timespec wait = {.tv_sec = (time_t)(c->watch_ms / 1000),
				      .tv_nsec = (long)(c->watch_ms % 1000) * 1000000};
	int r;

	for (;;) {
		if (c->clear)
			fputs("\033[H\033[2J", c->out);
		r = run(c);
		if (r != CTL_OK)
			return r;
		if (!c->clear && c->output != OUT_JSON)
			fputc('\n', c->out);
		if (fflush(c->out) != 0)
			return CTL_FAILED;
		nanosleep(&wait, NULL);
	}
}

static void terminal_look(struct ctl *c)
{
	const int fd = fileno(c->out);
	struct winsize ws;

	if (fd < 0 || !isatty(fd))
		return;
	c->clear = c->output != OUT_JSON;
	if (ioctl(fd, TIOCGWINSZ, &ws) == 0)
		c->width = ws.ws_col;
}

int ctl_run(int argc, char **argv, FILE *out, FILE *err)
{
	const char *env = getenv(ADIT_ADMIN_SOCKET_ENV);
	struct ctl c = {.out = out, .err = err, .socket = env && *env ? env : ADIT_ADMIN_SOCKET};
	struct parse p = {.argc = argc, .at = 1, .argv = argv, .command = ARRAY_LEN(commands)};
	int r = line_parse(&c, &p);

	if (r != CTL_OK)
		return r;
	if (p.help) {
		c.word[0] = c.command;
		c.n_words = c.command ? 1 : 0;
		return cmd_help(&c);
	}
	if (p.version)
		return cmd_version(&c);
	if (!c.command) {
		fputs(help_text(NULL), err);
		return CTL_USAGE;
	}
	r = line_check(&c, &p);
	if (r != CTL_OK)
		return r;
	c.used = p.used;
	terminal_look(&c);
	return c.watch_ms ? run_watch(&c, commands[p.command].run) : commands[p.command].run(&c);
}
