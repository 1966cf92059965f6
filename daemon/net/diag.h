/* What the kernel knows of a TCP connection of this node, by sock_diag(7): our socket or the application's. Main thread. */
#pragma once
#include "base/err.h"
#include "model/addr.h"

struct diag_tcp {
	char state[16];
	uint32_t rtt_us, rttvar_us, min_rtt_us, cwnd, mss, retransmits /* now */, total_retransmits, unacked, lost;
	uint32_t rqueue, wqueue; /* bytes unread, bytes unacknowledged */
	uint64_t delivery_bps /* bits per second */, acked_bytes, received_bytes;
	uint32_t uid, inode;
	char congestion[16];
};

/** diag_tcp() - @local, @remote as the socket sees them; @netns_fd -1: ours. Return: 0, -ENOENT, or -errno. */
int diag_tcp(int netns_fd, const struct addr *local, const struct addr *remote, struct diag_tcp *ret);
