/*
 * Answers people: the admin API on a UNIX socket, by the main thread when its loop finds admin_fd() readable; nothing there blocks but
 * inspect_*() orders to workers (a second at the most). Metrics and health on a TCP address are answered by a thread of their own, which
 * also watches the others: never by a worker, and whatever the main thread is busy with.
 * Paths and JSON: docs/ADMIN-API.md.
 */
#pragma once
#include "base/err.h"
#include "admin/cert_ops.h"
#include "admin/policy_ops.h"
#include "model/config.h"
#include <stddef.h>

struct admin;
struct adopt; /* net/adopt.h */
struct text;   /* base/text.h */
struct daemon; /* chain/daemon.h */

/** struct admin_upgrade - how far a successor is; texts of the program, until the next call */
struct admin_upgrade {
	int pid; /* of the new daemon; 0: there is none */
	const char *state, *why;
};

/**
 * struct admin_ops - what the API may ask of the program; called on the main thread, from admin_run()
 * @drain:	begin to drain and then end, within @within_ms. It must return at once: the answer is sent afterwards.
 * @check:	judge a configuration: @text of @n bytes, called @name in messages; or, if @text is NULL, the file @name.
 *		Return: 0 or a negative errno with the sentence. (config_parse() and config_load(), which admin/ may not call:
 *		same layer.)
 * @reload:	read the configuration again and bring it into force; @ret_report says what has changed, a line each.
 *		Return: 0 or a negative errno with the sentence; then nothing has changed.
 * @upgrade:	start @program (NULL: our own file) to take over. Return: its pid, or a negative errno with the sentence.
 * @watch:	called every now and then by the health thread, not the main one: look whether all is well. Return: ms until the next call.
 * @arg:	first argument of all
 * A member that is NULL is answered with 501.
 */
struct admin_ops {
	void (*drain)(void *arg, uint64_t within_ms);
	int (*check)(void *arg, const char *name, const char *text, size_t n, struct err *reterr);
	uint64_t (*watch)(void *arg);
	int (*upgrade)(void *arg, const char *program, struct err *reterr);
	void (*upgrade_state)(void *arg, struct admin_upgrade *ret);
	int (*reload)(void *arg, struct text *ret_report, struct err *reterr);
	void *arg;
};

/**
 * admin_start() - bind what @c names (admin_socket, metrics); either may be absent
 * @d, @c:	@d outlives the admin; of @c only this call reads
 * A socket file that nobody listens on is replaced, one that answers is refused with -EADDRINUSE.
 * Return: 0 or -errno with the sentence; then nothing is left behind.
 */
int admin_start(struct admin **ret, struct daemon *d, const struct config *c, struct err *reterr);
/** admin_start_from() - the same, with sockets out of @set where it has them; the TCP address is not answered before admin_set_ops() */
int admin_start_from(struct admin **ret, struct daemon *d, const struct config *c, struct adopt *set, struct err *reterr);
/** admin_sockets() - the listening sockets, still ours; -1: none */
void admin_sockets(const struct admin *a, int *ret_local, int *ret_public);
/** admin_leave() - another process answers at both addresses now: take no more connections, finish those that there are */
void admin_leave(struct admin *a);
/** admin_set_ops() - before the first admin_run(); copied */
void admin_set_ops(struct admin *a, const struct admin_ops *ops);
/** admin_set_policies() - the same for policies and the audit log */
void admin_set_policies(struct admin *a, const struct policy_ops *ops);
/** admin_set_certs() - the same for identities */
void admin_set_certs(struct admin *a, const struct cert_ops *ops);
/** admin_fd() - Return: a descriptor that gets readable (level-triggered) when admin_run() has something to do. */
int admin_fd(const struct admin *a);
void admin_run(struct admin *a);
/** admin_stop() - close all, remove the socket file if it is still ours. NULL is fine. */
void admin_stop(struct admin *a);
