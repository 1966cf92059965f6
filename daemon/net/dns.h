/*
 * Host names, asynchronously, in the worker's loop (c-ares). Worker thread.
 */
#pragma once
#include "loop/loop.h"
#include "model/addr.h"

#define DNS_ADDRS 8u

struct dns;
/** @n 0: failed, @why says what; @addrs have port 0. @arg is the caller's number (a slot reference, for instance). */
typedef void (*dns_done)(void *owner, uint64_t arg, const struct addr *addrs, uint32_t n, const char *why);

int dns_create(struct dns **ret, struct loop *l, void *owner);
void dns_destroy(struct dns *d); /* pending look-ups are dropped without a call; NULL is fine */
/** dns_query() - A and AAAA; @done may be called at once. Return: 0 or -ENOMEM. */
int dns_query(struct dns *d, const char *host, dns_done done, uint64_t arg);
/** dns_event() - the loop saw something on descriptor @fd */
void dns_event(struct dns *d, int fd, uint32_t events);
