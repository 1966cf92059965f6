/*
 * config_load(): files -> trees -> one tree -> struct config. Lists of all files are appended; anything else may be in one file
 * only. Nothing of the trees outlives the build; what the configuration keeps is copied to its own arena.
 */
#include "base/clean.h"
#include "base/log.h"
#include "config/build.h"
#include "model/workload.h"
#include "policy/policy.h"
#include "policy/route.h"
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX  ((size_t)4 << 20)
#define FILES_MAX 256u

/* ---- reading ---- */

static int file_read(const char *path, char **ret, size_t *ret_n, struct err *e)
{
	AUTO_FREE char *text = NULL;
	struct stat st;
	size_t n = 0;
	ssize_t got;

	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return err_set(e, -errno, "%s: %s", say_file(path), strerror(errno));
	if (S_ISDIR(st.st_mode))
		return err_set(e, -EISDIR, "%s: is a directory", say_file(path));
	text = malloc(FILE_MAX + 1);
	if (!text)
		return err_set(e, -ENOMEM, "%s: out of memory", say_file(path));
	do {
		got = read(fd, text + n, FILE_MAX + 1 - n);
		if (got < 0 && errno != EINTR)
			return err_set(e, -errno, "%s: %s", say_file(path), strerror(errno));
		n += got > 0 ? (size_t)got : 0;
	} while (got && n <= FILE_MAX);
	if (n > FILE_MAX)
		return err_set(e, -EFBIG, "%s: larger than 4 MiB", say_file(path));
	*ret = TAKE(text);
	*ret_n = n;
	return 0;
}

/* ---- many files, one tree ---- */

static bool list_key(const char *key)
{
	return !strcmp(key, "listeners") || !strcmp(key, "clusters") || !strcmp(key, "identities") || !strcmp(key, "policies") ||
	       !strcmp(key, "workloads");
}

static int append(struct build *b, struct tree_node *list, struct tree_node *key, struct tree_node *value)
{
	struct tree_entry *e = arena_alloc(&b->scratch, sizeof(*e));

	if (!e)
		return say_no_memory(b->err);
	e->key = key;
	e->value = value;
	*list->last = e;
	list->last = &e->next;
	list->n++;
	return 0;
}

/* a new list with the entries of both: entries may be shared with an alias and stay as they are */
static int lists_join(struct build *b, struct tree_entry *old, const struct tree_node *more)
{
	struct tree_node *both = arena_alloc(&b->scratch, sizeof(*both));
	const struct tree_node *from[] = {old->value, more};
	const struct tree_entry *e;
	size_t i;
	int r;

	if (!both)
		return say_no_memory(b->err);
	*both = *old->value;
	both->n = 0;
	both->first = NULL;
	both->last = &both->first;
	for (i = 0; i < ARRAY_LEN(from); i++)
		for (e = from[i]->first; e; e = e->next) {
			r = append(b, both, NULL, e->value);
			if (r < 0)
				return r;
		}
	old->value = both;
	return 0;
}

static int entry_merge(struct build *b, const struct tree_entry *e)
{
	struct tree_entry *old = (struct tree_entry *)tree_get(b->root, e->key->text); /* root's entries are ours */
	struct where w = {.key = e->key->text};
	const struct tree_node *odd;

	if (!old)
		return append(b, b->root, e->key, e->value);
	if (!list_key(e->key->text))
		return say_at(b->err, e->key, &w, "is set in two files, first at %s:%u:%u", say_file(old->key->file),
			      old->key->line, old->key->col);
	if (tree_null(e->value))
		return 0;
	if (tree_null(old->value)) {
		old->value = e->value;
		return 0;
	}
	odd = e->value->kind != TREE_LIST ? e->value : old->value;
	if (odd->kind != TREE_LIST)
		return say_at(b->err, odd, &w, "want a list, not %s", tree_kind_str(odd));
	return lists_join(b, old, e->value);
}

static int tree_merge(struct build *b, const struct tree_node *n)
{
	const struct tree_entry *e;
	int r;

	if (!n)
		return 0;
	if (n->kind != TREE_MAP)
		return say_at(b->err, n, NULL, "want a mapping (key: value) at the top, not %s", tree_kind_str(n));
	if (!b->root->file) {
		b->root->file = n->file;
		b->root->line = n->line;
		b->root->col = n->col;
	}
	for (e = n->first; e; e = e->next) {
		r = entry_merge(b, e);
		if (r < 0)
			return r;
	}
	return 0;
}

static int text_add(struct build *b, const char *name, const char *text, size_t n)
{
	struct tree_node *tree = NULL;
	const char *file = arena_text(&b->scratch, name, strlen(name));
	int r;

	if (!file)
		return say_no_memory(b->err);
	if (n > FILE_MAX)
		return err_set(b->err, -EFBIG, "%s: larger than 4 MiB", say_file(file));
	r = tree_parse(&b->scratch, file, text, n, &tree, b->err);
	return r < 0 ? r : tree_merge(b, tree);
}

static int file_add(struct build *b, const char *path)
{
	AUTO_FREE char *text = NULL;
	size_t n = 0;
	int r = file_read(path, &text, &n, b->err);

	return r < 0 ? r : text_add(b, path, text, n);
}

