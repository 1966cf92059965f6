/* What --help says. The man page says more; whoever changes one looks at the other. Lines fit 80 columns. */
#include "help.h"
#include "base/clean.h"
#include <string.h>

// clang-format off
#define COMMON \
	"\n" \
	"  -s, --socket PATH   admin socket of the daemon\n" \
	"                      (default: $ADIT_SOCKET, else /run/adit/admin.sock)\n" \
	"  -o, --output FORM   table, wide (more columns, nothing cut), or json (the\n" \
	"                      API's answer as it is)\n" \
	"  -h, --help          this text\n"
#define WATCH \
	"  -w, --watch[=SECONDS]  again every 2 or SECONDS seconds\n"

static const char main_text[] =
	"aditctl: look at a running aditd, and tell it what to do\n"
	"\n"
	"usage: aditctl [-s SOCKET] [-o table|json|wide] COMMAND [ARGUMENT...]\n"
	"\n"
	"  status                  is it ready, and how much does it hold\n"
	"  listener                where connections enter\n"
	"  chain                   the ways through the listeners, up to a cluster\n"
	"  cluster                 where connections go: endpoints and their counters\n"
	"  tunnel                  live tunnels to and from other nodes\n"
	"  conn [list]             live connections: legs, peer, metadata, bytes, chain\n"
	"  conn [show] ID          all about one\n"
	"  conn explain ID         why: how it ended, what took so long; also recent ones\n"
	"  conn kill ID            close one (RST to both ends)\n"
	"  policy [list]           policies in force, and what they have decided\n"
	"  policy get NAME         one, as YAML\n"
	"  policy apply -f FILE    add or change policies; kept over restarts\n"
	"  policy delete NAME      remove one\n"
	"  policy diff -f FILE     what would apply change?\n"
	"  policy test -f FILE CASES  do they decide as cases want? Without a daemon\n"
	"  policy explain          what would become of a connection, and why\n"
	"  audit [-n N]            who changed what\n"
	"  denied                  who was denied lately, and why\n"
	"  kernel                  what the kernel does for aditd here, and why not more\n"
	"  kernel bypass on|off    switch the bypass\n"
	"  cert [list]             identities: certificates, days left, CAs, what is wrong\n"
	"  cert NAME               all about one, with the tunnels that use it\n"
	"  workload                whose connections are, and as whom they leave\n"
	"  limits                  what is used of each limit, and whom it refused\n"
	"  stats [PATTERN]         counters and latencies\n"
	"  log [list|set|reset]    what is logged, what was held back\n"
	"  log-level [AREA=LEVEL]  the same, levels alone\n"
	"  trace conn|peer|listener WHAT   watch live what happens to connections\n"
	"  config check [FILE]     judge a configuration, without a daemon\n"
	"  reload                  read the configuration again\n"
	"  drain [--within TIME]   no new connections, then end\n"
	"  upgrade [PROGRAM]       a new daemon takes over, this one drains\n"
	"  metrics                 Prometheus text\n"
	"  version                 of aditctl and aditd\n"
	"  help [COMMAND]          this text, or a command's\n"
	COMMON
	"\n"
	"Exit status: 0 done; 1 refused or failed, or the configuration has an error;\n"
	"2 wrong command line; 3 aditd cannot be reached.\n";

