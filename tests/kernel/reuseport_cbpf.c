/*
 * A classic BPF program attached with SO_ATTACH_REUSEPORT_CBPF picks the listener of a reuseport group by its number, which is the
 * order of bind() and listen(); a number out of range falls back to the kernel's hash. The program sees the SYN from the transport
 * header on, and its IP header at SKF_NET_OFF. net/sock.c: sock_spread_by_source(). Source: socket(7); net/core/sock_reuseport.c.
 */
#include "kernel.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <poll.h>

#define GROUP 4

static int group[GROUP];
static uint16_t port;

static void attach(struct sock_filter *f, unsigned short n)
{
	struct sock_fprog p = {.len = n, .filter = f};

	if (setsockopt(group[0], SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, sizeof(p)))
		skip("SO_ATTACH_REUSEPORT_CBPF: %s", strerror(errno));
}

/* connect from 127.0.0.@last; Return: which of the group has it */
static int lands_on(uint8_t last)
{
	struct sockaddr_in to = loopback(port), from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000000u + last)};
	struct pollfd p[GROUP];
	int c = new_socket(), s = -1;

	CHECK(!bind(c, (struct sockaddr *)&from, sizeof(from)), "bind to 127.0.0.%u", last);
	CHECK(!connect(c, (struct sockaddr *)&to, sizeof(to)), "connect");
	for (int i = 0; i < GROUP; i++)
		p[i] = (struct pollfd){.fd = group[i], .events = POLLIN};
	CHECK(poll(p, GROUP, WAIT_MS) == 1, "nobody has it"); /* the last ACK may still be on its way */
	for (int i = 0; i < GROUP; i++) {
		s = accept4(group[i], NULL, NULL, 0);
		if (s < 0)
			continue;
		close(s);
		close(c);
		return i;
	}
	CHECK(false, "nobody has it");
	return -1;
}

static void by_number(void)
{
	for (uint32_t i = 0; i < GROUP; i++) {
		struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, i)};

		attach(f, 1);
		for (uint8_t from = 1; from < 20; from++) {
			int got = lands_on(from);

			CHECK(got == (int)i, "number %u picks listener %d", i, got);
		}
	}
}

static void by_source_address(void)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + 12),
		BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, GROUP),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};

	attach(f, 3);
	for (uint8_t from = 1; from < 40; from++) {
		int got = lands_on(from), want = (int)((0x7f000000u + from) % GROUP);

		CHECK(got == want, "127.0.0.%u comes to listener %d, not %d", from, got, want);
	}
}

static void out_of_range_is_no_refusal(void)
{
	struct sock_filter f[] = {BPF_STMT(BPF_RET | BPF_K, GROUP + 7)};

	attach(f, 1);
	for (uint8_t from = 1; from < 10; from++)
		(void)lands_on(from);
}

int main(void)
{
	for (int i = 0; i < GROUP; i++) {
		group[i] = listener(port, true);
		port = port_of(group[i]);
		CHECK(!fcntl(group[i], F_SETFL, O_NONBLOCK), "fcntl");
	}
	by_number();
	by_source_address();
	out_of_range_is_no_refusal();
	return 0;
}
