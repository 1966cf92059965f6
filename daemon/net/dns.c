/*
 * c-ares in the loop: its sockets are watched level-triggered as it asks, its time-outs are one timer of ours.
 */
#include "net/dns.h"
#include "net/hint.h"
#include "base/clean.h"
#include <ares.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>

struct dns {
	struct loop *l;
	void *owner;
	ares_channel ch;
	struct timer timer;
	bool dying;
};

struct query {
	struct dns *d;
	dns_done done;
	uint64_t arg;
};

static void arm(struct dns *d)
{
	struct timeval tv, *r = ares_timeout(d->ch, NULL, &tv);

	if (r)
		timer_arm(&d->l->timers, &d->timer, d->l->now_ms + (uint64_t)r->tv_sec * 1000u + (uint64_t)r->tv_usec / 1000u + 1);
	else
		timer_disarm(&d->l->timers, &d->timer);
}

static void timed_out(struct timer *t, void *arg)
{
	struct dns *d = arg;

	(void)t;
	ares_process_fd(d->ch, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	arm(d);
}

static void sock_state(void *arg, ares_socket_t fd, int rd, int wr)
{
	struct dns *d = arg;
	union ev_ref ref = { .kind = EV_DNS, .idx = (uint32_t)fd };

	(void)loop_watch_level(d->l, fd, ref, (rd ? EPOLLIN : 0u) | (wr ? EPOLLOUT : 0u));
}

int dns_create(struct dns **ret, struct loop *l, void *owner)
{
	struct dns *d = calloc(1, sizeof(*d));
	struct ares_options o = { .timeout = 2000, .tries = 2, .sock_state_cb = sock_state, .sock_state_cb_data = d };

	if (!d)
		return -ENOMEM;
	d->l = l;
	d->owner = owner;
	d->timer.fire = timed_out;
	d->timer.arg = d;
	if (ares_init_options(&d->ch, &o, ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB) != ARES_SUCCESS) {
		free(d);
		return -ENOMEM;
	}
	*ret = d;
	return 0;
}

void dns_destroy(struct dns *d)
{
	if (!d)
		return;
	d->dying = true;
	timer_disarm(&d->l->timers, &d->timer);
	ares_destroy(d->ch);
	free(d);
}

static const char *why_not(int status)
{
	static _Thread_local char text[192];

	snprintf(text, sizeof(text), "%s%s", ares_strerror(status), net_dns_hint(status));
	return text;
}

static void answered(void *arg, int status, int timeouts, struct ares_addrinfo *ai)
{
	struct query *q = arg;
	struct dns *d = q->d;
	struct addr a[DNS_ADDRS];
	uint32_t n = 0;

	(void)timeouts;
	for (struct ares_addrinfo_node *i = ai ? ai->nodes : NULL; i && n < DNS_ADDRS; i = i->ai_next) {
		addr_from_sa(i->ai_addr, &a[n]);
		n += a[n].family != AF_UNSPEC;
	}
	if (ai)
		ares_freeaddrinfo(ai);
	if (!n)
		stats_inc(&d->l->stats, ST_DNS_FAILURES);
	if (d->dying)
		n = 0;
	q->done(d->owner, q->arg, a, n, n ? "" : why_not(status));
	free(q);
}

int dns_query(struct dns *d, const char *host, dns_done done, uint64_t arg)
{
	struct ares_addrinfo_hints hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct query *q = malloc(sizeof(*q));

	if (!q)
		return -ENOMEM;
	*q = (struct query){ .d = d, .done = done, .arg = arg };
	stats_inc(&d->l->stats, ST_DNS_QUERIES);
	ares_getaddrinfo(d->ch, host, NULL, &hints, answered, q);
	arm(d);
	return 0;
}

void dns_event(struct dns *d, int fd, uint32_t events)
{
	ares_process_fd(d->ch, events & (EPOLLIN | EPOLLERR | EPOLLHUP) ? fd : ARES_SOCKET_BAD,
			events & EPOLLOUT ? fd : ARES_SOCKET_BAD);
	arm(d);
}
