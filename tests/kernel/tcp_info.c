/*
 * TCP_INFO: rtt and min_rtt after bytes went and were acknowledged, bytes_acked and bytes_received count them, busy retransmissions are
 * 0 on loopback. min_rtt is 0xffffffff until the first sample. tunnel/: windows from bandwidth times min_rtt; net/diag.c: `aditctl
 * conn`. Source: linux/tcp.h, struct tcp_info.
 */
#include "kernel.h"

static struct tcp_info info(int fd)
{
	struct tcp_info i;
	socklen_t n = sizeof(i);

	memset(&i, 0, sizeof(i));
	CHECK(!getsockopt(fd, IPPROTO_TCP, TCP_INFO, &i, &n), "TCP_INFO");
	CHECK(n >= offsetof(struct tcp_info, tcpi_bytes_received) + 8, "TCP_INFO has only %u bytes", n);
	return i;
}

int main(void)
{
	char b[100];
	struct tcp_info i;
	int fd[2];

	tcp_pair(fd);
	for (int k = 0; k < 5; k++) {
		CHECK(send(fd[0], b, 100, 0) == 100 && recv(fd[1], b, 100, MSG_WAITALL) == 100, "there");
		CHECK(send(fd[1], b, 50, 0) == 50 && recv(fd[0], b, 50, MSG_WAITALL) == 50, "back");
	}
	i = info(fd[0]);
	CHECK(i.tcpi_state == 1, "state %u", i.tcpi_state);
	CHECK(i.tcpi_rtt > 0 && i.tcpi_rtt < 1000000, "rtt %u us", i.tcpi_rtt);
	CHECK(i.tcpi_min_rtt > 0 && i.tcpi_min_rtt < 1000000, "min_rtt %u us", i.tcpi_min_rtt);
	CHECK(i.tcpi_bytes_acked >= 500 && i.tcpi_bytes_acked <= 501, "bytes_acked %llu", (unsigned long long)i.tcpi_bytes_acked);
	CHECK(i.tcpi_bytes_received == 250, "bytes_received %llu", (unsigned long long)i.tcpi_bytes_received);
	CHECK(i.tcpi_total_retrans == 0, "retransmissions on loopback: %u", i.tcpi_total_retrans);
	close(fd[0]);
	close(fd[1]);
	return 0;
}
