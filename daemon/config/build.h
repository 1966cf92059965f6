/*
 * What the files of this folder share while one configuration is being built: tree (tree.h) -> struct config (model/config.h).
 * Main thread. All functions that return int: 0, or -EINVAL / -ENOMEM with the sentence in build->err.
 */
#pragma once
#include "config/arena.h"
#include "config/config.h"
#include "config/say.h"
#include "config/tree.h"

#define BUILD_LISTENERS	 4096u
#define BUILD_CLUSTERS	 4096u
#define BUILD_IDENTITIES 256u
#define BUILD_ENDPOINTS	 65536u
#define BUILD_ROUTES	 65536u /* all listeners together */
#define BUILD_LIST	 65536u /* entries of any other list */
#define BUILD_HEADERS	 64u	/* metadata, request_headers, response_headers: entries of each */
#define BUILD_NAME	 64u	/* bytes of a name */
#define BUILD_TEXT	 1024u	/* bytes of a free text */
#define BUILD_VALUE	 4096u	/* bytes of a metadata or header value */

/* compiled regexes are not in the arena: they are given back one by one */
struct build_regex {
	struct cfg_match *match;
	struct build_regex *next;
};

/* what config.arena points to */
struct build_owned {
	struct arena arena;
	struct build_regex *regexes;
	struct policy_set *policy_set;
};

/* one way out of a listener: kept for the checks of the whole graph */
struct build_edge {
	struct build_edge *next;
	const struct tree_node *at;
	const char *key; /* cluster, listener, forward */
	uint32_t route;	 /* index; BUILD_DEFAULT: the listener's own target */
	const struct cfg_target *target;
};
#define BUILD_DEFAULT UINT32_MAX

/* names of one list, sorted */
struct build_name {
	const char *name;
	uint32_t index;
};
struct build_names {
	struct build_name *sorted;
	uint32_t n;
	const struct tree_node **at; /* by index: the item's mapping */
};

struct build {
	struct config *c;
	struct build_owned *own; /* outlives the build */
	struct arena scratch;	 /* does not */
	struct err *err;
	const char *dir;	/* relative file names start here; "" or ends with '/' */
	struct tree_node *root; /* all files merged; a mapping */
	struct build_names listeners, clusters, identities, policies, workloads;
	struct build_edge **edges, **last_edge; /* by listener */
	uint32_t n_routes;
	bool running; /* config_sources.running */
};

/* ---- value.c: one scalar -> one C value ---- */
int value_text(struct build *b, const struct tree_node *n, const struct where *w, size_t max, const char **ret);
int value_name(struct build *b, const struct tree_node *n, const struct where *w, const char **ret);
int value_bool(struct build *b, const struct tree_node *n, const struct where *w, bool *ret);
int value_number(struct build *b, const struct tree_node *n, const struct where *w, uint64_t min, uint64_t max,
		 uint64_t *ret);
int value_time(struct build *b, const struct tree_node *n, const struct where *w, uint64_t min_ms, uint64_t *ret_ms);
int value_size(struct build *b, const struct tree_node *n, const struct where *w, uint64_t min, uint64_t max,
	       uint64_t *ret);
/** value_enum() - @names ends with NULL. */
int value_enum(struct build *b, const struct tree_node *n, const struct where *w, const char *const *names,
	       uint32_t *ret);
/** value_file() - a file name, absolute or relative to the configuration's folder */
int value_file(struct build *b, const struct tree_node *n, const struct where *w, const char **ret);
int value_addr(struct build *b, const struct tree_node *n, const struct where *w, struct addr *ret);
int value_spiffe(struct build *b, const struct tree_node *n, const struct where *w, const char **ret);

/* ---- schema.c: mappings and lists by table ---- */
enum field_kind {
	F_KNOWN, /* read elsewhere */
	F_BOOL,
	F_U16,
	F_U32,
	F_TIME, /* uint64_t, ms */
	F_SIZE32,
	F_SIZE64,
	F_NAME,
	F_FILE,
	F_ENUM,
	F_ADDR,
	F_MAP, /* a mapping whose members lie in the same struct, from off on */
	F_CALL,
};

/* @to: the struct that schema_read() fills, or, where the table gives an offset, the member */
typedef int schema_call(struct build *b, const struct tree_node *n, const struct where *w, void *to);

struct field {
	const char *key;
	enum field_kind kind;
	uint32_t off;
	uint64_t min, max;
	const char *const *names;  /* F_ENUM */
	const struct table *table; /* F_MAP */
	schema_call *call;	   /* F_CALL */
	uint32_t types;		   /* bits: for which `type` of item the key is; 0: all */
	bool required;
	bool may_be_empty; /* nothing after the colon: as if the key were absent */
};

