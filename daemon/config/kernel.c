/*
 * The kernel plane: the section `kernel`, and what listeners and clusters say of it: which sockets a rule is for (cgroups, uids,
 * executables, ports), capture, steer, network namespaces, PROXY headers.
 *
 * What would silently mean "everybody" is refused (an entry of bypass.allow without a condition) or warned of (a capture or steer
 * without one), and whether the kernel can do it is not asked here: a configuration must be checkable on any machine. Whether a
 * cgroup, namespace or program exists is not asked either: it may come later.
 */
#include "base/clean.h"
#include "base/log.h"
#include "config/build.h"
#include <assert.h>
#include <string.h>

#define KERNEL_LIST 1024u /* entries of any list here: they become map entries that are walked per connection */

/* ---- lists: in the model a pointer, and right behind it the number of entries ---- */

#define LIST_OK(type, list)                                                                   \
	static_assert(offsetof(type, n_##list) == offsetof(type, list) + sizeof(const void *) && \
			      sizeof(((type *)NULL)->n_##list) == sizeof(uint32_t),               \
		      "list_read() writes both")
LIST_OK(struct cfg_who, cgroups);
LIST_OK(struct cfg_who, uids);
LIST_OK(struct cfg_who, executables);
LIST_OK(struct cfg_who, ports);
LIST_OK(struct cfg_capture, to);
LIST_OK(struct cfg_capture, except);
LIST_OK(struct cfg_capture, except_ports);
LIST_OK(struct cfg_steer, to);
LIST_OK(struct cfg_steer, ports);
LIST_OK(struct cfg_steer, except_ports);
LIST_OK(struct cfg_listener, proxy_from);
LIST_OK(struct cfg_bypass, allow);

static int list_read(struct build *b, const struct tree_node *n, const struct where *w, bool or_one, size_t size, schema_item *item,
		     void *to)
{
	uint32_t count = schema_count(n);
	void *all = arena_array(&b->own->arena, count, size);
	int r;

	if (!all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, or_one, KERNEL_LIST, item, all);
	if (r < 0)
		return r;
	if (!count)
		return say_at(b->err, n, w, "is empty: nothing would match; leave the key out for any");
	memcpy(to, &all, sizeof(all));
	memcpy((char *)to + sizeof(all), &count, sizeof(count));
	return 0;
}

/* ---- ports ---- */

/* digits from 1 to 65535; Return: what follows them, or NULL */
static const char *port_read(const char *s, uint16_t *ret)
{
	uint32_t v = 0;
	const char *p;

	for (p = s; *p >= '0' && *p <= '9' && v <= UINT16_MAX; p++)
		v = v * 10 + (uint32_t)(*p - '0');
	if (p == s || !v || v > UINT16_MAX)
		return NULL;
	*ret = (uint16_t)v;
	return p;
}

int ports_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct cfg_ports *p = &((struct cfg_ports *)arg)[index];
	char q[SAY_QUOTED];
	const char *end;

	if (n->kind != TREE_SCALAR || tree_null(n))
		return say_at(b->err, n, w, "want a port or a range like \"8000-9000\", not %s", tree_kind_str(n));
	end = port_read(n->text, &p->first);
	p->last = p->first;
	if (end && *end == '-')
		end = port_read(end + 1, &p->last);
	if (!end || *end)
		return say_at(b->err, n, w, "%s: want a port from 1 to 65535, or a range like \"8000-9000\"",
			      say_quote(q, n->text, n->n));
	if (p->first > p->last)
		return say_at(b->err, n, w, "%s: a range begins with its lower port", say_quote(q, n->text, n->n));
	return 0;
}

static int ports_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return list_read(b, n, w, true, sizeof(struct cfg_ports), ports_item, to);
}

/* ---- who ---- */

/* an absolute path without "..", "//" and "/" at its end; "/" itself is one */
static bool path_plain(const char *s)
{
	if (s[0] != '/')
		return false;
	for (; *s; s++)
		if (s[0] == '/' && (s[1] == '/' || (s[1] == '.' && (s[2] == '/' || !s[2])) ||
				    (s[1] == '.' && s[2] == '.' && (s[3] == '/' || !s[3]))))
			return false;
	return true;
}

