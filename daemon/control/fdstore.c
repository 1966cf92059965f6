/*
 * Names: "kept=LISTENER", which no listener can be called, so that after a restart with another configuration a socket is taken by its
 * address only. A socket that was given to a listener by name, wherever it is bound, is kept under the bare name.
 *
 * The UNIX socket is not kept: its file goes with the runtime directory when the service stops.
 */
#include "control/fdstore.h"
#include "admin/admin.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "control/notify.h"
#include "net/sock.h"
#include <stdio.h>
#include <string.h>

struct walk {
	struct fdstore *s;
	struct daemon *d;
	const struct notify *n;
	bool remove, put; /* neither: sum up only */
	uint64_t sum;
	bool failed;
};

static bool elsewhere(const struct daemon *d, const char *name, int fd)
{
	struct addr at;

	for (uint32_t i = 0; i < d->cfg->n_listeners; i++)
		if (!strcmp(d->cfg->listeners[i].name, name))
			return sock_local(fd, &at) == 0 && !addr_eq(&at, &d->cfg->listeners[i].address);
	return false;
}

const char *fdstore_name(const struct daemon *d, const char *name, int fd, char out[256])
{
	snprintf(out, 256, "%s%.240s", elsewhere(d, name, fd) ? "" : "kept=", name);
	for (char *p = out; *p; p++)
		if (*p == ':')
			*p = '_';
	return out;
}

/* Return: is it in the list (now)? */
static bool remember(struct fdstore *s, const char *name)
{
	char **more;

	for (uint32_t i = 0; i < s->n; i++)
		if (!strcmp(s->name[i], name))
			return true;
	more = reallocarray(s->name, s->n + 1u, sizeof(*more));
	if (!more)
		return false;
	s->name = more;
	s->name[s->n] = strdup(name);
	s->n += s->name[s->n] != NULL;
	return true;
}

static void each(void *arg, const char *name, int fd)
{
	struct walk *w = arg;
	char fdname[ADOPT_NAME];
	uint64_t cookie = 0;
	socklen_t n = sizeof(cookie);

	(void)getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &n);
	w->sum += cookie * 0x9e3779b97f4a7c15u;
	if (!w->put && !w->remove)
		return;
	fdstore_name(w->d, name, fd, fdname);
	if (w->remove)
		notify_store_remove(w->n, fdname);
	else
		w->failed |= !remember(w->s, fdname) || notify_store(w->n, fd, fdname) < 0;
}

static void walk(struct walk *w, const struct admin *admin)
{
	int local, public_;

	w->sum = 1;
	takeover_each(w->d, false, each, w);
	admin_sockets(admin, &local, &public_);
	if (public_ >= 0)
		each(w, "admin.metrics", public_);
}

void fdstore_update(struct fdstore *s, struct daemon *d, const struct admin *admin, const struct notify *n)
{
	struct walk w = {.s = s, .d = d, .n = n};

	if (n->fd < 0)
		return;
	walk(&w, admin);
	if (w.sum == s->sum)
		return;
	/*
	 * All are removed and put again: a name has many sockets, and only all of them can be removed. The first time there may be what our
	 * predecessor had: a socket that nobody accepts from must not stay in the group.
	 */
	for (uint32_t i = 0; i < s->n; i++)
		notify_store_remove(n, s->name[i]);
	fdstore_finish(s);
	w.remove = true;
	walk(&w, admin);
	w.remove = false;
	w.put = true;
	walk(&w, admin);
	s->sum = w.sum;
	d->sockets_shared = !w.failed;
	if (w.failed)
		log_warn(LA_MAIN, "listening sockets are not kept by the service manager: a restart refuses connections for a moment");
}

void fdstore_forget(const struct notify *n, const char *name)
{
	char fdname[ADOPT_NAME + 8];

	notify_store_remove(n, name);
	snprintf(fdname, sizeof(fdname), "kept=%s", name);
	notify_store_remove(n, fdname);
}

void fdstore_finish(struct fdstore *s)
{
	for (uint32_t i = 0; i < s->n; i++)
		free(s->name[i]);
	free(s->name);
	*s = (struct fdstore){0};
}
