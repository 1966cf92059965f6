/*
 * A ClientHello's way to its server_name. Only what leads there is read, but that strictly: what is skipped must have the length it says,
 * and the hello must end where its parts end, so that nobody finds another name in it than the library that makes the handshake.
 */
#include "codec/hello.h"
#include <string.h>

#define RECORD_HEAD 5u
#define RECORD_MAX  16384u
#define HANDSHAKE   22u
#define HELLO_HEAD  4u
#define EXT_NAME    0u

struct cursor {
	const uint8_t *p;
	size_t n;
	bool bad;
};

/* @n bytes from the front; NULL: there are not so many */
static const uint8_t *cut(struct cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || c->n < n) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	c->n -= n;
	return p;
}

static size_t number(struct cursor *c, size_t bytes)
{
	const uint8_t *p = cut(c, bytes);
	size_t v = 0;

	for (size_t i = 0; p && i < bytes; i++)
		v = v << 8 | p[i];
	return v;
}

/* a vector with its length in front */
static struct cursor vector(struct cursor *c, size_t bytes)
{
	size_t n = number(c, bytes);
	const uint8_t *p = cut(c, n);

	return (struct cursor){.p = p, .n = p ? n : 0, .bad = !p};
}

/* records to one message, in place. Return: as hello_server_name(), *ret_len its length when 1 */
static int join(uint8_t *p, size_t n, size_t *ret_len, struct err *reterr)
{
	size_t at = 0, have = 0, want = HELLO_HEAD;

	while (have < want) {
		size_t len;

		if (at < n && p[at] != HANDSHAKE)
			return err_set(reterr, -EINVAL, "no TLS hello: a record of type %u", p[at]);
		if (n - at >= 2 && p[at + 1] != 3)
			return err_set(reterr, -EINVAL, "no TLS hello: a record of version %u", p[at + 1]);
		if (n - at < RECORD_HEAD)
			return 0;
		len = (size_t)p[at + 3] << 8 | p[at + 4];
		if (!len || len > RECORD_MAX)
			return err_set(reterr, -EINVAL, "no TLS hello: a record of %zu bytes", len);
		if (n - at - RECORD_HEAD < len)
			return 0;
		memmove(p + have, p + at + RECORD_HEAD, len);
		have += len;
		at += RECORD_HEAD + len;
		if (p[0] != 1)
			return err_set(reterr, -EINVAL, "no TLS hello: a message of type %u", p[0]);
		if (have >= HELLO_HEAD)
			want = HELLO_HEAD + ((size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3]);
		if (want > HELLO_MAX)
			return err_set(reterr, -EINVAL, "a TLS hello of %zu bytes", want);
	}
	if (have > want)
		return err_set(reterr, -EINVAL, "something follows the TLS hello");
	*ret_len = want;
	return 1;
}

static bool name_of(struct cursor ext, struct slice *ret)
{
	struct cursor list = vector(&ext, 2), name;
	size_t type = number(&list, 1);

	name = vector(&list, 2);
	/* one name, of the only type there is */
	if (ext.n || list.n || list.bad || name.bad || type || !name.n || name.n > HELLO_NAME_MAX || memchr(name.p, 0, name.n))
		return false;
	*ret = (struct slice){(const char *)name.p, name.n};
	return true;
}

int hello_server_name(uint8_t *p, size_t n, struct slice *ret, struct err *reterr)
{
	struct cursor c, ext;
	struct slice name = {NULL, 0};
	bool bad = false;
	size_t len = 0;
	int r = join(p, n < HELLO_MAX ? n : HELLO_MAX, &len, reterr);

	if (r == 0 && n >= HELLO_MAX)
		return err_set(reterr, -EINVAL, "a TLS hello in too many pieces");
	if (r <= 0)
		return r;
	c = (struct cursor){.p = p + HELLO_HEAD, .n = len - HELLO_HEAD};
	(void)cut(&c, 2 + 32);
	(void)vector(&c, 1); /* session */
	(void)vector(&c, 2); /* suites */
	(void)vector(&c, 1); /* compression */
	ext = vector(&c, 2);
	while (ext.n && !ext.bad && !bad) {
		size_t type = number(&ext, 2);
		struct cursor one = vector(&ext, 2);

		if (!one.bad && type == EXT_NAME)
			bad = name.n || !name_of(one, &name);
	}
	if (c.bad || c.n || ext.bad || bad)
		return err_set(reterr, -EINVAL, "a malformed TLS hello");
	*ret = name;
	return 1;
}
