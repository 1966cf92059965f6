/*
 * Configuration: arbitrary bytes as adit.yaml. Beside sanitizer findings: a refusal has a sentence with a place that lies within
 * the text, and a configuration that is accepted keeps its promises (references point into the arrays, chains end).
 */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "config/config.h"

#define MUST(x)                                                      \
	do {                                                         \
		if (!(x)) {                                          \
			fprintf(stderr, "broken promise: %s\n", #x); \
			abort();                                     \
		}                                                    \
	} while (0)

static void sentence_check(const struct err *e, const uint8_t *data, size_t n, int code)
{
	unsigned int line = 0, col = 0;
	size_t lines = 1, i;

	MUST(code == -EINVAL || code == -ENOMEM || code == -EFBIG);
	MUST(e->msg[0] && strlen(e->msg) < ERR_MAX);
	for (i = 0; e->msg[i]; i++)
		MUST((unsigned char)e->msg[i] >= 0x20 && e->msg[i] != 0x7f);
	if (code != -EINVAL)
		return;
	for (i = 0; i < n; i++)
		lines += data[i] == '\n' || data[i] == '\r' || data[i] == 0x85 || data[i] == 0xa8 || data[i] == 0xa9;
	MUST(sscanf(e->msg, "f.yaml:%u:%u: ", &line, &col) == 2);
	MUST(line >= 1 && line <= lines + 1 && col >= 1 && col <= n + 1);
}

static void listener_check(const struct config *c, const struct cfg_listener *l, unsigned int passed);

static void target_check(const struct config *c, const struct cfg_target *t, unsigned int passed)
{
	const struct cfg_listener *to = t->listener;

	MUST(!t->listener || !t->cluster);
	MUST(!t->forward || t->cluster->type == CLUSTER_TUNNEL);
	if (t->cluster) {
		MUST(t->cluster == &c->clusters[t->cluster->id]);
		to = t->cluster->type == CLUSTER_INTERNAL ? t->cluster->listener : NULL;
	}
	if (to)
		listener_check(c, to, passed + 1);
}

static void ports_check(const struct cfg_ports *p, uint32_t n)
{
	MUST((p != NULL) == (n != 0));
	for (; n--; p++)
		MUST(p->first && p->first <= p->last);
}

static void who_check(const struct cfg_who *w)
{
	uint32_t i;

	MUST((w->cgroups != NULL) == (w->n_cgroups != 0) && (w->uids != NULL) == (w->n_uids != 0));
	for (i = 0; i < w->n_cgroups; i++) {
		const char *s = w->cgroups[i];

		MUST(s[0] == '/' && (!s[1] || s[strlen(s) - 1] != '/') && !strstr(s, "/../") && !strstr(s, "//"));
	}
	for (i = 0; i < w->n_executables; i++)
		MUST(w->executables[i][0] == '/');
	ports_check(w->ports, w->n_ports);
}

static void kernel_check(const struct config *c)
{
	const struct cfg_kernel *k = &c->kernel;
	uint32_t i;

	MUST(k->cgroup[0] == '/' && (!k->pin || k->pin[0] == '/') && k->splice_above && k->orphan_ms && k->bypass.after);
	for (i = 0; i < k->bypass.n_allow; i++) {
		const struct cfg_who *w = &k->bypass.allow[i];

		MUST(w->n_cgroups || w->n_uids || w->n_executables || w->n_ports);
		who_check(w);
	}
}

static void reach_check(const struct cfg_listener *l)
{
	MUST(!l->netns || (l->netns[0] && l->type != LISTENER_INTERNAL));
	MUST(l->proxy_protocol == (l->n_proxy_from != 0) && (!l->proxy_protocol || l->type == LISTENER_TCP));
	if (l->capture) {
		MUST(l->type == LISTENER_TCP && !l->proxy_protocol && !l->capture->who.n_executables);
		who_check(&l->capture->who);
		ports_check(l->capture->except_ports, l->capture->n_except_ports);
	}
	if (l->steer) {
		MUST(l->type != LISTENER_INTERNAL);
		ports_check(l->steer->ports, l->steer->n_ports);
		ports_check(l->steer->except_ports, l->steer->n_except_ports);
	}
}

static void listener_check(const struct config *c, const struct cfg_listener *l, unsigned int passed)
{
	uint32_t i;

	MUST(passed <= CFG_CHAIN_MAX);
	MUST(l == &c->listeners[l->id] && l->name);
	MUST((l->type == LISTENER_INTERNAL) == (passed > 1) || l->type == LISTENER_INTERNAL);
	MUST((l->type != LISTENER_INTERNAL) == (l->address.family != AF_UNSPEC));
	MUST(!l->tls || l->identity);
	reach_check(l);
	/* a wide graph has more ways than time allows */
	for (i = 0; i < l->n_routes && (passed < 4 || i < 2); i++) {
		MUST(l->routes[i].name);
		MUST(l->routes[i].to.listener || l->routes[i].to.cluster);
		target_check(c, &l->routes[i].to, passed);
	}
	target_check(c, &l->to, passed);
}

static void config_check(const struct config *c)
{
	uint32_t i, j, endpoints = 0;

	MUST(c->node.id && c->workers >= 1 && c->workers <= 256);
	MUST(c->limits.stream_window <= c->limits.stream_window_max);
	MUST(c->limits.stream_window <= c->limits.connection_window);
	for (i = 0; i < c->n_clusters; i++) {
		const struct cfg_cluster *cl = &c->clusters[i];

		MUST(cl->id == i && cl->name);
		MUST((cl->type == CLUSTER_INTERNAL) == (cl->listener != NULL));
		MUST((cl->type == CLUSTER_ORIGINAL_DST) == (cl->n_destinations != 0));
		MUST((cl->type == CLUSTER_TCP || cl->type == CLUSTER_TUNNEL) == (cl->n_endpoints != 0));
		MUST(!cl->tls || cl->identity);
		for (j = 0; j < cl->n_endpoints; j++) {
			MUST(cl->endpoints[j].id == endpoints++ && cl->endpoints[j].port);
			MUST((cl->endpoints[j].host == NULL) == (cl->endpoints[j].address.family != AF_UNSPEC));
		}
	}
	MUST(c->n_endpoints == endpoints);
	kernel_check(c);
	for (i = 0; i < c->n_listeners && i < 64; i++)
		listener_check(c, &c->listeners[i], 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	log_init(2, LOG_TEXT, LOG_ERR);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct config *c = NULL;
	struct err e = {""};
	int r = config_parse("f.yaml", (const char *)data, n, &c, &e);

	if (r < 0) {
		MUST(!c);
		sentence_check(&e, data, n, r);
		return 0;
	}
	config_check(c);
	config_free(c);
	return 0;
}
