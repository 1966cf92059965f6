/*
 * Which live traces follow a tunnel: those of its peer (address or SPIFFE id) and of its listener, and those of the connections that wait
 * for it to come up.
 */
#include "tunnel/tunnel.h"

void tunnel_look(struct tunnel *t, uint8_t more)
{
	const struct loop *l = t->l;

	t->watch |= more;
	if (l->tracing)
		t->watch |= trace_by_addr(l, &t->who->remote) | trace_by_id(l, t->who->tls.id) |
			    (t->listener ? trace_by_listener(l, t->listener->name) : 0);
	t->h2.watch = t->watch;
}