/* ---- conf.d ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int dir_list(struct build *b, DIR *d, const char *path, const char **names, uint32_t *ret_n)
{
	const struct dirent *e;
	uint32_t n = 0;
	size_t len;

	while (errno = 0, (e = readdir(d))) {
		len = strlen(e->d_name);
		if (e->d_name[0] == '.' || len < 6 || strcmp(e->d_name + len - 5, ".yaml") != 0)
			continue;
		if (n == FILES_MAX)
			return err_set(b->err, -EINVAL, "%s: more than %u files", say_file(path), FILES_MAX);
		names[n] = arena_text(&b->scratch, e->d_name, len);
		if (!names[n++])
			return say_no_memory(b->err);
	}
	if (errno)
		return err_set(b->err, -errno, "%s: %s", say_file(path), strerror(errno));
	qsort(names, n, sizeof(*names), by_text);
	*ret_n = n;
	return 0;
}

static char *join(struct build *b, const char *dir, const char *name)
{
	size_t n = strlen(dir);
	char *s = arena_alloc(&b->scratch, n + strlen(name) + 1);

	if (!s)
		return NULL;
	memcpy(s, dir, n);
	strcpy(s + n, name);
	return s;
}

static int conf_d_add(struct build *b)
{
	const char **names = arena_array(&b->scratch, FILES_MAX, sizeof(*names));
	char *dir = join(b, b->dir, "conf.d/"), *path;
	uint32_t i, n = 0;
	DIR *d;
	int r;

	if (!names || !dir)
		return say_no_memory(b->err);
	d = opendir(dir);
	if (!d && errno == ENOENT)
		return 0;
	if (!d)
		return err_set(b->err, -errno, "%s: %s", say_file(dir), strerror(errno));
	r = dir_list(b, d, dir, names, &n);
	closedir(d);
	for (i = 0; i < n && r >= 0; i++) {
		path = join(b, dir, names[i]);
		r = path ? file_add(b, path) : say_no_memory(b->err);
	}
	return r;
}

/* ---- building ---- */

static int build_tree(struct build *b)
{
	int r;

	r = root_read(b);
	if (r < 0)
		return r;
	r = names_read(b, "identities", BUILD_IDENTITIES, &b->identities);
	if (r < 0)
		return r;
	r = names_read(b, "clusters", BUILD_CLUSTERS, &b->clusters);
	if (r < 0)
		return r;
	r = names_read(b, "listeners", BUILD_LISTENERS, &b->listeners);
	if (r < 0)
		return r;
	r = names_read(b, "workloads", WORKLOADS_MAX, &b->workloads);
	if (r < 0)
		return r;
	r = names_read(b, "policies", POLICY_MAX, &b->policies);
	if (r < 0)
		return r;
	r = clusters_slots(b);
	if (r < 0)
		return r;
	r = listeners_slots(b);
	if (r < 0)
		return r;
	r = identities_read(b);
	if (r < 0)
		return r;
	r = clusters_read(b);
	if (r < 0)
		return r;
	r = listeners_read(b);
	if (r < 0)
		return r;
	r = workloads_read(b);
	if (r < 0)
		return r;
	r = policies_read(b);
	return r < 0 ? r : check_all(b);
}

static void owned_free(struct build_owned *own)
{
	struct build_regex *x;
	struct arena a = own->arena;

	for (x = own->regexes; x; x = x->next)
		match_release(x->match);
	policy_free(own->policy_set);
	arena_finish(&a); /* own lies in it */
}

static int build_begin(struct build *b, const char *path)
{
	const char *slash = strrchr(path, '/');
	struct arena a = {NULL};

	b->own = arena_alloc(&a, sizeof(*b->own));
	if (!b->own)
		return say_no_memory(b->err);
	b->own->arena = a;
	b->c = arena_alloc(&b->own->arena, sizeof(*b->c));
	b->root = arena_alloc(&b->scratch, sizeof(*b->root));
	b->dir = arena_text(&b->own->arena, path, slash ? (size_t)(slash - path) + 1 : 0);
	if (!b->c || !b->root || !b->dir)
		return say_no_memory(b->err);
	b->c->arena = b->own;
	b->root->kind = TREE_MAP;
	b->root->last = &b->root->first;
	return 0;
}

static int build_end(struct build *b, int r, struct config **ret)
{
	arena_finish(&b->scratch);
	if (r >= 0)
		*ret = b->c;
	else if (b->own)
		owned_free(b->own);
	return r;
}

int config_parse(const char *name, const char *text, size_t n, struct config **ret, struct err *reterr)
{
	struct build b = {.err = reterr};
	int r = build_begin(&b, name);

	if (r >= 0)
		r = text_add(&b, name, text, n);
	if (r >= 0)
		r = build_tree(&b);
	return build_end(&b, r, ret);
}

int config_load(const char *path, struct config **ret, struct err *reterr)
{
	struct build b = {.err = reterr};
	int r = build_begin(&b, path);

	if (r >= 0)
		r = file_add(&b, path);
	if (r >= 0)
		r = conf_d_add(&b);
	if (r >= 0)
		r = build_tree(&b);
	return build_end(&b, r, ret);
}

void config_free(struct config *c)
{
	if (c)
		owned_free(c->arena);
}