/* "/shop.slice/" is "/shop.slice" */
static int cgroup_read(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	char q[SAY_QUOTED];
	const char *s;
	size_t len;
	int r = value_text(b, n, w, BUILD_TEXT, &s);

	if (r < 0)
		return r;
	if (!path_plain(s))
		return say_at(b->err, n, w, "%s: want a path below the cgroup2 mount that starts with \"/\", like \"/system.slice\"",
			      say_quote(q, n->text, n->n));
	len = strlen(s);
	*ret = arena_text(&b->own->arena, s, len > 1 && s[len - 1] == '/' ? len - 1 : len);
	return *ret ? 0 : say_no_memory(b->err);
}

static int cgroup_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	return cgroup_read(b, n, w, &((const char **)arg)[index]);
}

int cgroups_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return list_read(b, n, w, true, sizeof(const char *), cgroup_item, to);
}

static int uid_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	uint64_t v = 0;
	int r = value_number(b, n, w, 0, UINT32_MAX - 1, &v); /* (uid_t)-1 is nobody: setresuid(2) */

	if (r >= 0)
		((uint32_t *)arg)[index] = (uint32_t)v;
	return r;
}

int uids_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return list_read(b, n, w, true, sizeof(uint32_t), uid_item, to);
}

static int executable_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	const char **all = arg;
	char q[SAY_QUOTED];
	int r = value_text(b, n, w, 4095, &all[index]);

	if (r >= 0 && (!path_plain(all[index]) || all[index][strlen(all[index]) - 1] == '/'))
		return say_at(b->err, n, w, "%s: want the absolute path of a program, as /proc/PID/exe says",
			      say_quote(q, n->text, n->n));
	return r;
}

static int executables_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return list_read(b, n, w, true, sizeof(const char *), executable_item, to);
}

#define CALL(type, name, member, function)                                                      \
	{                                                                                       \
		.key = name, .kind = F_CALL, .call = function, .off = offsetof(struct type, member) \
	}

static const struct field who_fields[] = {
	CALL(cfg_who, "cgroups", cgroups, cgroups_read),
	CALL(cfg_who, "uids", uids, uids_read),
	CALL(cfg_who, "executables", executables, executables_read),
	CALL(cfg_who, "ports", ports, ports_read),
	{.key = NULL},
};
static const struct table who_table = {.fields = who_fields};

/* ---- bypass, kernel ---- */

static int allow_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct cfg_who *who = &((struct cfg_who *)arg)[index];
	int r = schema_read(b, &who_table, 0, n, w, who);

	if (r >= 0 && !n->n)
		return say_at(b->err, n, w, "would allow everybody: want at least one of cgroups, uids, executables and ports");
	return r;
}

static int allow_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	if (n->kind == TREE_LIST && !n->n)
		return 0; /* nobody */
	return list_read(b, n, w, false, sizeof(struct cfg_who), allow_item, to);
}

static int pin_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	const char **pin = to;
	char q[SAY_QUOTED];
	int r;

	*pin = NULL;
	if (n->kind == TREE_SCALAR && !strcmp(n->text, "none"))
		return 0;
	r = value_text(b, n, w, 200, pin);
	if (r >= 0 && (!path_plain(*pin) || !(*pin)[1]))
		return say_at(b->err, n, w, "%s: want none, or the absolute path of a folder in a bpffs, like /sys/fs/bpf/adit",
			      say_quote(q, n->text, n->n));
	return r;
}

static int attach_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return cgroup_read(b, n, w, to);
}

static const char *const switches[] = {"auto", "on", "off", NULL}; /* enum cfg_switch */

#define BYPASS(m) .off = offsetof(struct cfg_bypass, m)
static const struct field bypass_fields[] = {
	{.key = "enabled", .kind = F_BOOL, BYPASS(enabled)},
	{.key = "allow", .kind = F_CALL, .call = allow_read, BYPASS(allow), .may_be_empty = true},
	{.key = "evidence", .kind = F_ENUM, BYPASS(evidence), .names = switches},
	{.key = "legs", .kind = F_BOOL, BYPASS(legs)},
	{.key = "after", .kind = F_U32, BYPASS(after), .min = 1, .max = 1000000},
	{.key = "queue_bytes", .kind = F_SIZE32, BYPASS(queue_bytes), .min = 1024, .max = 16 << 20},
	{.key = "queue_messages", .kind = F_U32, BYPASS(queue_messages), .min = 1, .max = 4096},
	{.key = "bulk", .kind = F_SIZE64, BYPASS(bulk), .max = 1ull << 50},
	{.key = NULL},
};
static const struct table bypass_table = {.fields = bypass_fields};