static const struct {
	const char *command, *text;
} texts[] = {
	{"status",
	 "usage: aditctl status [--watch[=SECONDS]]\n"
	 "\n"
	 "Node, version, TLS library, state, the kernel plane in one line, and how many\n"
	 "connections, tunnels, streams and buffered bytes there are.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"listener",
	 "usage: aditctl listener [--watch[=SECONDS]]\n"
	 "\n"
	 "Listeners with type, address, default target (TO), number of routes, and\n"
	 "counters. IN is what came in through the listener, OUT what went back.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"chain",
	 "usage: aditctl chain\n"
	 "\n"
	 "Every way a connection can take: the listener where it enters, the internal\n"
	 "listeners behind it, the cluster at the end; and when: the routes that lead\n"
	 "there ('-' is the default).\n"
	 COMMON},
	{"cluster",
	 "usage: aditctl cluster [--watch[=SECONDS]]\n"
	 "\n"
	 "One line per endpoint: the address in use, live and all connections (streams,\n"
	 "for tunnel clusters), failures, tunnels, and connections that wait for one.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"tunnel",
	 "usage: aditctl tunnel [--limit N] [--peer TEXT] [--watch[=SECONDS]]\n"
	 "\n"
	 "Live tunnels: direction, state, address and certificate identity of the peer,\n"
	 "streams now and allowed, streams in all, bytes, round trip, age. ENGINE is what\n"
	 "seals and opens TLS records: ktls (the kernel) or user, SEND/RECEIVE when they\n"
	 "differ; WHY is why it is not ktls. -o wide adds the cipher, the windows, and\n"
	 "when the peer's certificate expires.\n"
	 "\n"
	 "  -n, --limit N          at most N; 0 is all (default)\n"
	 "  -p, --peer TEXT        those whose address or identity contains TEXT\n"
	 WATCH
	 COMMON},
	{"conn",
	 "usage: aditctl conn [list] [--limit N] [--listener NAME] [--peer TEXT]\n"
	 "                    [--watch[=SECONDS]]\n"
	 "       aditctl conn [show] ID\n"
	 "       aditctl conn explain ID\n"
	 "       aditctl conn kill ID\n"
	 "\n"
	 "Live connections. LEGS says what each side is: tcp, or tTUNNEL/STREAM. PEER is\n"
	 "the identity from the certificate of the agent at the tunnel's other end;\n"
	 "METADATA is what that agent said, MISMATCH that it contradicts the\n"
	 "certificate. SENT goes towards the destination. MOVER moves most of its bytes\n"
	 "now: bypass (the kernel, end to end), leg (the kernel, one side), splice, or\n"
	 "relay. show adds why it is no faster one, and what the kernel knows of the\n"
	 "sockets. explain says of a live one, or of one of the last (limits.recent), why\n"
	 "it was denied or how it ended, what each phase took, what keeps it waiting, and\n"
	 "what the configuration in force says of such a connection. kill closes with RST\n"
	 "to both ends; it is for root and the daemon's own user.\n"
	 "\n"
	 "  -n, --limit N          at most N (default 1000); 0 is all\n"
	 "  -l, --listener NAME    those that entered by listener NAME\n"
	 "  -p, --peer TEXT        those with TEXT in an address, identity, authority or\n"
	 "                         node id\n"
	 WATCH
	 COMMON},
	{"policy",
	 "usage: aditctl policy [list] [--watch[=SECONDS]]\n"
	 "       aditctl policy get NAME\n"
	 "       aditctl policy apply -f FILE [--prune] [--dry-run] [--if-generation N]\n"
	 "       aditctl policy delete NAME [--dry-run] [--if-generation N]\n"
	 "       aditctl policy diff -f FILE [--prune]\n"
	 "       aditctl policy test -f FILE [-c CONFIG] CASES\n"
	 "       aditctl policy explain [--src ADDRESS[:PORT]] --dst ADDRESS:PORT|NAME:PORT\n"
	 "           [--listener NAME] [--principal ID] [--authority NAME:PORT]\n"
	 "           [--header NAME=VALUE]... [--metadata NAME=VALUE]...\n"
	 "\n"
	 "Policies in force, in order: those of the configuration's files (ORIGIN file),\n"
	 "which are changed there, and those applied here, which aditd keeps. MODE\n"
	 "elsewhere: its labels are those of other nodes.\n"
	 "\n"
	 "apply adds the policies of FILE and changes those that differ, all or nothing;\n"
	 "connections that they no longer allow are closed. get writes what apply reads.\n"
	 "apply, delete and diff are for root and the daemon's own user.\n"
	 "\n"
	 "test needs no daemon: CASES says who connects and what should come of it\n"
	 "(aditctl(1)); exit status 1 if anything else does. With -c the listeners,\n"
	 "clusters and policies of CONFIG count, too; without it every name is known.\n"
	 "\n"
	 "explain says what would become of a connection; nothing is sent. By which listener it\n"
	 "would enter, which route and which policies of each listener and cluster match\n"
	 "and why the others do not, the endpoint that each worker would take and by\n"
	 "which tunnel, and what may move its bytes. Marks: [+] matches or allows, [-]\n"
	 "does not match, [x] decides against it.\n"
	 "\n"
	 "  -f, --file FILE        YAML; - is standard input\n"
	 "      --prune            also remove what was applied and is not in FILE\n"
	 "      --dry-run          judge and compare, change nothing\n"
	 "      --if-generation N  only if nobody has changed policies since list or get\n"
	 "                         showed generation N\n"
	 "  -c, --config CONFIG    for test\n"
	 "      --src ADDRESS      the client\n"
	 "      --dst ADDRESS      where it wants to go; a name, or what --authority says,\n"
	 "                         is what a CONNECT asks for\n"
	 "  -l, --listener NAME    where it enters, if that does not follow from the rest\n"
	 "      --principal ID     the SPIFFE id that its peer proves\n"
	 "      --header N=V       a header of the CONNECT\n"
	 "      --metadata N=V     a baggage member of it\n"
	 WATCH
	 COMMON},
	{"audit",
	 "usage: aditctl audit [-n N]\n"
	 "\n"
	 "The last attempts to change something, refused ones included: who (by the\n"
	 "kernel's word), what, and the result. -o json has all, diffs of policies too.\n"
	 "For root and the daemon's own user.\n"
	 "\n"
	 "  -n, --limit N          at most N (default 20); 0 is all\n"
	 COMMON},
	{"denied",
	 "usage: aditctl denied [--limit N] [--since TIME] [--listener NAME] [--follow]\n"
	 "\n"
	 "Who was denied lately, newest first: by a policy, for its identity, by a limit\n"
	 "or rate, for want of a route. Equal denials are one line with their COUNT and\n"
	 "the last of them. EXPLAIN is the command that says more. Each worker remembers\n"
	 "256 different ones; a flood of one kind does not push out the others.\n"
	 "\n"
	 "  -n, --limit N          at most N (default 50); 0 is all\n"
	 "      --since TIME       of the last 30s, 5m, 1h\n"
	 "  -l, --listener NAME    at listener NAME\n"
	 "  -f, --follow           go on: what comes, oldest first\n"
	 COMMON},
	{"kernel",
	 "usage: aditctl kernel [--watch[=SECONDS]]\n"
	 "       aditctl kernel bypass on|off\n"
	 "\n"
	 "The means of the kernel plane with their state: on; off (configured so); idle\n"
	 "(nothing asks for it); missing, with the reason and what to do. Then what the\n"
	 "bypass did, and for which reasons messages went by TCP instead.\n"
	 "\n"
	 "bypass off makes everything go by TCP through the agent, at once and without\n"
	 "harm, until bypass on. For root and the daemon's own user.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"workload",
	 "usage: aditctl workload [--watch[=SECONDS]]\n"
	 "\n"
	 "The workloads of this node in the order in which they are tried: the IDENTITY\n"
	 "and its SPIFFE id, how many connections each has opened (CONNS, ACTIVE), how\n"
	 "many were REFUSED since they may be its and that cannot be told, what their\n"
	 "MATCH asks for, and what they serve. (none) are connections that no match has;\n"
	 "refused are those of them that had to leave as a workload.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"limits",
	 "usage: aditctl limits [--limit N] [--watch[=SECONDS]]\n"
	 "\n"
	 "Limits of connections (ACTIVE of MAX) and of new connections per second (RATE,\n"
	 "BURST, and what is LEFT of it now), with how many were REFUSED, and BY-RATE.\n"
	 "principal and source are classes of limits.principals and limits.sources,\n"
	 "whose limits are for each of those who match; below, those who were refused\n"
	 "most. -o wide adds limits of tunnels, and how many a class knows and has room\n"
	 "for; OVERFLOWED are connections of those who found none.\n"
	 "\n"
	 "  -n, --limit N          of each class at most N (default 20; 0: 1000)\n"
	 WATCH
	 COMMON},
	{"stats",
	 "usage: aditctl stats [PATTERN] [--watch[=SECONDS]]\n"
	 "\n"
	 "Counters and gauges that are not zero (-o wide: all), and latencies: open is\n"
	 "from accept to established, queue the wait for a tunnel. PATTERN is a part of\n"
	 "a name or a glob ('tls_*'); what it finds is shown even if zero.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"cert",
	 "usage: aditctl cert [list|NAME] [--watch[=SECONDS]]\n"
	 "\n"
	 "Identities: the certificate in force, how long it lasts, who is trusted, and how\n"
	 "many tunnels use it (OLD: with an older certificate, going over). STATE is good,\n"
	 "expiring (a third of its life is left), expired, not yet valid, or bad: the files\n"
	 "as they are now are no good, and what was loaded before stays in force. Lines\n"
	 "with ! say what is wrong. With NAME all about one identity.\n"
	 "\n"
	 WATCH
	 COMMON},
	{"log",
	 "usage: aditctl log [list]\n"
	 "       aditctl log set [--for TIME] AREA=LEVEL...\n"
	 "       aditctl log reset [AREA...]\n"
	 "\n"
	 "Level of each area, now and as configured; then the kinds of lines that peers\n"
	 "and applications can provoke, how many of each are written at the most, and how\n"
	 "many were held back (-o wide: all kinds). LEVEL is error, warn, info or debug;\n"
	 "AREA is one of those shown, or all. A LEVEL alone is for all areas. What is set\n"
	 "lasts until reset, a reload with other levels, or TIME. For root and the daemon's own\n"
	 "user.\n"
	 "\n"
	 "      --for TIME         back to the configured level by itself: 30s, 10m, 1h\n"
	 COMMON},
	{"trace",
	 "usage: aditctl trace conn ID | peer ADDRESS | peer SPIFFE-ID | listener NAME\n"
	 "                     [--level events|frames|bytes] [--for TIME] [--count N]\n"
	 "\n"
	 "A line for each thing that happens, as it happens, until interrupted: opening,\n"
	 "policy verdicts, route, DNS, endpoint, pool, TLS, headers (credentials are left\n"
	 "out), half-closes, resets, movers, end. frames adds HTTP/2 frames, bytes also\n"
	 "reads and writes. An ADDRESS without port fits any; both ends of a connection\n"
	 "count, and the agent's at the other end of its tunnel. -o json: one object per\n"
	 "line. Four traces at a time. For root and the daemon's own user.\n"
	 "\n"
	 "      --level LEVEL      events (default), frames, bytes\n"
	 "      --for TIME         end after TIME: 30s, 5m\n"
	 "      --count N          end after N events\n"
	 COMMON},
	{"log-level",
	 "usage: aditctl log-level [AREA=LEVEL...]\n"
	 "\n"
	 "Shows the level of each area, or sets some. LEVEL is error, warn, info or\n"
	 "debug; AREA is one of those shown, or all. A LEVEL alone is for all areas.\n"
	 "Lasts until the daemon ends.\n"
	 COMMON},
	{"config",
	 "usage: aditctl config check [FILE]\n"
	 "\n"
	 "Reads FILE (default /etc/adit/adit.yaml) and conf.d/ beside it as the daemon\n"
	 "would, and says ok; or FILE:LINE:COLUMN and what is wrong, with exit status 1.\n"
	 "Needs no daemon, but the right to read what the configuration names.\n"
	 "Certificates are not loaded; aditd --check FILE does that.\n"
	 COMMON},
	{"reload",
	 "usage: aditctl reload\n"
	 "\n"
	 "The daemon reads its configuration again (the file, conf.d and certificates) and\n"
	 "brings it into force: all of it, or nothing if anything is wrong. Connections go\n"
	 "on with what they began with. Shows what has changed: + added, ~ changed,\n"
	 "- removed, ! takes effect after a restart. For root and the daemon's own user.\n"
	 COMMON},
	{"drain",
	 "usage: aditctl drain [--within TIME] [--no-wait]\n"
	 "\n"
	 "The daemon tells load balancers (readiness 503) and peers (GOAWAY) that it\n"
	 "goes, takes no new connections, and ends when the live ones have ended, or\n"
	 "after TIME. For root and the daemon's own user. Shows how far it is until the\n"
	 "daemon has ended; -o json does not wait.\n"
	 "\n"
	 "      --within TIME      for instance 500ms, 30s, 5m\n"
	 "                         (default: drain.within of the configuration)\n"
	 "      --no-wait          return at once\n"
	 COMMON},
	{"upgrade",
	 "usage: aditctl upgrade [PROGRAM] [--no-wait]\n"
	 "\n"
	 "The daemon starts PROGRAM (default: the file it was started from, as it is now)\n"
	 "with its own arguments. The new daemon reads the configuration, takes over the\n"
	 "listening sockets and what is pinned in the kernel, and only then the old one\n"
	 "drains; nobody who connects is refused. If the new one fails before it is\n"
	 "ready, the old one goes on as if nothing had happened, and the exit status is 1.\n"
	 "For root and the daemon's own user. -o json does not wait.\n"
	 "\n"
	 "      --no-wait          return at once\n"
	 COMMON},
	{"metrics",
	 "usage: aditctl metrics\n"
	 "\n"
	 "What GET /metrics answers: Prometheus text.\n"
	 COMMON},
	{"version",
	 "usage: aditctl version\n"
	 "\n"
	 "Versions of aditctl and, if it can be reached, of aditd.\n"
	 COMMON},
	{"help",
	 "usage: aditctl help [COMMAND]\n"
	 COMMON},
};
// clang-format on

const char *help_text(const char *command)
{
	for (size_t i = 0; command && i < ARRAY_LEN(texts); i++)
		if (!strcmp(texts[i].command, command))
			return texts[i].text;
	return main_text;
}
