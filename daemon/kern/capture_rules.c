/*
 * A listener's `capture` as the kernel's half reads it (include/adit/capture_abi.h): ports as bits, networks as a trie, users and the
 * folders of cgroups' paths in hashes, all under the rule's id.
 *
 * A rule in force is never changed. The new one is made beside it, then the slot's word is stored, then the old one's parts are taken
 * away; bpf/capture.bpf.c looks again when it finds the slot changed. So every connect() meets the old rule or the new one.
 */
#include "kern/capture_int.h"
#include "kern/nets.h"
#include "base/clean.h"
#include <bpf/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* asm-generic/socket.h, since 5.14 */
#endif

static int put(const struct capture_obj *o, int map, const void *key, const void *value, const char *what, struct err *reterr)
{
	if (!bpf_map_update_elem(o->map[map], key, value, BPF_ANY))
		return 0;
	return err_set(reterr, -errno, "%s: %s", what, errno == E2BIG || errno == ENOSPC ? "too many on this node" : strerror(errno));
}

/* ---- taking away ---- */

/* all entries of @map whose key, of @n bytes, has @rule at @at. Without memory some stay, which nobody will look for any more. */
static void drop_keys(int map, size_t n, size_t at, uint32_t rule)
{
	uint8_t key[sizeof(struct adit_cap_folder)], next[sizeof(key)];
	uint8_t *gone = NULL, *more;
	size_t used = 0, room = 0;

	for (bool first = true; n <= sizeof(key) && !bpf_map_get_next_key(map, first ? NULL : key, next); first = false) {
		memcpy(key, next, n);
		if (memcmp(key + at, &rule, sizeof(rule)))
			continue;
		if (used == room) {
			room = room ? 2 * room : 64;
			more = reallocarray(gone, room, n);
			if (!more)
				break;
			gone = more;
		}
		memcpy(gone + used++ * n, key, n);
	}
	for (size_t i = 0; i < used; i++)
		(void)bpf_map_delete_elem(map, gone + i * n);
	free(gone);
}

static void drop_parts(const struct capture_obj *o, uint32_t rule)
{
	if (!rule)
		return;
	(void)bpf_map_delete_elem(o->map[CM_RULES], &rule);
	drop_keys(o->map[CM_NETS], sizeof(struct adit_net_key), offsetof(struct adit_net_key, rule), rule);
	drop_keys(o->map[CM_CGROUPS], sizeof(struct adit_cap_folder), offsetof(struct adit_cap_folder, rule), rule);
	drop_keys(o->map[CM_UIDS], sizeof(struct adit_cap_uid), offsetof(struct adit_cap_uid, rule), rule);
}

void capture_rule_take(struct capture_obj *o, uint32_t i)
{
	uint32_t rule = o->slot[i].rule;

	__atomic_store_n(&o->slot[i].rule, 0, __ATOMIC_RELEASE);
	drop_parts(o, rule);
}

int capture_rule_get(const struct capture_obj *o, uint32_t i, struct adit_cap_rule *ret)
{
	uint32_t rule = __atomic_load_n(&o->slot[i].rule, __ATOMIC_ACQUIRE);

	return rule && !bpf_map_lookup_elem(o->map[CM_RULES], &rule, ret) ? 0 : -ENOENT;
}

/* ---- putting in ---- */

/* "/shop.slice/web.service": a node for each folder; *next is the last number given */
static int put_cgroup(const struct capture_obj *o, uint32_t rule, const char *path, uint32_t *next, struct err *reterr)
{
	struct adit_cap_node node = {0};
	uint32_t depth = 0;

	for (const char *p = path + strspn(path, "/"); *p; p += strspn(p, "/")) {
		struct adit_cap_folder k = {.rule = rule, .node = node.node};
		size_t n = strcspn(p, "/");

		if (n >= sizeof(k.name) || ++depth >= ADIT_CAP_DEPTH)
			return err_set(reterr, -ENAMETOOLONG, "cgroup %s: %s", path, n >= sizeof(k.name) ? "a name is too long" : "too deep");
		memcpy(k.name, p, n);
		p += n;
		if (bpf_map_lookup_elem(o->map[CM_CGROUPS], &k, &node))
			node = (struct adit_cap_node){.node = ++*next};
		if (!p[strspn(p, "/")])
			node.here = 1;
		if (put(o, CM_CGROUPS, &k, &node, "cgroups", reterr) < 0)
			return -ENOSPC;
	}
	return 0;
}

