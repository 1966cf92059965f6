/*
 * sock_diag(7) for one connection: a request that names all of its addresses and ports is answered by a look-up in the kernel's
 * table of connections (inet_diag_dump_one_icsk() in net/ipv4/inet_diag.c), so it costs the same on a node with ten sockets and with a
 * million. Without such a connection the look-up goes on to listeners; that answer is not what was asked for.
 *
 * Attributes come only as asked for by idiag_ext, and in the size that the kernel knows: what a shorter tcp_info lacks stays 0.
 */
#define _NETINET_TCP_H 1 /* netlink.h includes glibc's tcp.h, whose struct tcp_info ends years before the kernel's */
#include "net/diag.h"
#include "base/clean.h"
#include "net/netns.h"
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <stdio.h>
#include <string.h>

struct answer {
	struct diag_tcp *ret;
	uint16_t sport, dport; /* network order */
	bool found;
};

static const char *state_str(uint8_t s)
{
	static const char *const name[] = { "?",	 "established", "syn-sent",   "syn-recv", "fin-wait-1", "fin-wait-2", "time-wait",
					    "close", "close-wait",	"last-ack", "listen",   "closing",    "syn-recv" };

	return s < ARRAY_LEN(name) ? name[s] : name[0];
}

static void take_info(struct diag_tcp *r, const struct nlattr *a)
{
	struct tcp_info ti = { 0 };
	size_t n = (size_t)nla_len(a);

	memcpy(&ti, nla_data(a), n < sizeof(ti) ? n : sizeof(ti));
	r->rtt_us = ti.tcpi_rtt;
	r->rttvar_us = ti.tcpi_rttvar;
	r->min_rtt_us = ti.tcpi_min_rtt == UINT32_MAX ? 0 : ti.tcpi_min_rtt;
	r->cwnd = ti.tcpi_snd_cwnd;
	r->mss = ti.tcpi_snd_mss;
	r->retransmits = ti.tcpi_retransmits;
	r->total_retransmits = ti.tcpi_total_retrans;
	r->unacked = ti.tcpi_unacked;
	r->lost = ti.tcpi_lost;
	r->delivery_bps = ti.tcpi_delivery_rate * 8u;
	r->acked_bytes = ti.tcpi_bytes_acked;
	r->received_bytes = ti.tcpi_bytes_received;
}

static int on_answer(struct nl_msg *m, void *arg)
{
	struct answer *x = arg;
	const struct nlmsghdr *h = nlmsg_hdr(m);
	const struct inet_diag_msg *d = nlmsg_data(h);
	struct nlattr *at[INET_DIAG_MAX + 1];

	if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || !nlmsg_valid_hdr(h, sizeof(*d)))
		return NL_OK;
	if (d->id.idiag_sport != x->sport || d->id.idiag_dport != x->dport) /* a listener */
		return NL_STOP;
	if (nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*d), at, INET_DIAG_MAX, NULL) < 0)
		return NL_STOP;
	x->found = true;
	snprintf(x->ret->state, sizeof(x->ret->state), "%s", state_str(d->idiag_state));
	x->ret->rqueue = d->idiag_rqueue;
	x->ret->wqueue = d->idiag_wqueue;
	x->ret->uid = d->idiag_uid;
	x->ret->inode = d->idiag_inode;
	if (at[INET_DIAG_INFO])
		take_info(x->ret, at[INET_DIAG_INFO]);
	if (at[INET_DIAG_CONG])
		nla_strlcpy(x->ret->congestion, at[INET_DIAG_CONG], sizeof(x->ret->congestion));
	return NL_STOP;
}

static int request_fill(struct inet_diag_req_v2 *q, const struct addr *local, const struct addr *remote)
{
	if (local->family != remote->family || (local->family != AF_INET && local->family != AF_INET6))
		return -EINVAL;
	memset(q, 0, sizeof(*q));
	q->sdiag_family = local->family;
	q->sdiag_protocol = IPPROTO_TCP;
	q->idiag_ext = 1u << (INET_DIAG_INFO - 1) | 1u << (INET_DIAG_CONG - 1);
	q->idiag_states = UINT32_MAX;
	q->id.idiag_sport = htons(local->port);
	q->id.idiag_dport = htons(remote->port);
	memcpy(q->id.idiag_src, local->ip, local->family == AF_INET ? 4 : 16);
	memcpy(q->id.idiag_dst, remote->ip, local->family == AF_INET ? 4 : 16);
	q->id.idiag_cookie[0] = q->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	return 0;
}

/* libnl's codes into ours: what the kernel said comes as one of a few */
static int error_of(int e)
{
	switch (-e) {
	case NLE_OBJ_NOTFOUND:
		return -ENOENT;
	case NLE_NOMEM:
		return -ENOMEM;
	case NLE_PERM:
	case NLE_NOACCESS:
		return -EPERM;
	case NLE_OPNOTSUPP:
	case NLE_PROTO_MISMATCH:
		return -EOPNOTSUPP; /* inet_diag, tcp_diag: modules that could not be loaded */
	}
	return -EIO;
}

/* the socket asks about the namespace it was made in */
static int connect_in(struct nl_sock *sk, int netns_fd)
{
	int back, r = netns_enter(netns_fd, &back);

	if (r < 0)
		return r;
	r = nl_connect(sk, NETLINK_SOCK_DIAG);
	netns_leave(back);
	return r < 0 ? error_of(r) : 0;
}

static int ask(struct nl_sock *sk, struct inet_diag_req_v2 *q)
{
	int r = nl_send_simple(sk, SOCK_DIAG_BY_FAMILY, 0, q, sizeof(*q));

	/* the answer is made within the send (netlink_rcv_skb()): this does not wait */
	if (r >= 0)
		r = nl_recvmsgs_default(sk);
	return r < 0 ? error_of(r) : 0;
}

int diag_tcp(int netns_fd, const struct addr *local, const struct addr *remote, struct diag_tcp *ret)
{
	struct nl_sock *sk = nl_socket_alloc();
	struct answer x = { .ret = ret };
	struct inet_diag_req_v2 q = { 0 };
	int r = request_fill(&q, local, remote);

	if (!sk)
		return -ENOMEM;
	memset(ret, 0, sizeof(*ret));
	x.sport = q.id.idiag_sport;
	x.dport = q.id.idiag_dport;
	nl_socket_disable_seq_check(sk);
	nl_socket_disable_auto_ack(sk);
	(void)nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, on_answer, &x);
	if (r == 0)
		r = connect_in(sk, netns_fd);
	if (r == 0)
		r = ask(sk, &q);
	nl_socket_free(sk);
	return r < 0 ? r : x.found ? 0 : -ENOENT;
}
