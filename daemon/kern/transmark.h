/*
 * The mark on answers that come from other hosts (bpf/transmark.bpf.c), for sockets whose source address is not ours; net/local.h has the
 * rule that looks for it. Main thread. A namespace is the one the calling thread is in.
 */
#pragma once
#include "base/err.h"
#include <stdint.h>

struct transmark;

/** struct transmark_devices - of one namespace: those that have the program. Zeroed: none. */
struct transmark_devices {
	uint32_t *index, n, cap;
	uint32_t turn;
};

/**
 * transmark_create() - load the program: what is for a socket with @socket_mark gets @packet_mark
 * Return: 0, or -errno with a sentence that says what is missing.
 */
int transmark_create(struct transmark **ret, uint32_t socket_mark, uint32_t packet_mark, struct err *reterr);
void transmark_destroy(struct transmark *t); /* after transmark_leave() for each namespace. NULL is fine. */
/**
 * transmark_sweep() - attach it to all devices that do not have it, loopback excepted; once in a while to all, since another agent
 * that ends takes it away. Call again about once a second. Return: 0 or -errno with the sentence (others have it).
 */
int transmark_sweep(struct transmark *t, struct transmark_devices *d, struct err *reterr);
void transmark_leave(struct transmark *t, struct transmark_devices *d); /* detach */
void transmark_forget(struct transmark_devices *d);			 /* the namespace is gone with its devices */
uint64_t transmark_packets(const struct transmark *t);			 /* marked so far */