static int put_who(const struct capture_obj *o, uint32_t id, const struct cfg_who *who, struct adit_cap_rule *r, struct err *reterr)
{
	uint32_t next = 0, one = 1;
	int e = 0;

	r->flags |= who->n_uids ? ADIT_CAP_UIDS : 0;
	r->flags |= who->n_cgroups ? ADIT_CAP_CGROUPS : 0;
	for (uint32_t i = 0; e == 0 && i < who->n_uids; i++)
		e = put(o, CM_UIDS, &(struct adit_cap_uid){id, who->uids[i]}, &one, "uids", reterr);
	for (uint32_t i = 0; e == 0 && i < who->n_cgroups; i++) {
		if (!who->cgroups[i][strspn(who->cgroups[i], "/")])
			r->flags &= ~ADIT_CAP_CGROUPS; /* "/": all */
		e = put_cgroup(o, id, who->cgroups[i], &next, reterr);
	}
	return e;
}

static int put_nets(const struct capture_obj *o, uint32_t id, const struct cfg_capture *c, struct err *reterr)
{
	AUTO_FREE struct net_entry *e = NULL;
	uint32_t n = 0;
	int r = nets_build(c->to, c->n_to, c->except, c->n_except, &e, &n, reterr);

	for (uint32_t i = 0; r == 0 && i < n; i++) {
		struct adit_net_key k = net_key(&e[i], id);

		r = put(o, CM_NETS, &k, &e[i].ports, "networks", reterr);
	}
	return r;
}

static int fill(const struct capture_obj *o, uint32_t id, const struct cfg_listener *l, int fd, uint64_t owner, struct adit_cap_rule *r,
		struct err *reterr)
{
	socklen_t n = sizeof(r->netns);
	struct stat st;
	int e;

	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &r->netns, &n) || fstat(fd, &st))
		return err_set(reterr, -errno, "the listener's network namespace cannot be told: %s", strerror(errno));
	r->uid = st.st_uid;
	r->root = o->root;
	r->owner = owner;
	r->order = l->id;
	r->flags = l->capture->fail_closed ? ADIT_CAP_CLOSED : 0;
	r->family = l->address.family;
	r->port = l->address.port;
	memcpy(r->addr, l->address.ip, r->family == AF_INET ? 4 : 16);
	snprintf(r->name, sizeof(r->name), "%s", l->name);
	ports_bits(l->capture->who.ports, l->capture->who.n_ports, l->capture->except_ports, l->capture->n_except_ports, r->ports);
	e = put_who(o, id, &l->capture->who, r, reterr);
	if (e == 0)
		e = put_nets(o, id, l->capture, reterr);
	return e < 0 ? e : put(o, CM_RULES, &id, r, "rules", reterr);
}

/* the slot that a rule for this very address has, or a free one. Return: -ENOSPC: none. */
static int find_slot(const struct capture_obj *o, const struct adit_cap_rule *r, struct adit_cap_rule *old)
{
	int at = -ENOSPC;

	for (uint32_t i = 0; i < ADIT_CAP_SLOTS; i++) {
		if (!o->slot[i].rule && at < 0)
			at = (int)i;
		if (capture_rule_get(o, i, old) == 0 && old->netns == r->netns && old->family == r->family && old->port == r->port &&
		    !memcmp(old->addr, r->addr, sizeof(r->addr)))
			return (int)i;
	}
	return at;
}

int capture_rule_put(struct capture_obj *o, const struct cfg_listener *l, int fd, uint64_t owner, struct err *reterr)
{
	AUTO_FREE struct adit_cap_rule *r = calloc(2, sizeof(*r));
	struct adit_cap_control c;
	uint32_t id, zero = 0, old;
	int e, at;

	if (!r)
		return err_set(reterr, -ENOMEM, "out of memory");
	if (bpf_map_lookup_elem(o->map[CM_CONTROL], &zero, &c))
		return err_set(reterr, -errno, "%s", strerror(errno));
	id = ++c.next_rule;
	e = put(o, CM_CONTROL, &zero, &c, "control", reterr);
	if (e == 0)
		e = fill(o, id, l, fd, owner, r, reterr);
	at = e < 0 ? e : find_slot(o, &r[0], &r[1]);
	if (at == -ENOSPC && e == 0)
		err_set(reterr, at, "the agents of this node have %u rules already", ADIT_CAP_SLOTS);
	if (at >= 0 && (uint32_t)at >= c.slots) {
		c.slots = (uint32_t)at + 1;
		e = put(o, CM_CONTROL, &zero, &c, "control", reterr);
	}
	if (at < 0 || e < 0) {
		drop_parts(o, id);
		return e < 0 ? e : at;
	}
	old = o->slot[at].rule;
	if (!old || o->slot[at].owner != owner)
		o->slot[at] = (struct adit_cap_slot){.owner = owner, .rule = old};
	__atomic_store_n(&o->slot[at].rule, id, __ATOMIC_RELEASE);
	drop_parts(o, old);
	return at;
}
