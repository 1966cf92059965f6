/*
 * The bypass: bytes of one application go straight into the receive queue of another on this node (daemon/kern/bypass.h).
 *
 *   events()      sockops: connect() notes who connects, listen() who listens, an accepted connection finds the one that connected: both
 *                 ends are a pair then. The key is a sequence number and the ports, the addresses must mirror each other; in which
 *                 namespaces they are does not matter. Nothing enters a sockmap here: a connection pays for one entry in a map.
 *   adopt()       iter/task_file, once per agent: listeners that are older than this object
 *   bind()        tc, run by an agent with BPF_PROG_RUN for two ends that it wants to join: finds them by address, believes the cookie,
 *                 writes the binding (once in a socket's life) and puts both into the sockhash
 *   gate()        sk_msg, in the sender's send(): redirect into the peer's queue, or let it go by TCP
 *   reads(), splices()  fentry, where the kernel has it: how does the receiver read?
 *
 * A message is redirected only if nothing can be overtaken, nobody can miss it, and memory stays bounded; see allow(). Peer fields are
 * read with the peer unlocked: the order rule needs only copied_seq, which moves towards equality and never away, since the one who
 * could send more, the sender, holds its own lock. A peer that was freed and reused can only cause a pass: its cookie is another, and
 * the redirect itself looks the socket up by cookie.
 *
 * One object for Linux 6.1 and later. What differs is a constant that the loader sets, or weak.
 */
#include "bypass_bind.h"
#include "bypass_events.h"
#include "bypass_gate.h"

char LICENSE[] SEC("license") = "GPL";
