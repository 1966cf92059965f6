/*
 * Limits for each of many: a class has one pair of limits, and every subject in it (a SPIFFE id, a source address) is measured against them
 * apart. The table is bounded: see quota.c for what happens to those who do not fit. Any thread; a short lock inside.
 */
#pragma once
#include "model/slice.h"
#include "policy/rate.h"
#include <stddef.h>

#define QUOTA_TEXT 160u /* of a subject in a row; longer ones are cut */
#define QUOTA_SUBJECTS_MAX 1000000u

struct quota;	      /* a class; counted references */
struct quota_subject; /* who is in it; held by each of his connections */

struct quota_limits {
	uint32_t max_connections; /* 0: no limit */
	struct rate_limit rate;
};

enum quota_verdict { QUOTA_OK, QUOTA_CONNECTIONS, QUOTA_RATE };

/** quota_create() - with one reference. Return: 0 or -ENOMEM. */
int quota_create(struct quota **ret, uint32_t subjects);
struct quota *quota_get(struct quota *q);
/** quota_put() - NULL is fine; the last one frees: that of a connection counts, too */
void quota_put(struct quota *q);
/** quota_resize() - how many subjects are remembered from now on; those that are more go one by one */
void quota_resize(struct quota *q, uint32_t subjects);
/**
 * quota_enter() - one more connection of @who
 * @ret:	to be given back with quota_leave(); NULL unless QUOTA_OK
 * Out of memory is no reason to refuse anybody: it is as if the table were full.
 */
enum quota_verdict quota_enter(struct quota *q, struct slice who, struct quota_limits l, uint64_t now_us, struct quota_subject **ret);
/** quota_leave() - the connection has ended; NULL is fine. From any thread. */
void quota_leave(struct quota_subject *s, uint64_t now_us);

/** quota_look() - what quota_enter() would say now; nothing changes */
enum quota_verdict quota_look(struct quota *q, struct slice who, struct quota_limits l, uint64_t now_us);

struct quota_row {
	char who[QUOTA_TEXT];
	uint32_t active, left; /* connections now; whole tokens now */
	uint64_t refused_connections, refused_rate;
	uint64_t idle_us; /* since the last connection came or went */
	bool overflow;	  /* all those together that the table has no room for */
};
struct quota_sums {
	uint32_t subjects, most; /* remembered now, and at the most */
	uint64_t active;
	uint64_t refused_connections, refused_rate; /* since the class was made */
	uint64_t overflowed;			    /* connections that were measured with the overflow's bucket */
};
void quota_sums(struct quota *q, struct quota_sums *ret);
/** quota_rows() - the @max who were refused most, then with most connections. Return: rows written. */
size_t quota_rows(struct quota *q, struct quota_limits l, uint64_t now_us, struct quota_row *ret, size_t max);