#define KERNEL(m) .off = offsetof(struct cfg_kernel, m)
static const struct field kernel_fields[] = {
	{.key = "bypass", .kind = F_MAP, KERNEL(bypass), .table = &bypass_table, .may_be_empty = true},
	{.key = "splice", .kind = F_ENUM, KERNEL(splice), .names = switches},
	{.key = "splice_above", .kind = F_SIZE32, KERNEL(splice_above), .min = 1, .max = 1 << 30},
	{.key = "ktls", .kind = F_ENUM, KERNEL(ktls), .names = switches},
	{.key = "pin", .kind = F_CALL, .call = pin_read, KERNEL(pin)},
	{.key = "cgroup", .kind = F_CALL, .call = attach_read, KERNEL(cgroup)},
	{.key = "orphan", .kind = F_TIME, KERNEL(orphan_ms), .min = 1},
	{.key = NULL},
};
const struct table kernel_table = {.fields = kernel_fields};

void kernel_preset(struct cfg_kernel *k)
{
	*k = (struct cfg_kernel){
		.bypass = {.legs = true, .after = 3, .queue_bytes = 65536, .queue_messages = 64, .bulk = 8 << 20},
		.splice_above = CFG_SPLICE_ABOVE,
		.pin = "/sys/fs/bpf/adit",
		.cgroup = "/",
		.orphan_ms = 30000,
	};
}

/* ---- listeners: capture, steer, proxy_from; clusters share netns ---- */

static int cidr_list_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return list_read(b, n, w, true, sizeof(struct cidr), cidr_item, to);
}

static int away_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	static const char *const ways[] = {"open", "closed", NULL};
	uint32_t i = 0;
	int r = value_enum(b, n, w, ways, &i);

	if (r >= 0)
		*(bool *)to = i == 1;
	return r;
}

static const struct field capture_fields[] = {
	CALL(cfg_capture, "cgroups", who.cgroups, cgroups_read),
	CALL(cfg_capture, "uids", who.uids, uids_read),
	CALL(cfg_capture, "ports", who.ports, ports_read),
	CALL(cfg_capture, "to", to, cidr_list_read),
	CALL(cfg_capture, "except", except, cidr_list_read),
	CALL(cfg_capture, "except_ports", except_ports, ports_read),
	CALL(cfg_capture, "when_away", fail_closed, away_read),
	{.key = NULL},
};
static const struct table capture_table = {.fields = capture_fields};

int capture_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct cfg_capture **ret = to;

	*ret = arena_alloc(&b->own->arena, sizeof(**ret));
	return *ret ? schema_read(b, &capture_table, 0, n, w, *ret) : say_no_memory(b->err);
}

static const struct field steer_fields[] = {
	CALL(cfg_steer, "to", to, cidr_list_read),
	CALL(cfg_steer, "ports", ports, ports_read),
	CALL(cfg_steer, "except_ports", except_ports, ports_read),
	{.key = NULL},
};
static const struct table steer_table = {.fields = steer_fields};

int steer_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct cfg_steer **ret = to;

	*ret = arena_alloc(&b->own->arena, sizeof(**ret));
	return *ret ? schema_read(b, &steer_table, 0, n, w, *ret) : say_no_memory(b->err);
}

static int peer_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	const struct cidr *c = &((struct cidr *)arg)[index];
	char q[SAY_QUOTED];
	int r = cidr_item(b, n, w, index, arg);

	if (r >= 0 && c->port_first)
		return say_at(b->err, n, w, "%s: a port means nothing here, those who connect may have any", say_quote(q, n->text, n->n));
	return r;
}

int proxy_from_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return list_read(b, n, w, true, sizeof(struct cidr), peer_item, to);
}

