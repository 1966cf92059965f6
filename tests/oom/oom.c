/*
 * The failing allocators behind oom.h. The linker's --wrap sends malloc() and the rest here; what is not refused goes to
 * the real one. Live blocks of the running sweep are kept in a small hash set, so that a leak is found without a sanitizer
 * and is tied to the allocation that failed.
 */
#include "oom.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LIVE_SLOTS	(1u << 16)	/* blocks alive at once in one run; a power of two */
#define SWEEP_MAX	200000u		/* allocations in one run; more means that it never ends */

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
int __real_posix_memalign(void **ret, size_t align, size_t n);
void *__real_aligned_alloc(size_t align, size_t n);

void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_reallocarray(void *p, size_t n, size_t size);
void __wrap_free(void *p);
int __wrap_posix_memalign(void **ret, size_t align, size_t n);
void *__wrap_aligned_alloc(size_t align, size_t n);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t max);
int __wrap_vasprintf(char **ret, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
int __wrap_asprintf(char **ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int __wrap___vasprintf_chk(char **ret, int flag, const char *fmt, va_list ap) __attribute__((format(printf, 3, 0)));
int __wrap___asprintf_chk(char **ret, int flag, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static __thread bool armed;		/* this thread is inside a run */
static unsigned int count;		/* allocations in this run so far */
static unsigned int fail_at;		/* which one fails; 0: none */
static bool fail_after;			/* and all later ones */
static bool struck;

static void *live[LIVE_SLOTS];		/* open addressing; NULL is empty */
static unsigned int n_live;

static unsigned int live_home(const void *p)
{
	return (unsigned int)(((uintptr_t)p >> 4) * 0x9e3779b97f4a7c15ull >> 48) & (LIVE_SLOTS - 1);
}

static void live_add(void *p)
{
	unsigned int i = live_home(p);

	if (!armed || !p)
		return;
	if (n_live > LIVE_SLOTS / 2) {
		fprintf(stderr, "oom: more than %u blocks alive in one run\n", LIVE_SLOTS / 2);
		abort();
	}
	while (live[i])
		i = (i + 1) & (LIVE_SLOTS - 1);
	live[i] = p;
	n_live++;
}

static void live_del(const void *p)
{
	unsigned int i = live_home(p), j, home;

	if (!armed || !p)
		return;
	while (live[i] != p) {
		if (!live[i])
			return;		/* from before the run, or from inside a shared library */
		i = (i + 1) & (LIVE_SLOTS - 1);
	}
	n_live--;
	for (j = (i + 1) & (LIVE_SLOTS - 1); live[j]; j = (j + 1) & (LIVE_SLOTS - 1)) {
		home = live_home(live[j]);
		if (((j - home) & (LIVE_SLOTS - 1)) >= ((j - i) & (LIVE_SLOTS - 1))) {
			live[i] = live[j];	/* close the gap, or lookups would stop at it */
			i = j;
		}
	}
	live[i] = NULL;
}

static bool refuse(void)
{
	if (!armed)
		return false;
	count++;
	if (!fail_at || count < fail_at || (count > fail_at && !fail_after))
		return false;
	struck = true;
	errno = ENOMEM;
	return true;
}

void *__wrap_malloc(size_t n)
{
	void *p = refuse() ? NULL : __real_malloc(n);

	live_add(p);
	return p;
}

void *__wrap_calloc(size_t n, size_t size)
{
	void *p = refuse() ? NULL : __real_calloc(n, size);

	live_add(p);
	return p;
}

void *__wrap_realloc(void *p, size_t n)
{
	void *q;

	if (refuse())
		return NULL;
	live_del(p);
	q = __real_realloc(p, n);
	live_add(q);
	return q;
}

void *__wrap_reallocarray(void *p, size_t n, size_t size)
{
	size_t total;

	if (__builtin_mul_overflow(n, size, &total)) {
		errno = ENOMEM;
		return NULL;
	}
	return __wrap_realloc(p, total);
}

void __wrap_free(void *p)
{
	live_del(p);
	__real_free(p);
}

int __wrap_posix_memalign(void **ret, size_t align, size_t n)
{
	int r;

	if (refuse())
		return ENOMEM;
	r = __real_posix_memalign(ret, align, n);
	if (r == 0)
		live_add(*ret);
	return r;
}

void *__wrap_aligned_alloc(size_t align, size_t n)
{
	void *p = refuse() ? NULL : __real_aligned_alloc(align, n);

	live_add(p);
	return p;
}

char *__wrap_strndup(const char *s, size_t max)
{
	size_t n = strnlen(s, max);
	char *p = __wrap_malloc(n + 1);

	if (!p)
		return NULL;
	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

char *__wrap_strdup(const char *s)
{
	return __wrap_strndup(s, strlen(s));
}

int __wrap_vasprintf(char **ret, const char *fmt, va_list ap)
{
	va_list again;
	char *p;
	int n;

	va_copy(again, ap);
	n = vsnprintf(NULL, 0, fmt, again);
	va_end(again);
	if (n < 0)
		return -1;
	p = __wrap_malloc((size_t)n + 1);
	if (!p)
		return -1;
	vsnprintf(p, (size_t)n + 1, fmt, ap);
	*ret = p;
	return n;
}

int __wrap_asprintf(char **ret, const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = __wrap_vasprintf(ret, fmt, ap);
	va_end(ap);
	return n;
}

/* What _FORTIFY_SOURCE makes of the two. */
int __wrap___vasprintf_chk(char **ret, int flag, const char *fmt, va_list ap)
{
	(void)flag;
	return __wrap_vasprintf(ret, fmt, ap);
}

int __wrap___asprintf_chk(char **ret, int flag, const char *fmt, ...)
{
	va_list ap;
	int n;

	(void)flag;
	va_start(ap, fmt);
	n = __wrap_vasprintf(ret, fmt, ap);
	va_end(ap);
	return n;
}

/* One run; returns whether the allocation that should fail was reached. */
static bool run_once(void (*fn)(void), unsigned int n, bool after, bool check)
{
	memset(live, 0, sizeof(live));
	n_live = 0;
	count = 0;
	fail_at = n;
	fail_after = after;
	struck = false;
	armed = true;
	fn();
	armed = false;
	if (check && n_live)
		fail_msg("%u block(s) leaked when allocation %u%s failed (OOM_AT=%u to see it alone)", n_live, n,
			 after ? " and all later ones" : "", n);
	return struck;
}

bool oom_struck(void)
{
	return struck;
}

unsigned int oom_sweep(void (*fn)(void))
{
	const char *at = getenv("OOM_AT");
	bool verbose = getenv("OOM_VERBOSE") != NULL;
	unsigned int n, total;

	armed = false;			/* a failed assertion may have left by longjmp */
	run_once(fn, 0, false, false);
	run_once(fn, 0, false, true);
	total = count;
	for (int after = 0; after < 2; after++) {
		for (n = at ? (unsigned int)atoi(at) : 1; n < SWEEP_MAX; n++) {
			if (verbose)
				print_message("oom: allocation %u%s fails\n", n, after ? " and all later" : "");
			if (!run_once(fn, n, after, true) || at)
				break;
		}
		if (n == SWEEP_MAX)
			fail_msg("still allocating after %u failures", n);
	}
	return total;
}
