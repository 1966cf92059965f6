/*
 * One listening socket with HTTP behind it: a libmicrohttpd daemon without threads of its own. All of it belongs to the thread that
 * calls site_run(); the admin socket's is the main one, the TCP address' the health thread (health.c).
 */
#pragma once
#include "base/log.h"
#include "admin/api.h"
#include <sys/queue.h>

struct MHD_Daemon;
struct client;
struct streams; /* stream.h */
LIST_HEAD(client_list, client);

struct site {
	struct api *api;
	bool public_;	  /* TCP: metrics and health only */
	const char *path; /* UNIX: the file, for who may do what; else NULL */
	struct MHD_Daemon *mhd; /* NULL: none */
	int epoll, timer, listen; /* listen: the library's */
	_Atomic bool leaving; /* asked for by another thread */
	struct client_list clients;
	struct streams *streams; /* NULL: none here */
	struct log_rates logs;	/* of what clients can provoke */
};

/** site_init() - before anything else. Return: 0 or -errno with the sentence; site_finish() in any case. */
int site_init(struct site *s, struct api *api, bool public_, struct err *reterr);
/** site_open() - serve at the listening socket @fd, which is taken over, also on failure */
int site_open(struct site *s, int fd, struct err *reterr);
/** site_run() - when s->epoll is readable */
void site_run(struct site *s);
/** site_leave() - take no more connections; those that there are get their answers. In the thread of site_run(). */
void site_leave(struct site *s);
void site_finish(struct site *s);

/* ---- health.c ---- */
struct health_thread;
/**
 * health_thread_start() - a thread that runs @site (if it is open) and calls api->ops.watch as soon as ops are set
 * Return: 0 or -errno with the sentence.
 */
int health_thread_start(struct health_thread **ret, struct site *site, struct err *reterr);
/** health_thread_leave() - site_leave(), in its thread */
void health_thread_leave(struct health_thread *t);
/** health_thread_stop() - and wait for it. NULL is fine. */
void health_thread_stop(struct health_thread *t);
