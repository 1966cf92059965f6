/*
 * What the commands of aditctl share: the options, one call to the daemon, reading its JSON, and saying what went wrong.
 * All output goes through struct ctl, so tests can read it.
 */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include <jansson.h>
#include <stdio.h>

enum ctl_exit {
	CTL_OK = 0,
	CTL_FAILED = 1,	     /* the daemon refused, the check found an error */
	CTL_USAGE = 2,	     /* wrong command line */
	CTL_UNREACHABLE = 3, /* no daemon answers */
};

enum ctl_output { OUT_TABLE, OUT_JSON, OUT_WIDE };

#define CTL_WORDS 4u
#define CTL_PAIRS 16u /* --header, and --metadata */

struct ctl {
	FILE *out, *err;
	const char *socket;
	enum ctl_output output;
	uint32_t width;	     /* of the terminal, 0: none */
	bool clear;	     /* --watch clears the screen */
	const char *command; /* for messages */
	/* options that some commands take; NULL: not given */
	const char *limit, *listener, *peer, *within;
	bool no_wait;
	const char *file, *if_generation, *config;
	bool dry_run, prune;
	unsigned int used;	     /* enum ctl_takes of the options given */
	const char *src, *dst, *principal, *authority, *since;
	const char *header[CTL_PAIRS], *member[CTL_PAIRS]; /* NAME=VALUE */
	uint32_t n_headers, n_members;
	bool follow;
	const char *level, *for_time, *count;
	uint64_t watch_ms;	     /* 0: once */
	const char *word[CTL_WORDS]; /* what followed the command */
	uint32_t n_words;
};

/* which options a command takes */
enum ctl_takes {
	TAKES_WATCH = 1,
	TAKES_LIMIT = 2,
	TAKES_LISTENER = 4,
	TAKES_PEER = 8,
	TAKES_WITHIN = 16,
	TAKES_FILE = 32,
	TAKES_DRY_RUN = 64,
	TAKES_GENERATION = 128,
	TAKES_PRUNE = 256,
	TAKES_CONFIG = 512,
	TAKES_NO_WAIT = 1 << 14,
	TAKES_EXPLAIN = 1 << 16, /* --src and what else describes a connection */
	TAKES_SINCE = 1 << 17,
	TAKES_FOLLOW = 1 << 18,
	TAKES_LEVEL = 1 << 20,
	TAKES_FOR = 1 << 21,
	TAKES_COUNT = 1 << 22,
};

/** ctl_run() - the program without main(). Return: enum ctl_exit. */
int ctl_run(int argc, char **argv, FILE *out, FILE *err);

/** ctl_fail() - "aditctl: ..." on err. Return: @code. */
int ctl_fail(struct ctl *c, enum ctl_exit code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/** ctl_usage() - the same, and where to find help. Return: CTL_USAGE. */
int ctl_usage(struct ctl *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/**
 * ctl_call() - ask the daemon
 * @ret:	the JSON, json_decref() it; NULL when it was printed already (-o json), or when @ret is NULL
 * Return: enum ctl_exit; what is not CTL_OK has been said.
 */
int ctl_call(struct ctl *c, const char *method, const char *path, const char *body, json_t **ret);
/** ctl_refused() - what a refusal says, on err. Return: CTL_FAILED. */
struct http_answer;
int ctl_refused(struct ctl *c, const struct http_answer *a);
/** ctl_query() - append the filters that were given (--limit, --listener, --peer) */
void ctl_query(struct text *path, const struct ctl *c);
/** ctl_document() - the text of @file, "-": standard input; finish it. Return: enum ctl_exit, said. */
int ctl_document(struct ctl *c, const char *file, struct text *ret);
/** ctl_print() - write a text and finish it. Return: CTL_OK, or CTL_FAILED when memory ran out or out is closed. */
int ctl_print(struct ctl *c, struct text *t);

/* a member of a JSON object; missing or null: "" or 0 */
const char *js_str(const json_t *o, const char *key);
uint64_t js_u64(const json_t *o, const char *key);
bool js_bool(const json_t *o, const char *key);
/** js_bytes(), js_time() - for people; in a buffer that the eighth call after this one uses again */
const char *js_bytes(const json_t *o, const char *key);
const char *js_time(const json_t *o, const char *key);

typedef int ctl_command(struct ctl *c);
ctl_command cmd_status, cmd_listener, cmd_chain, cmd_cluster, cmd_tunnel; /* show.c */
ctl_command cmd_cert;							  /* cert.c */
ctl_command cmd_workload;						  /* workload.c */
ctl_command cmd_limits;							  /* limits.c */
ctl_command cmd_policy, cmd_audit;					  /* policy.c */
ctl_command policy_test;						  /* policy_test.c */
ctl_command cmd_kernel;							  /* kernel.c */
ctl_command cmd_denied;							  /* denied.c */
ctl_command explain_policy;						  /* explain.c */
int conn_explain(struct ctl *c, const char *id);				  /* and `conn explain ID` */
ctl_command cmd_conn, cmd_stats, cmd_metrics;				  /* conn.c, stats.c */
ctl_command cmd_log_level, cmd_config, cmd_reload, cmd_version;		  /* change.c */
ctl_command cmd_drain, cmd_upgrade;					  /* drain.c, upgrade.c */
ctl_command cmd_log, cmd_trace;					  /* log.c, trace.c */
