/*
 * Clusters with `source: client`: in each network namespace that they are dialled from, what brings the answers back. Rules and routes
 * are net/transparent.c's; the mark on answers from other hosts, kern/transmark.c's. Without the latter, connections to
 * backends in the same namespace work all the same, so it is not an error but said.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/kernel.h"
#include <stdio.h>
#include <string.h>

/* a namespace is entered, its devices looked through, and left again */
static void sweep(struct kernel *k, struct foreign *f)
{
	struct err why = { "" };
	int fd, back;

	if (netns_gone(&f->ns))
		transmark_forget(&f->devices);
	if (netns_get(&f->ns, &fd, &why) < 0 || netns_enter(fd, &back) < 0)
		return; /* net/transparent.c says so */
	if (transmark_sweep(k->transmark, &f->devices, &why) < 0 && !k->why_transmark.msg[0]) {
		k->why_transmark = why;
		log_warn(LA_MAIN, "source: client: answers from other hosts may be lost: %s", why.msg);
	}
	netns_leave(back);
}

static int add(struct kernel *k, const char *netns)
{
	struct foreign *f;

	for (f = k->foreign; f; f = f->next)
		if (netns ? f->ns.name && !strcmp(f->ns.name, netns) : !f->ns.name)
			return 0;
	f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->name = netns ? strdup(netns) : NULL; /* configurations come and go */
	if (netns && !f->name) {
		free(f);
		return -ENOMEM;
	}
	f->ns.name = f->name;
	f->next = k->foreign;
	k->foreign = f;
	return 0;
}

void foreign_start(struct kernel *k, const struct config *cfg)
{
	struct err *why = &k->why[KERNEL_TRANSPARENT];
	bool any = false;

	for (uint32_t i = 0; i < cfg->n_clusters; i++) {
		const struct cfg_cluster *c = &cfg->clusters[i];
		int r = -ENOTSUP;

		if (c->source != SOURCE_CLIENT)
			continue;
		if (k->local)
			r = local_transparent(k->local, c->netns, why);
		else
			*why = k->why[KERNEL_LOCAL];
		if (r < 0)
			log_err(LA_MAIN, "cluster '%s', source: client: %s", c->name, why->msg);
		if (r == 0 || r == -ENOENT)
			any |= add(k, c->netns) == 0;
	}
	if (!any)
		return;
	if (!k->transmark && transmark_create(&k->transmark, LOCAL_MARK_OUT, LOCAL_MARK, &k->why_transmark) < 0) {
		k->transmark = NULL;
		log_warn(LA_MAIN, "source: client: %s; answers from other hosts are lost, unless something else gives them the mark %#x",
			 k->why_transmark.msg, LOCAL_MARK);
		return;
	}
	foreign_tick(k);
}

void foreign_tick(struct kernel *k)
{
	for (struct foreign *f = k->transmark ? k->foreign : NULL; f; f = f->next) {
		sweep(k, f);
		netns_put(&f->ns); /* not kept alive until the next */
	}
}

void foreign_finish(struct kernel *k)
{
	struct foreign *f;
	int fd, back;

	while ((f = k->foreign)) {
		k->foreign = f->next;
		if (k->transmark && netns_get(&f->ns, &fd, NULL) == 0 && netns_enter(fd, &back) == 0) {
			transmark_leave(k->transmark, &f->devices);
			netns_leave(back);
		}
		transmark_forget(&f->devices);
		netns_put(&f->ns);
		free(f->name);
		free(f);
	}
	transmark_destroy(TAKE(k->transmark));
}

void foreign_text(const struct kernel *k, char *out, size_t size)
{
	uint32_t devices = 0;

	for (const struct foreign *f = k->foreign; f; f = f->next)
		devices += f->devices.n;
	if (k->transmark)
		snprintf(out, size, "answers from other hosts: %llu packets at %u devices",
			 (unsigned long long)transmark_packets(k->transmark), devices);
	else
		snprintf(out, size, "answers from other hosts are lost: %.150s", k->why_transmark.msg);
}
