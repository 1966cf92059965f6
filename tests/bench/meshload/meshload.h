/* What the files of the load generator share; the roles and the command line are described in main.c. */
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELLO_LEN	 16
#define PAT_PERIOD	 65521u /* prime, so no power-of-two block hides a shift */
#define IO_MAX		 (256 * 1024)
#define MAX_SLOTS	 4096
#define MAX_MSG		 65536
#define ROUNDS_PER_EVENT 4 /* fairness bound: reads or writes per readiness event */

enum { M_ECHO = 'E', M_SINK = 'U', M_SOURCE = 'D', M_BOTH = 'B', M_REQ = 'R' };
enum { ST_CONNECTING, ST_PREAMBLE, ST_RUN, ST_DEAD };

struct conn {
	int fd;
	unsigned char st, mode, busy, hello_got, want_w;
	uint32_t slot, size;
	uint64_t tx, rx; /* payload offsets, hello excluded */
	uint64_t t0;	 /* start of the operation being timed */
	union {
		unsigned char hello[HELLO_LEN];
		char tail[4]; /* last bytes of a CONNECT answer */
	};
	unsigned char code_ok, hdr_n;
	char hdr[12];
	unsigned char *pend; /* server echo: bytes not yet written back */
	size_t pend_len, pend_off;
};

/* counters that the server shares with clients, in a file */
struct shared {
	volatile uint64_t rx[MAX_SLOTS]; /* payload bytes the server received, per slot */
	volatile uint64_t errors;	 /* pattern mismatches seen by the server */
	volatile uint64_t conns, open;
	volatile uint64_t eofs, resets; /* how connections ended */
};

/* util.c */
extern int verify_full;
extern struct shared *sh;
extern int ep;
extern unsigned char iobuf[IO_MAX];
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void);
double cpu_self(void);
struct sockaddr_in parse_addr(const char *s);
void pat_init(void);
const unsigned char *pat_at(uint32_t slot, int dir, uint64_t off);
int pat_check(const unsigned char *buf, size_t n, uint32_t slot, int dir, uint64_t off);
void hist_add(uint64_t v);
void hist_print(void);
void shm_open_file(const char *path);
void ep_set(struct conn *c, int op, uint32_t ev);
void want_write(struct conn *c, int on, uint32_t base);
void nodelay(int fd);
void hello_make(unsigned char h[HELLO_LEN], int mode, uint32_t slot, uint32_t size);

/* server.c */
void run_server(const char *listen_at);

/* client.c: one connection of a client */
struct options {
	struct sockaddr_in target;
	const char *connect;
	int streams, count, window, size, dir, rst, first;
	double warmup, time, rate;
};
extern struct options o;
extern uint64_t n_fail, n_err, n_done, n_est;
extern struct conn *conns;
void c_fail(struct conn *c);
int c_open(struct conn *c);
int c_ping(struct conn *c);
ssize_t c_read(struct conn *c);
int c_setup(struct conn *c, uint32_t ev);
void wait_established(int want);
void head(const char *mode);
int tail_print(double cpu0);

/* modes.c: what a client does; each prints its result and returns the exit status */
int run_bulk(void);
int run_pingpong(void);
int run_short(void);
int run_idle(void);