int netns_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	const char **ret = to;
	char q[SAY_QUOTED];
	const char *s;
	bool ok;
	int r = value_text(b, n, w, BUILD_TEXT, ret);

	if (r < 0)
		return r;
	s = *ret;
	if (!strncmp(s, "pid:", 4))
		ok = s[4] >= '1' && s[4] <= '9' && strlen(s + 4) <= 7 && strspn(s + 4, "0123456789") == strlen(s + 4);
	else if (s[0] == '/')
		ok = path_plain(s) && s[strlen(s) - 1] != '/';
	else
		ok = !strchr(s, '/') && strcmp(s, ".") != 0 && strcmp(s, "..") != 0 && strlen(s) <= 255;
	return ok ? 0
		  : say_at(b->err, n, w, "%s: want a name of \"ip netns\", pid:NUMBER, or the absolute path of a namespace",
			   say_quote(q, n->text, n->n));
}

/* ---- what must fit together ---- */

static bool any_address(const struct addr *a)
{
	static const uint8_t zero[16];

	return !memcmp(a->ip, zero, a->family == AF_INET ? 4 : 16);
}

int kernel_listener(struct build *b, const struct tree_node *n, const struct where *w, const struct cfg_listener *l)
{
	const struct tree_entry *capture = tree_get(n, "capture"), *proxy = tree_get(n, "proxy_protocol"),
				*from = tree_get(n, "proxy_from");

	if (l->proxy_protocol && !from)
		return say_at(b->err, proxy->key, w,
			      "'proxy_protocol' without 'proxy_from': whose PROXY headers are to be believed? List their networks");
	if (!l->proxy_protocol && from)
		return say_at(b->err, from->key, w, "'proxy_from' without 'proxy_protocol: true'");
	if (!l->capture)
		return 0;
	if (l->proxy_protocol)
		return say_at(b->err, capture->key, w, "'capture' beside 'proxy_protocol': captured applications send no PROXY header");
	if (any_address(&l->address))
		return say_at(b->err, tree_get(n, "address")->value, w,
			      "a listener with 'capture' needs an address to send applications to, such as \"127.0.0.1:%u\"",
			      l->address.port);
	return 0;
}

static bool everybody(const struct cfg_who *w)
{
	return !w->n_cgroups && !w->n_uids && !w->n_executables && !w->n_ports;
}

static void listener_warn(const struct build *b, const struct cfg_listener *l, const char *key, const char *what)
{
	const struct tree_node *at = tree_get(b->listeners.at[l->id], key)->key;

	log_warn(LA_CONFIG, "%s:%u:%u: listeners[%u] '%s' %s: %s", say_file(at->file), at->line, at->col, l->id, l->name, key, what);
}

static void section_warn(const struct tree_entry *section, const char *path, const char *key, const char *what)
{
	const struct tree_entry *e = section ? tree_get(section->value, key) : NULL;

	if (e)
		log_warn(LA_CONFIG, "%s:%u:%u: %s.%s: %s", say_file(e->key->file), e->key->line, e->key->col, path, key, what);
}

/* suspicious, not wrong */
void kernel_check(struct build *b)
{
	const struct config *c = b->c;
	const struct cfg_kernel *k = &c->kernel;
	const struct tree_entry *kernel = tree_get(b->root, "kernel"), *bypass = kernel ? tree_get(kernel->value, "bypass") : NULL;
	uint32_t i;

	if (k->bypass.enabled && !k->bypass.n_allow)
		section_warn(bypass, "kernel.bypass", "enabled", "nobody is on the list 'allow': no connection will be bypassed");
	if (c->mover == MOVER_RELAY && k->bypass.enabled)
		section_warn(bypass, "kernel.bypass", "enabled", "unused: mover is relay");
	if (c->mover == MOVER_RELAY && k->splice == SWITCH_ON)
		section_warn(kernel, "kernel", "splice", "unused: mover is relay");
	if (c->mover == MOVER_RELAY && k->ktls == SWITCH_ON)
		section_warn(kernel, "kernel", "ktls", "unused: mover is relay");
	for (i = 0; i < c->n_listeners; i++) {
		const struct cfg_listener *l = &c->listeners[i];

		if (l->capture && everybody(&l->capture->who) && !l->capture->n_to)
			listener_warn(b, l, "capture",
				      "takes every TCP connection that this node opens; say whose with cgroups, uids, ports or to");
		if (l->steer && !l->steer->n_to && !l->steer->n_ports)
			listener_warn(b, l, "steer",
				      "takes every TCP connection that comes to this node, ssh too; say which with to or ports");
	}
}
