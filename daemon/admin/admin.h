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
struct text;   /* base/text.h */
struct daemon; /* chain/daemon.h */

/**
 * struct admin_ops - what the API may ask of the program; called on the main thread, from admin_run()
 * @drain:	begin to drain and then end, within @within_ms. It must return at once: the answer is sent afterwards.
 * @check:	judge a configuration: @text of @n bytes, called @name in messages; or, if @text is NULL, the file @name.
 *		Return: 0 or a negative errno with the sentence. (config_parse() and config_load(), which admin/ may not call:
 *		same layer.)
 * @reload:	read the configuration again and bring it into force; @ret_report says what has changed, a line each.
 *		Return: 0 or a negative errno with the sentence; then nothing has changed.
 * @watch:	called every now and then by the health thread, not the main one: look whether all is well. Return: ms until the next call.
 * @arg:	first argument of all
 * A member that is NULL is answered with 501.
 */
struct admin_ops {
	void (*drain)(void *arg, uint64_t within_ms);
	int (*check)(void *arg, const char *name, const char *text, size_t n, struct err *reterr);
	uint64_t (*watch)(void *arg);
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