struct table {
	const struct field *fields; /* key NULL ends it */
	const char *what;	    /* "listener": for "only for tunnel listeners" */
	const char *const *types;
};

/** schema_read() - all keys of mapping @n into the struct at @base; @type: bit number of the item's type, 0 if there are none */
int schema_read(struct build *b, const struct table *t, uint32_t type, const struct tree_node *n, const struct where *w,
		void *base);
/** schema_list() - call @item for every entry of a list; a single value counts as a list of one when @or_one */
typedef int schema_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg);
int schema_list(struct build *b, const struct tree_node *n, const struct where *w, bool or_one, uint32_t max,
		schema_item *item, void *arg);
uint32_t schema_count(const struct tree_node *n); /* entries that schema_list(or_one) will visit */
/** schema_texts() - a list of texts in the arena, each at most BUILD_TEXT */
int schema_texts(struct build *b, const struct tree_node *n, const struct where *w, const char ***ret, uint32_t *ret_n);

/* ---- names.c: what is called how, and references ---- */
int names_read(struct build *b, const char *key, uint32_t max, struct build_names *s);
/** names_unique() - sort @s and refuse the same name twice; @w is the list */
int names_unique(struct build *b, const struct where *w, struct build_names *s);
/** names_find() - Return: index, or UINT32_MAX. */
uint32_t names_find(const struct build_names *s, const char *name);
/** names_refer() - scalar @n names a @what of @s: *ret is its index; or unknown, with a guess */
int names_refer(struct build *b, const struct build_names *s, const char *what, const struct tree_node *n,
		const struct where *w, uint32_t *ret);
/** names_identity() - the identity named, or the only one there is. @n may be NULL (key absent), then @at is blamed. */
int names_identity(struct build *b, const struct tree_node *n, const struct tree_node *at, const struct where *w,
		   struct cfg_identity **ret);

/* ---- the sections ---- */
extern const struct table node_table, kernel_table, limits_table, timeouts_table, overload_table;
void node_preset(struct cfg_node *n);
/* members of struct cfg_node: text's @to is the member, the others' the struct */
schema_call node_text_read, node_workload_type_read, node_metadata_read, node_request_headers_read, node_response_headers_read;
void kernel_preset(struct cfg_kernel *k);
void limits_preset(struct cfg_limits *l);
void timeouts_preset(struct cfg_timeouts *t);
void overload_preset(struct cfg_overload *o);
int node_finish(struct build *b);
int limits_finish(struct build *b);

int root_read(struct build *b);
int identities_read(struct build *b);
/* slots: names and types, so that any other can refer to them; read: the rest */
int clusters_slots(struct build *b);
int clusters_read(struct build *b);
int listeners_slots(struct build *b);
int listeners_read(struct build *b);
int policies_read(struct build *b); /* after listeners and clusters */
int workloads_read(struct build *b); /* after them, too */
/** names_owner() - as names_identity(), but `workload` stands for the workload's own, and `identity_default` is what else */
int names_owner(struct build *b, const struct tree_node *item, const struct where *w, bool *ret_by_workload, struct cfg_identity **ret);
/** spans_read() - networks without ports */
int spans_read(struct build *b, const struct tree_node *n, const struct where *w, struct cidr **ret, uint32_t *ret_n);
schema_item cidr_item, ports_item /* struct cfg_ports */;
int cidrs_read(struct build *b, const struct tree_node *n, const struct where *w, struct cidr **ret, uint32_t *ret_n);
int spiffes_read(struct build *b, const struct tree_node *n, const struct where *w, const char ***ret, uint32_t *ret_n);

/* ---- kernel.c: members of listeners and clusters (schema_call); @to: the member ---- */
schema_call capture_read, steer_read, proxy_from_read, netns_read;
schema_call cgroups_read, uids_read; /* @to: the list, and behind it the number */
/** kernel_listener() - what of this listener must fit together */
int kernel_listener(struct build *b, const struct tree_node *n, const struct where *w, const struct cfg_listener *l);
/** kernel_check() - warn of what is suspicious; last */
void kernel_check(struct build *b);

/* ---- limits.c: rates and classes of limits; @to: struct cfg_rate, struct cfg_limits ---- */
schema_call rate_read, principals_read, sources_read;

/* ---- check.c: what only the whole shows ---- */
int check_all(struct build *b);
