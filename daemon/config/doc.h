/*
 * Policies as documents: the `policies:` of a YAML text taken apart into single ones, each written again in one canonical form.
 * That form is what is kept, shown, compared and applied again: no comments, no anchors, one key per line. Whether it makes sense
 * is not judged here: config_build() and policies_read() do. Main thread; also aditctl.
 */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include <stdbool.h>
#include <stdint.h>

/** struct doc_policy - one of them; texts live as long as the document */
struct doc_policy {
	const char *name;
	const char *file; /* as given to doc_parse() */
	uint32_t line;	  /* where it begins there */
	const char *text; /* its keys, from column 0 on, each line ended; doc_put() indents */
	uint32_t n;	  /* bytes of text */
};
/** struct doc - zeroed is empty */
struct doc {
	struct doc_policy *at; /* in the order given */
	uint32_t n;
	uint32_t *sorted; /* indices, by name */
	bool source;	  /* it is a file of the configuration as it stands: {policies: [...]} */
	void *own;
};

enum doc_kind {
	DOC_CONFIG, /* a configuration file: `policies` is taken, other keys are somebody else's */
	DOC_APPLY,  /* what people hand in: {policies: [...]}, [...], or one policy alone; nothing beside them */
};
/**
 * doc_parse() - @name stands for the file in messages; copied
 * Return: 0, or -EINVAL (no YAML, no policy, two of one name), -EFBIG, -ENOMEM with the sentence "FILE:LINE:COLUMN: ...".
 */
int doc_parse(const char *name, const char *text, size_t n, enum doc_kind kind, struct doc *ret, struct err *reterr);
/** doc_append() - the policies of @more behind those of @d, copied; names are not compared. Return: 0 or -ENOMEM, @d as it was. */
int doc_append(struct doc *d, const struct doc *more);
void doc_finish(struct doc *d);

/** doc_find() - Return: index, or UINT32_MAX. */
uint32_t doc_find(const struct doc *d, const char *name);
/** doc_put() - @p as an entry of a list, "  - name: ...", to @out */
void doc_put(struct text *out, const struct doc_policy *p);

struct tree_node;
/** doc_write() - any tree in the canonical form, indented by @in blanks, to @out */
void doc_write(struct text *out, const struct tree_node *n, unsigned in);

/**
 * doc_diff() - how @from becomes @to, line by line: "  same", "- gone", "+ new"; either may be NULL (a policy that comes or goes)
 * Long texts whose middle differs altogether are shown as wholly replaced: nothing here takes longer than a few ms.
 */
void doc_diff(struct text *out, const struct doc_policy *from, const struct doc_policy *to);
