/* Orders that copy rows out of workers: between inspect.c and what else asks workers for people. */
#pragma once
#include "chain/daemon.h"
#include "chain/explain_int.h"
#include "chain/inspect.h"

#define ROWS_PER_ORDER 256u

/* a call that timed out still belongs to the worker: whoever comes second frees it */
struct rows_call {
	struct call call;
	_Atomic uint32_t abandoned; /* 0 running, 1 by the poster, 2 finished */
	uint32_t cursor;
	uint32_t n;
	uint64_t arg;
	bool more;
	union {
		struct conn_row conn[ROWS_PER_ORDER];
		struct tunnel_row tunnel[ROWS_PER_ORDER];
		struct denied_row denied[ROWS_PER_ORDER];
		struct conn_facts facts;
		struct out_row out;
	} rows;
};

/** inspect_collect() - all workers, all batches, appended to one malloc'd array of rows of @size bytes. Return: 0 or -errno. */
int inspect_collect(struct daemon *d, void (*fn)(struct worker *w, struct call *c), size_t size, void **ret, size_t *ret_n);
void inspect_conn_fill(const struct conn *c, struct conn_row *r); /* on its worker; @r zeroed */
/** inspect_one() - @fn on worker @i with @arg; what it counted in n, and @size bytes of its rows. Return: n, or -errno. */
int inspect_one(struct daemon *d, uint32_t i, void (*fn)(struct worker *w, struct call *c), uint64_t arg, void *ret, size_t size);
