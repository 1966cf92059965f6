/* meshload - load generator and backend for TCP tunnels.
 *
 * One binary, two roles.  "server" is the backend behind the tunnel; the other
 * modes are clients that drive the near end of the tunnel.  Both roles verify
 * every byte stream against a position-dependent pattern, so lost, duplicated,
 * reordered or cross-wired bytes are reported, not just counted.
 *
 *   meshload server   --listen IP:PORT [--shm PATH] [--verify full|sample]
 *   meshload bulk     --target IP:PORT --dir up|down|both --streams N --warmup S --time S --shm PATH
 *   meshload pingpong --target IP:PORT --streams N --size B --time S [--rate R]
 *   meshload short    --target IP:PORT --streams N --size B --time S [--rst]
 *   meshload idle     --target IP:PORT --count N [--window W]   (holds until stdin closes)
 *   common: [--connect HOST:PORT] [--verify full|sample] [--first-slot N]
 *
 * Streams are numbered; the number chooses the pattern and the counter shared with the server.  Two clients that run
 * at once against one server must not use the same numbers: --first-slot.
 *
 * Every client prints exactly one JSON object per line on stdout.
 * Exit status: 0 clean, 1 data errors or failed connections, 2 usage/setup.
 */
#include "meshload.h"

int main(int argc, char **argv)
{
	const char *listen_at = NULL, *shm = NULL, *target = NULL;
	if (argc < 2)
		die("usage: see the head of meshload.c");
	for (int i = 2; i < argc; i++) {
		const char *k = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(k, "--rst")) {
			o.rst = 1;
			continue;
		}
		i++;
		if (!strcmp(k, "--listen"))
			listen_at = v;
		else if (!strcmp(k, "--shm"))
			shm = v;
		else if (!strcmp(k, "--target"))
			target = v;
		else if (!strcmp(k, "--connect"))
			o.connect = v;
		else if (!strcmp(k, "--first-slot"))
			o.first = atoi(v);
		else if (!strcmp(k, "--streams"))
			o.streams = atoi(v);
		else if (!strcmp(k, "--count"))
			o.count = atoi(v);
		else if (!strcmp(k, "--window"))
			o.window = atoi(v);
		else if (!strcmp(k, "--size"))
			o.size = atoi(v);
		else if (!strcmp(k, "--warmup"))
			o.warmup = atof(v);
		else if (!strcmp(k, "--time"))
			o.time = atof(v);
		else if (!strcmp(k, "--rate"))
			o.rate = atof(v);
		else if (!strcmp(k, "--verify"))
			verify_full = !strcmp(v, "full");
		else if (!strcmp(k, "--dir"))
			o.dir = !strcmp(v, "up") ? M_SINK : !strcmp(v, "down") ? M_SOURCE : M_BOTH;
		else
			die("unknown option %s", k);
	}
	if (o.size < 1 || o.size > MAX_MSG || o.streams < 1 || o.count < 1 || o.first < 0)
		die("bad --size, --streams, --count or --first-slot");
	struct rlimit rl = {1000000, 1000000};
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0) {
		getrlimit(RLIMIT_NOFILE, &rl);
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	signal(SIGPIPE, SIG_IGN);
	pat_init();
	shm_open_file(shm);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (!strcmp(argv[1], "server")) {
		if (!listen_at)
			die("server needs --listen");
		run_server(listen_at);
	}
	o.target = parse_addr(target);
	if (!strcmp(argv[1], "bulk"))
		return run_bulk();
	if (!strcmp(argv[1], "pingpong"))
		return run_pingpong();
	if (!strcmp(argv[1], "short"))
		return run_short();
	if (!strcmp(argv[1], "idle"))
		return run_idle();
	die("unknown mode %s", argv[1]);
}
