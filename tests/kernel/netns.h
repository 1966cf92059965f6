/* For the programs that need a network namespace of their own; it goes away with the process. */
#pragma once
#include "kernel.h"
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>

static inline int netns_fd(void)
{
	int fd = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);

	CHECK(fd >= 0, "/proc/thread-self/ns/net");
	return fd;
}

/* a new namespace for this thread, with lo up. Return: a descriptor of it */
static inline int netns_new(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int s;

	if (unshare(CLONE_NEWNET))
		skip("no network namespace to be had: %s", strerror(errno));
	s = new_socket();
	CHECK(!ioctl(s, SIOCSIFFLAGS, &r), "lo up");
	close(s);
	return netns_fd();
}
