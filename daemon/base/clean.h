/* Automatic release, and taking on success. */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

static inline void clean_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
static inline int fd_take(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}
static inline void clean_free(void *p)
{
	free(*(void **)p);
}
#define AUTO_FD __attribute__((cleanup(clean_fd))) int
#define AUTO_FREE __attribute__((cleanup(clean_free)))
#define TAKE(p)                                                                                                                  \
	({                                                                                                                       \
		__typeof__(p) take_ = (p);                                                                                       \
		(p) = NULL;                                                                                                      \
		take_;                                                                                                           \
	})
#define BIT(n) (1u << (n))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))
static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}
