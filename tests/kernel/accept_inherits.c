/*
 * TCP_NODELAY, SO_KEEPALIVE and its three times are inherited by accepted sockets, so net/sock.c sets them once on a listener
 * and not on each connection (five system calls saved). Sources: net/core/sock.c, sk_clone_lock(); tcp(7) does not promise it.
 */
#include "kernel.h"

int main(void)
{
	static const struct {
		int level, name, value;
		const char *text;
	} opt[] = {
		{IPPROTO_TCP, TCP_NODELAY, 1, "TCP_NODELAY"},
		{SOL_SOCKET, SO_KEEPALIVE, 1, "SO_KEEPALIVE"},
		{IPPROTO_TCP, TCP_KEEPIDLE, 180, "TCP_KEEPIDLE"},
		{IPPROTO_TCP, TCP_KEEPINTVL, 181, "TCP_KEEPINTVL"},
		{IPPROTO_TCP, TCP_KEEPCNT, 7, "TCP_KEEPCNT"},
	};
	int l = listener(0, false), c = new_socket(), s, fresh;
	struct sockaddr_in a = loopback(port_of(l));

	for (size_t i = 0; i < sizeof(opt) / sizeof(opt[0]); i++)
		set_int(l, opt[i].level, opt[i].name, opt[i].value);
	CHECK(!connect(c, (struct sockaddr *)&a, sizeof(a)), "connect");
	s = accept(l, NULL, NULL);
	CHECK(s >= 0, "accept");
	fresh = new_socket();
	for (size_t i = 0; i < sizeof(opt) / sizeof(opt[0]); i++) {
		int v = get_int(s, opt[i].level, opt[i].name);

		CHECK(v == opt[i].value, "%s is %d on the accepted socket", opt[i].text, v);
		if (get_int(fresh, opt[i].level, opt[i].name) == opt[i].value)
			skip("%s is %d by default: inheritance cannot be told", opt[i].text, v);
	}
	return 0;
}
