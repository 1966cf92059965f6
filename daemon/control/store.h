/*
 * The applied policies on disk: STATE_DIR/policies.yaml, one source of the configuration's own schema behind a line that says which
 * generation it is and how to tell that it is whole. Replaced as a whole, so it is always the old or the new one. Main thread.
 */
#pragma once
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

#define STORE_FILE "policies.yaml"

/** struct store_text - the file as it is; zeroed: there is none yet */
struct store_text {
	char *path; /* DIR/policies.yaml */
	char *temp; /* what is written first; only of store_write() */
	char *text; /* NUL-terminated, with its first line, so that places in messages are the file's; NULL: no file */
	size_t n;
	uint64_t generation; /* of the last change; 0: never changed */
};
/**
 * store_load() - read it; free with store_finish(). No folder or no file is a beginning, no error.
 * Return: 0; -EBADMSG with what to do when the file is damaged; -EACCES, -EPERM when it is not ours alone; -errno.
 */
int store_load(const char *dir, struct store_text *ret, struct err *reterr);
/**
 * store_write() - put beside it what shall replace it: @body, YAML of @n bytes, as generation @old->generation + 1
 * The folder is made if it is missing. What is on disk must still be of @old's generation, or another daemon uses the same folder.
 * Return: 0 and *ret (@old stays the caller's), then store_commit() or store_drop(); or -errno with the sentence, nothing changed.
 */
int store_write(const char *dir, const struct store_text *old, const char *body, size_t n, struct store_text *ret, struct err *reterr);
/** store_commit() - what was written takes its place, at once. Return: 0, or -errno with the sentence: then it is dropped. */
int store_commit(const char *dir, const struct store_text *s, struct err *reterr);
void store_drop(const struct store_text *s);
void store_finish(struct store_text *s);

/** store_folder() - make @dir (0700) unless it is there, and see that nobody else may write to it. Return: 0 or -errno with the sentence. */
int store_folder(const char *dir, struct err *reterr);
