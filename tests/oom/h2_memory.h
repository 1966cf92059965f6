/*
 * nghttp2's own allocations join the sweep: sessions are made with an allocator that goes through the wrapped malloc(), although
 * the library is shared. A program that includes this needs the line
 * link: -Wl,--wrap=nghttp2_session_server_new2 -Wl,--wrap=nghttp2_session_client_new2 -Wl,--wrap=nghttp2_session_callbacks_new
 * link: -Wl,--wrap=nghttp2_option_new
 * of both (as one).
 */
#pragma once
#include <nghttp2/nghttp2.h>
#include <stdlib.h>

static void *h2m_malloc(size_t n, void *arg)
{
	(void)arg;
	return malloc(n);
}

static void h2m_free(void *p, void *arg)
{
	(void)arg;
	free(p);
}

static void *h2m_calloc(size_t n, size_t size, void *arg)
{
	(void)arg;
	return calloc(n, size);
}

static void *h2m_realloc(void *p, size_t n, void *arg)
{
	(void)arg;
	return realloc(p, n);
}

static nghttp2_mem h2m = {NULL, h2m_malloc, h2m_free, h2m_calloc, h2m_realloc};

int __wrap_nghttp2_session_server_new2(nghttp2_session **ret, const nghttp2_session_callbacks *c, void *arg, const nghttp2_option *o);
int __wrap_nghttp2_session_client_new2(nghttp2_session **ret, const nghttp2_session_callbacks *c, void *arg, const nghttp2_option *o);
int __wrap_nghttp2_session_callbacks_new(nghttp2_session_callbacks **ret);
int __real_nghttp2_session_callbacks_new(nghttp2_session_callbacks **ret);
int __wrap_nghttp2_option_new(nghttp2_option **ret);
int __real_nghttp2_option_new(nghttp2_option **ret);

int __wrap_nghttp2_session_server_new2(nghttp2_session **ret, const nghttp2_session_callbacks *c, void *arg, const nghttp2_option *o)
{
	return nghttp2_session_server_new3(ret, c, arg, o, &h2m);
}

int __wrap_nghttp2_session_client_new2(nghttp2_session **ret, const nghttp2_session_callbacks *c, void *arg, const nghttp2_option *o)
{
	return nghttp2_session_client_new3(ret, c, arg, o, &h2m);
}

/* these two have no allocator to choose: one of ours stands for theirs */
static int h2m_refused(void)
{
	void *p = malloc(1);
	int r = p ? 0 : NGHTTP2_ERR_NOMEM;

	free(p);
	return r;
}

int __wrap_nghttp2_session_callbacks_new(nghttp2_session_callbacks **ret)
{
	return h2m_refused() ? NGHTTP2_ERR_NOMEM : __real_nghttp2_session_callbacks_new(ret);
}

int __wrap_nghttp2_option_new(nghttp2_option **ret)
{
	return h2m_refused() ? NGHTTP2_ERR_NOMEM : __real_nghttp2_option_new(ret);
}
