/*
 * Endings with a sockmap: only established sockets go in; the entry goes when its socket is closed; a FIN is seen behind all redirected
 * bytes; RST is seen at once; a receiver that closes with redirected bytes unread sends FIN where TCP would send RST; what waits in the
 * queue can still be read after the sender has gone and after the receiver was taken out of the map. bpf/bypass.bpf.c; chain/close.c.
 * Source: net/core/sock_map.c; net/ipv4/tcp_bpf.c.
 */
/* link: -lbpf */
#include "bpf.h"

static struct sockmap m;

static bool in_map(int map)
{
	uint32_t zero = 0;
	uint64_t cookie;

	return !bpf_map_lookup_elem(map, &zero, &cookie);
}

static void who_may_enter(void)
{
	int fd[2], s = new_socket(), l = listener(0, false);

	CHECK(sockmap_put(m.receivers, s), "a socket that is not connected");
	tcp_pair(fd);
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	settle();
	CHECK(sockmap_put(m.senders, fd[0]), "FIN_WAIT2");
	CHECK(sockmap_put(m.receivers, fd[1]), "CLOSE_WAIT");
	close(fd[0]);
	close(fd[1]);
	close(s);
	close(l);
}

static void an_entry_goes_with_its_socket(void)
{
	int fd[2];

	sockmap_pair(&m, fd);
	CHECK(in_map(m.senders) && in_map(m.receivers), "in the maps");
	close(fd[1]);
	CHECK(!in_map(m.receivers), "closed and still in the map");
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "x", 1, MSG_NOSIGNAL) == -1, "a redirect to nobody");
	found("send() whose target is no longer in the map: %s", strerror(errno));
	close(fd[0]);
}

static void fin_comes_last(void)
{
	int fd[2], ep;
	char b[16];

	sockmap_pair(&m, fd);
	ep = edges(fd[1]);
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	edge_with(ep, EPOLLRDHUP);
	CHECK(recv(fd[1], b, 3, 0) == 3 && recv(fd[1], b, sizeof(b), 0) == 2, "the bytes first");
	CHECK(recv(fd[1], b, sizeof(b), 0) == 0, "then the end");
	CHECK(send(fd[1], "answer", 6, 0) == 6 && recv(fd[0], b, sizeof(b), 0) == 6, "half-closed, the other way goes on");
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

static void sender_is_gone(void)
{
	int fd[2];
	char b[16];

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	close(fd[0]);
	settle();
	CHECK(recv(fd[1], b, sizeof(b), 0) == 5, "its bytes are there");
	CHECK(recv(fd[1], b, sizeof(b), 0) == 0, "and the end");
	close(fd[1]);
}

static void sender_resets(void)
{
	struct linger l = {.l_onoff = 1};
	int fd[2], ep;
	char b[16];
	ssize_t n;

	sockmap_pair(&m, fd);
	ep = edges(fd[1]);
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	CHECK(!setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER");
	close(fd[0]);
	edge_with(ep, EPOLLERR | EPOLLHUP);
	n = recv(fd[1], b, sizeof(b), 0);
	found("RST behind 5 redirected bytes: recv() gives %s", n == 5 ? "the bytes first" : strerror(errno));
	CHECK(n == 5 || (n == -1 && errno == ECONNRESET), "recv: %zd", n);
	if (n == 5)
		CHECK(recv(fd[1], b, sizeof(b), 0) == -1 && errno == ECONNRESET, "then ECONNRESET");
	close(fd[1]);
	close(ep);
}

static void closed_with_bytes_unread(void)
{
	int fd[2];
	char b;
	ssize_t n;

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	close(fd[1]);
	settle();
	n = recv(fd[0], &b, 1, 0);
	CHECK(n == 0 || errno == ECONNRESET, "recv: %zd", n);
	found("receiver closed with redirected bytes unread: the sender sees %s", n ? "ECONNRESET" : "FIN");
	close(fd[0]);
}

static void taken_out(void)
{
	uint32_t zero = 0;
	char b[16];
	int fd[2];

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, false);
	CHECK(send(fd[0], "tcp", 3, 0) == 3 && recv(fd[1], b, sizeof(b), 0) == 3, "by TCP");
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "hello", 5, 0) == 5 && recv(fd[1], b, sizeof(b), 0) == 5, "redirected");
	CHECK(!bpf_map_delete_elem(m.receivers, &zero) && !bpf_map_delete_elem(m.senders, &zero), "delete");
	for (int i = 0; i < 5; i++) {
		CHECK(send(fd[0], "again", 5, 0) == 5, "send");
		CHECK(recv(fd[1], b, sizeof(b), 0) == 5 && !memcmp(b, "again", 5), "with an empty queue: plain TCP again");
	}
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	sockmap_init(&m);
	who_may_enter();
	an_entry_goes_with_its_socket();
	fin_comes_last();
	sender_is_gone();
	sender_resets();
	closed_with_bytes_unread();
	taken_out();
	return 0;
}
