/*
 * config_load(): files -> texts -> trees -> one tree -> struct config. Lists of all files are appended; anything else may be in one file
 * only. Nothing of the trees outlives the build; what the configuration keeps is copied to its own arena.
 */
#include "base/clean.h"
#include "base/log.h"
#include "config/build.h"
#include "config/parts.h"
#include "model/workload.h"
#include "policy/policy.h"
#include "policy/route.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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

static int yaml_add(struct build *b, const char *name, const char *text, size_t n)
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

/* @path and @text are taken, whatever comes of it */
static int source_add(struct config_sources *s, char *path, char *text, size_t n, struct err *e)
{
	struct config_source *more = realloc(s->at, (s->n + 1u) * sizeof(*more));

	if (more)
		s->at = more;
	if (!more || !path) {
		free(path);
		free(text);
		return say_no_memory(e);
	}
	s->at[s->n++] = (struct config_source){.name = path, .text = text, .n = n};
	return 0;
}

static int file_add(struct config_sources *s, const char *path, struct err *e)
{
	char *text = NULL, *less;
	size_t n = 0;
	int r = file_read(path, &text, &n, e);

	if (r < 0)
		return r;
	less = realloc(text, n + 1);
	return source_add(s, strdup(path), less ? less : text, n, e);
}

/* ---- conf.d ---- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int dir_list(DIR *d, const char *path, char **names, uint32_t *ret_n, struct err *err)
{
	const struct dirent *e;
	uint32_t n = 0;
	size_t len;

	while (errno = 0, (e = readdir(d))) {
		len = strlen(e->d_name);
		if (e->d_name[0] == '.' || len < 6 || strcmp(e->d_name + len - 5, ".yaml") != 0)
			continue;
		if (n == FILES_MAX)
			return err_set(err, -EINVAL, "%s: more than %u files", say_file(path), FILES_MAX);
		if (asprintf(&names[n], "%s%s", path, e->d_name) < 0) {
			names[n] = NULL;
			return say_no_memory(err);
		}
		*ret_n = ++n;
	}
	if (errno)
		return err_set(err, -errno, "%s: %s", say_file(path), strerror(errno));
	qsort(names, n, sizeof(*names), by_text);
	return 0;
}

static int conf_d_add(struct config_sources *s, const char *path, struct err *e)
{
	const char *slash = strrchr(path, '/');
	AUTO_FREE char **names = calloc(FILES_MAX, sizeof(*names));
	AUTO_FREE char *dir = NULL;
	uint32_t n = 0;
	DIR *d;
	int r;

	if (!names || asprintf(&dir, "%.*sconf.d/", slash ? (int)(slash - path) + 1 : 0, path) < 0)
		return say_no_memory(e);
	d = opendir(dir);
	if (!d && errno == ENOENT)
		return 0;
	if (!d)
		return err_set(e, -errno, "%s: %s", say_file(dir), strerror(errno));
	r = dir_list(d, dir, names, &n, e);
	closedir(d);
	for (uint32_t i = 0; i < n; i++) {
		if (r >= 0)
			r = file_add(s, names[i], e);
		free(names[i]);
	}
	return r;
}

int config_read(const char *path, struct config_sources *ret, struct err *reterr)
{
	int r;

	*ret = (struct config_sources){.at = NULL};
	r = file_add(ret, path, reterr);
	if (r >= 0)
		r = conf_d_add(ret, path, reterr);
	if (r < 0)
		config_sources_free(ret);
	return r;
}

void config_sources_free(struct config_sources *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		free(s->at[i].name);
		free(s->at[i].text);
	}
	free(TAKE(s->at));
	s->n = 0;
}

bool config_sources_equal(const struct config_sources *a, const struct config_sources *b)
{
	if (a->n != b->n)
		return false;
	for (uint32_t i = 0; i < a->n; i++)
		if (strcmp(a->at[i].name, b->at[i].name) || a->at[i].n != b->at[i].n || memcmp(a->at[i].text, b->at[i].text, a->at[i].n))
			return false;
	return true;
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
	if (r >= 0)
		r = check_all(b);
	return r < 0 ? r : parts_build(b);
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
		r = yaml_add(&b, name, text, n);
	if (r >= 0)
		r = build_tree(&b);
	return build_end(&b, r, ret);
}

int config_build(const struct config_sources *s, const struct config_source *more, struct config **ret, struct err *reterr)
{
	struct build b = {.err = reterr, .running = s->running};
	int r = build_begin(&b, s->n ? s->at[0].name : "");

	for (uint32_t i = 0; r >= 0 && i < s->n; i++)
		r = yaml_add(&b, s->at[i].name, s->at[i].text, s->at[i].n);
	if (r >= 0 && more)
		r = yaml_add(&b, more->name, more->text, more->n);
	if (r >= 0)
		r = build_tree(&b);
	return build_end(&b, r, ret);
}

int config_state_dir(const struct config_sources *s, char **ret, struct err *reterr)
{
	struct build b = {.err = reterr};
	struct config *c = NULL;
	int r = build_begin(&b, s->n ? s->at[0].name : "");

	*ret = NULL;
	for (uint32_t i = 0; r >= 0 && i < s->n; i++)
		r = yaml_add(&b, s->at[i].name, s->at[i].text, s->at[i].n);
	if (r >= 0)
		r = root_read(&b);
	if (r >= 0 && b.c->state_dir && !(*ret = strdup(b.c->state_dir)))
		r = say_no_memory(reterr);
	r = build_end(&b, r, &c);
	config_free(c);
	return r;
}

int config_load(const char *path, struct config **ret, struct err *reterr)
{
	struct config_sources s;
	int r = config_read(path, &s, reterr);

	if (r < 0)
		return r;
	r = config_build(&s, NULL, ret, reterr);
	config_sources_free(&s);
	return r;
}

void config_free(struct config *c)
{
	if (c)
		owned_free(c->arena);
}
