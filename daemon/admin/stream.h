/*
 * Answers without an end: live traces. At most TRACES at a time. Main thread, within the admin socket's site.
 */
#pragma once
#include "admin/api.h"

struct MHD_Connection;
struct MHD_Response;
struct streams;

/** streams_create() - @epoll gets a timer's descriptor; while anybody watches it fires fifty times a second. NULL: out of memory. */
struct streams *streams_create(struct api *api, int epoll);
/**
 * streams_open() - begin what @ask asks for
 * @fd: the client's socket, still the library's. Return: a response to queue, or NULL (and @ans says why).
 */
struct MHD_Response *streams_open(struct streams *s, struct MHD_Connection *c, int fd, const struct trace_ask *ask, struct api_answer *ans);
/** streams_run() - what has come goes to who asked; before the library runs */
void streams_run(struct streams *s);
/** streams_end() - all of them, before the library is stopped */
void streams_end(struct streams *s);
void streams_destroy(struct streams *s); /* after it; NULL is fine */
