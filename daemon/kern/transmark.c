/*
 * A filter of tc(8) in front of routing, on every device but loopback: clsact, direct action, one handle and priority of ours, so that
 * attaching again replaces what is there: what a crashed agent left, or the same program of another agent, which does the same.
 * The clsact qdisc itself stays: others may have put filters into it meanwhile, and an empty one costs nothing.
 */
#include "kern/transmark.h"
#include "base/clean.h"
#include "kern/place.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#define transmark transmark_skel
#include "transmark.skel.h"
#undef transmark

#define LOOPBACK 1 /* ifindex, in every namespace */
#define HANDLE 1u
#define PRIORITY 44311u
#define ALL_EVERY 16u /* sweeps */

struct transmark {
	struct transmark_skel *skel;
};

int transmark_create(struct transmark **ret, uint32_t socket_mark, uint32_t packet_mark, struct err *reterr)
{
	struct transmark *t = calloc(1, sizeof(*t));
	int r;

	if (!t)
		return err_set(reterr, -ENOMEM, "out of memory");
	place_hear();
	t->skel = transmark__open();
	if (!t->skel) {
		place_unhear();
		free(t);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	t->skel->rodata->socket_mark = socket_mark;
	t->skel->rodata->packet_mark = packet_mark;
	r = transmark__load(t->skel);
	if (r < 0)
		(void)place_refused(r, "the program that marks answers from other hosts", reterr);
	place_unhear();
	if (r < 0) {
		transmark_destroy(t);
		return r;
	}
	*ret = t;
	return 0;
}

void transmark_destroy(struct transmark *t)
{
	if (!t)
		return;
	transmark__destroy(t->skel);
	free(t);
}

static int attach(struct transmark *t, uint32_t device)
{
	struct bpf_tc_hook hook = { .sz = sizeof(hook), .ifindex = (int)device, .attach_point = BPF_TC_INGRESS };
	struct bpf_tc_opts opts = { .sz = sizeof(opts), .flags = BPF_TC_F_REPLACE, .handle = HANDLE, .priority = PRIORITY };
	int r = bpf_tc_hook_create(&hook);

	opts.prog_fd = bpf_program__fd(t->skel->progs.transmark_in);
	return r < 0 && r != -EEXIST ? r : bpf_tc_attach(&hook, &opts);
}

static bool known(const struct transmark_devices *d, uint32_t device)
{
	for (uint32_t i = 0; i < d->n; i++)
		if (d->index[i] == device)
			return true;
	return false;
}

static int remember(struct transmark_devices *d, uint32_t device)
{
	uint32_t *p;

	if (d->n == d->cap) {
		p = realloc(d->index, (d->cap + 16) * sizeof(*p));
		if (!p)
			return -ENOMEM;
		d->index = p;
		d->cap += 16;
	}
	d->index[d->n++] = device;
	return 0;
}

int transmark_sweep(struct transmark *t, struct transmark_devices *d, struct err *reterr)
{
	struct if_nameindex *all = if_nameindex();
	int ret = 0;

	if (!all)
		return err_set(reterr, -errno, "devices: %s", strerror(errno));
	if (d->turn++ % ALL_EVERY == 0)
		d->n = 0;
	place_hear();
	for (struct if_nameindex *i = all; i->if_index; i++) {
		int r;

		if (i->if_index == LOOPBACK || known(d, i->if_index))
			continue;
		r = attach(t, i->if_index);
		if (r == 0)
			r = remember(d, i->if_index);
		if (r < 0 && r != -ENODEV) /* it may have gone meanwhile */
			ret = err_set(reterr, r, "device %s: %s%s", i->if_name, strerror(-r),
				      r == -ENOENT || r == -EOPNOTSUPP ? " (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)" : "");
	}
	place_unhear();
	if_freenameindex(all);
	return ret;
}

void transmark_leave(struct transmark *t, struct transmark_devices *d)
{
	(void)t;
	place_hear();
	for (uint32_t i = 0; i < d->n; i++) {
		struct bpf_tc_hook hook = { .sz = sizeof(hook), .ifindex = (int)d->index[i], .attach_point = BPF_TC_INGRESS };
		struct bpf_tc_opts opts = { .sz = sizeof(opts), .handle = HANDLE, .priority = PRIORITY };

		(void)bpf_tc_detach(&hook, &opts); /* a device may have gone */
	}
	place_unhear();
	transmark_forget(d);
}

void transmark_forget(struct transmark_devices *d)
{
	free(d->index);
	*d = (struct transmark_devices){ 0 };
}

uint64_t transmark_packets(const struct transmark *t)
{
	return t->skel->bss->marked;
}
