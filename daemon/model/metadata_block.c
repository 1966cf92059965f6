/*
 * Reading a block of metadata: pairs of strings, one behind the other. Blocks are small (64 pairs by default), so a name that
 * is not among the known ones is found by walking.
 */
#include "model/metadata_block.h"
#include <assert.h>
#include <stdlib.h>

static_assert(sizeof(struct metadata) == offsetof(struct metadata, text), "no padding in what is hashed and compared");

struct metadata *metadata_get_ref(struct metadata *m)
{
	if (m)
		m->refs++;
	return m;
}

void metadata_put(struct metadata *m)
{
	if (m && --m->refs == 0)
		free(m);
}

bool metadata_eq(const struct metadata *a, const struct metadata *b)
{
	if (a == b)
		return true;
	return a && b && a->hash == b->hash && a->size == b->size &&
	       !memcmp((const char *)a + METADATA_CONTENT, (const char *)b + METADATA_CONTENT,
		       a->size - METADATA_CONTENT);
}

bool metadata_each(const struct metadata *m, uint32_t *pos, const char **ret_name, const char **ret_value)
{
	uint32_t len = m ? m->size - (uint32_t)sizeof(*m) : 0, at = *pos ? *pos : 1;

	if (at >= len)
		return false;
	*ret_name = m->text + at;
	at += (uint32_t)strlen(*ret_name) + 1;
	*ret_value = m->text + at;
	*pos = at + (uint32_t)strlen(*ret_value) + 1;
	return true;
}

const char *metadata_find(const struct metadata *m, const char *name)
{
	const char *k, *v;
	uint32_t pos = 0;

	while (metadata_each(m, &pos, &k, &v))
		if (!strcmp(k, name))
			return v;
	return NULL;
}
