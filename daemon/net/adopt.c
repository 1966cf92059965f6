/*
 * The set is small (listeners times workers) and looked through from the front, so sockets of one address come out in the order in which
 * they went in. That is their order in the reuseport group, which sock_spread_by_source() picks from.
 */
#include "net/adopt.h"
#include "base/clean.h"
#include "net/sock.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* asm-generic/socket.h, since 5.14 */
#endif

static uint64_t opt_u64(int fd, int name)
{
	uint64_t v = 0;
	socklen_t n = sizeof(v);

	return getsockopt(fd, SOL_SOCKET, name, &v, &n) ? 0 : v;
}

static int opt(int fd, int name)
{
	int v = 0;
	socklen_t n = sizeof(v);

	return getsockopt(fd, SOL_SOCKET, name, &v, &n) ? -1 : v;
}

uint64_t adopt_netns(int fd)
{
	AUTO_FD own = fd < 0 ? socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;

	return opt_u64(fd < 0 ? own : fd, SO_NETNS_COOKIE);
}

bool adopt_can_share(int fd)
{
	return opt(fd, SO_REUSEPORT) == 1;
}

/* Return: false: it is nothing that we could accept from */
static bool look(struct adopted *a)
{
	struct sockaddr_storage sa = {0};
	socklen_t n = sizeof(sa);

	if (opt(a->fd, SO_ACCEPTCONN) != 1 || opt(a->fd, SO_TYPE) != SOCK_STREAM || getsockname(a->fd, (struct sockaddr *)&sa, &n))
		return false;
	a->netns = adopt_netns(a->fd);
	a->cookie = opt_u64(a->fd, SO_COOKIE);
	if (sa.ss_family == AF_UNIX)
		snprintf(a->path, sizeof(a->path), "%.108s", ((struct sockaddr_un *)&sa)->sun_path);
	else
		addr_from_sa((struct sockaddr *)&sa, &a->at);
	return sa.ss_family == AF_UNIX || a->at.family != AF_UNSPEC;
}

int adopt_add(struct adopt *set, int fd, const char *name, struct err *reterr)
{
	struct adopted a = {.fd = fd};

	snprintf(a.name, sizeof(a.name), "%s", name);
	if (!look(&a)) {
		err_set(reterr, 0, "descriptor '%s' is no listening stream socket; it is closed", a.name);
		close(fd);
		return 0;
	}
	for (uint32_t i = 0; i < set->n; i++) {
		if (set->s[i].cookie != a.cookie)
			continue;
		close(fd);
		return 0;
	}
	if (set->n == set->cap) {
		struct adopted *more = reallocarray(set->s, set->cap * 2 + 16, sizeof(*more));

		if (!more) {
			close(fd);
			return err_set(reterr, -ENOMEM, "out of memory");
		}
		set->s = more;
		set->cap = set->cap * 2 + 16;
	}
	set->s[set->n++] = a;
	return 0;
}

static int take(struct adopt *set, uint32_t i)
{
	int fd = set->s[i].fd;

	memmove(&set->s[i], &set->s[i + 1], (--set->n - i) * sizeof(*set->s));
	sock_listener_options(fd);
	return fd;
}

int adopt_take(struct adopt *set, const struct addr *at, uint64_t netns, const char *name)
{
	for (uint32_t i = 0; set && i < set->n; i++) {
		const struct adopted *a = &set->s[i];

		if (a->at.family != AF_UNSPEC && ((addr_eq(&a->at, at) && a->netns == netns) || (name && !strcmp(a->name, name))))
			return take(set, i);
	}
	return -ENOENT;
}

int adopt_take_path(struct adopt *set, const char *path)
{
	for (uint32_t i = 0; set && i < set->n; i++)
		if (set->s[i].at.family == AF_UNSPEC && !strcmp(set->s[i].path, path))
			return take(set, i);
	return -ENOENT;
}

void adopt_rest(struct adopt *set, void (*left)(void *arg, const struct adopted *a), void *arg)
{
	for (uint32_t i = 0; i < set->n; i++) {
		if (left)
			left(arg, &set->s[i]);
		close(set->s[i].fd);
	}
	free(set->s);
	*set = (struct adopt){0};
}
