/* Time, addresses, the byte pattern and its check, a histogram, shared counters, epoll. */
#include "meshload.h"

/* ---------------------------------------------------------------- helpers */

void die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "meshload: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	exit(2);
}

uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

double cpu_self(void)
{
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	return (double)r.ru_utime.tv_sec + (double)r.ru_utime.tv_usec / 1e6 + (double)r.ru_stime.tv_sec +
	       (double)r.ru_stime.tv_usec / 1e6;
}

struct sockaddr_in parse_addr(const char *s)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	char ip[64];
	const char *c = s ? strrchr(s, ':') : NULL;
	if (!c || (size_t)(c - s) >= sizeof ip)
		die("bad address '%s' (want IP:PORT)", s ? s : "");
	memcpy(ip, s, (size_t)(c - s));
	ip[c - s] = 0;
	if (inet_pton(AF_INET, ip, &sa.sin_addr) != 1)
		die("bad IPv4 address '%s'", ip);
	sa.sin_port = htons((uint16_t)atoi(c + 1));
	return sa;
}

/* ---------------------------------------------------------------- pattern */

static unsigned char pat[PAT_PERIOD + IO_MAX];
int verify_full;

void pat_init(void)
{
	uint32_t x = 2463534242u;
	for (unsigned i = 0; i < PAT_PERIOD; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		pat[i] = (unsigned char)(x >> 11);
	}
	for (unsigned i = 0; i < IO_MAX; i++)
		pat[PAT_PERIOD + i] = pat[i % PAT_PERIOD];
}

/* Expected bytes at stream offset `off` of stream `slot`; dir 0 = to server, 1 = from it. */
const unsigned char *pat_at(uint32_t slot, int dir, uint64_t off)
{
	return pat + (off + (uint64_t)slot * 131u + (uint64_t)dir * 7777u) % PAT_PERIOD;
}

/* 0 when buf matches.  Sampling still sees any loss, duplication or reordering,
 * because those shift every later byte; only isolated corruption can hide. */
int pat_check(const unsigned char *buf, size_t n, uint32_t slot, int dir, uint64_t off)
{
	const unsigned char *e = pat_at(slot, dir, off);
	if (verify_full || n <= 192)
		return memcmp(buf, e, n) != 0;
	size_t mid = (n / 2) & ~(size_t)63;
	return memcmp(buf, e, 64) || memcmp(buf + mid, e + mid, 64) || memcmp(buf + n - 64, e + n - 64, 64);
}

/* -------------------------------------------------------------- histogram */
/* Log-linear: 64 sub-buckets per power of two, so under 1.6 % error. */

#define H_SUB 64
static uint64_t hist[64 * H_SUB], hist_n, hist_max;

static unsigned hist_idx(uint64_t v)
{
	if (v < H_SUB)
		return (unsigned)v;
	unsigned e = 63u - (unsigned)__builtin_clzll(v); /* e >= 6 */
	return (e - 5) * H_SUB + (unsigned)((v >> (e - 6)) & (H_SUB - 1));
}

static uint64_t hist_val(unsigned i)
{
	if (i < H_SUB)
		return i;
	unsigned e = i / H_SUB + 5;
	return (((uint64_t)H_SUB + i % H_SUB) << (e - 6)) + ((1ull << (e - 6)) >> 1);
}

void hist_add(uint64_t v)
{
	hist[hist_idx(v)]++;
	hist_n++;
	if (v > hist_max)
		hist_max = v;
}

static double hist_us(double q)
{
	uint64_t want = (uint64_t)(q * (double)hist_n), seen = 0;
	for (unsigned i = 0; i < 64 * H_SUB; i++) {
		seen += hist[i];
		if (seen > want)
			return (double)hist_val(i) / 1e3;
	}
	return (double)hist_max / 1e3;
}

void hist_print(void)
{
	if (!hist_n) {
		printf("\"lat_us\":null");
		return;
	}
	printf("\"lat_us\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", hist_us(.5),
	       hist_us(.9), hist_us(.99), hist_us(.999), (double)hist_max / 1e3);
}

/* ---------------------------------------------- counters shared with server */

struct shared *sh;

void shm_open_file(const char *path)
{
	if (!path) {
		sh = calloc(1, sizeof *sh);
		if (!sh)
			die("out of memory");
		return;
	}
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof *sh) < 0)
		die("%s: %s", path, strerror(errno));
	sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (sh == MAP_FAILED)
		die("mmap %s: %s", path, strerror(errno));
	close(fd);
}

/* ------------------------------------------------------------------ common */

int ep;
unsigned char iobuf[IO_MAX];

void ep_set(struct conn *c, int op, uint32_t ev)
{
	struct epoll_event e = {.events = ev, .data.ptr = c};
	if (epoll_ctl(ep, op, c->fd, &e) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

void want_write(struct conn *c, int on, uint32_t base)
{
	if (c->want_w == on)
		return;
	c->want_w = (unsigned char)on;
	ep_set(c, EPOLL_CTL_MOD, base | (on ? (uint32_t)EPOLLOUT : 0u));
}

void nodelay(int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

void hello_make(unsigned char h[HELLO_LEN], int mode, uint32_t slot, uint32_t size)
{
	memset(h, 0, HELLO_LEN);
	memcpy(h, "MLH1", 4);
	h[4] = (unsigned char)mode;
	memcpy(h + 8, &slot, 4);
	memcpy(h + 12, &size, 4);
}
