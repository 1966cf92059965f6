/* Another configuration comes into force while memory runs out: it does, or nothing has changed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "chain/daemon.h"
#include "config/config.h"
#include "oom/oom.h"

#define BEGIN "workers: 2\nadmin: { socket: \"\" }\nkernel: { splice: off, ktls: off, pin: none }\n"

static const char before[] = BEGIN
	"listeners:\n"
	"  - { name: stays, type: tcp, address: \"127.0.0.1:28101\", cluster: app }\n"
	"  - { name: goes, type: tcp, address: \"127.0.0.2:28102\", cluster: app }\n"
	"clusters:\n"
	"  - { name: app, type: tcp, endpoints: [\"127.0.0.1:1\", \"127.0.0.1:2\"] }\n"
	"  - { name: old, type: tunnel, tls: false, endpoints: [\"127.0.0.1:3\"] }\n"
	"policies: [{ name: p, action: deny, rules: [{ source_ip: 10.0.0.0/8 }] }]\n";
static const char after[] = BEGIN
	"access_log: { path: /dev/null }\n"
	"listeners:\n"
	"  - { name: stays, type: tcp, address: \"127.0.0.1:28101\", cluster: app, max_connections: 5 }\n"
	"  - { name: comes, type: tcp, address: \"127.0.0.3:28103\", listener: inner }\n"
	"  - { name: inner, type: internal, cluster: new }\n"
	"clusters:\n"
	"  - { name: app, type: tcp, endpoints: [\"127.0.0.1:2\", \"a.example:4\"] }\n"
	"  - { name: new, type: tunnel, tls: false, endpoints: [\"127.0.0.1:3\"] }\n"
	"policies: [{ name: q, action: allow, rules: [{ source_ip: \"*\" }] }]\n";

static struct config *parse(const char *text)
{
	struct config *c = NULL;
	struct err e = {""};

	if (config_parse("t.yaml", text, strlen(text), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static struct config *was, *next;

static void swap_once(void)
{
	struct snapshot *s = NULL;
	struct daemon *d = NULL;
	struct err e = {""};
	int r = snapshot_create(&s, was, NULL, 2, NULL, &e);

	if (r == 0)
		r = daemon_create(&d, s, &e);
	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		return;
	}
	r = snapshot_create(&s, next, NULL, 2, NULL, &e);
	if (r == 0) {
		r = daemon_swap(d, s, &e);
		if (r < 0)
			snapshot_destroy(s);
	}
	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_ptr_equal(d->cfg, was);
		assert_int_equal(d->snap->number, 1);
		assert_ptr_equal(d->workers[1].snap, d->snap);
		assert_non_null(d->workers[0].clusters[was->clusters[1].slot]);
	} else {
		assert_ptr_equal(d->cfg, next);
		assert_int_equal(d->snap->number, 2);
		assert_ptr_equal(d->workers[1].snap, d->snap);
		assert_true(d->workers[1].listeners[next->listeners[1].slot]->fd >= 0);
		assert_int_equal(d->workers[1].listeners[was->listeners[1].slot]->fd, -1);
	}
	daemon_destroy(d);
}

static void a_change_happens_or_does_not(void **state)
{
	(void)state;
	was = parse(before);
	next = parse(after);
	assert_true(oom_sweep(swap_once) >= 30);
	config_free(was);
	config_free(next);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_change_happens_or_does_not)};

	(void)log_level_set("all", "error");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
