/*
 * Every BPF object of the tree loads on this kernel, with nothing but libbpf: the relocations fit, and the verifier takes each program.
 * What a kernel need not have (fentry) is left out if it does not, as the daemon does, and the line says so. One test per object.
 *
 *	objects [DIRECTORY]	default: build/bpf, or bpf where tests/run vm has put them
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <glob.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define TAIL 25 /* lines of a log that are shown */

static char said[1 << 20];
static size_t said_len;

static int __attribute__((format(printf, 2, 0))) keep(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	int n;

	if (level == LIBBPF_DEBUG || said_len >= sizeof(said))
		return 0;
	n = vsnprintf(said + said_len, sizeof(said) - said_len, fmt, ap);
	if (n > 0)
		said_len += (size_t)n < sizeof(said) - said_len ? (size_t)n : sizeof(said) - said_len - 1;
	return 0;
}

static void show_tail(void)
{
	size_t at = said_len;

	for (int lines = 0; at && lines <= TAIL; at--)
		lines += said[at - 1] == '\n';
	for (const char *l = strtok(said + at, "\n"); l; l = strtok(NULL, "\n"))
		printf("#   %s\n", l);
}

/* Return: 0, or -errno. Maps are private ones, also those that the daemon would pin and share. */
static int load(const char *path, bool tracing, int *ret_programs)
{
	struct bpf_object *o = bpf_object__open_file(path, NULL);
	struct bpf_program *p;
	struct bpf_map *m;
	int r;

	*ret_programs = 0;
	said_len = 0;
	if (!o)
		return -errno;
	bpf_object__for_each_map (m, o)
		bpf_map__set_pin_path(m, NULL);
	bpf_object__for_each_program (p, o) {
		if (!tracing && bpf_program__expected_attach_type(p) == BPF_TRACE_FENTRY)
			bpf_program__set_autoload(p, false);
		*ret_programs += bpf_program__autoload(p);
	}
	r = bpf_object__load(o);
	bpf_object__close(o);
	return r;
}

int main(int argc, char **argv)
{
	static const char *const places[] = {"build/bpf", "bpf"};
	char pattern[512];
	struct utsname u;
	int failed = 0, n;
	glob_t g = {0};

	for (size_t i = 0; i < 2 && !g.gl_pathc; i++) {
		snprintf(pattern, sizeof(pattern), "%s/*.bpf.o", argc > 1 ? argv[1] : places[i]);
		if (glob(pattern, 0, NULL, &g))
			g.gl_pathc = 0;
	}
	if (!g.gl_pathc) {
		printf("no BPF objects here: make bpf\n");
		return 77;
	}
	n = bpf_map_create(BPF_MAP_TYPE_ARRAY, NULL, 4, 4, 1, NULL);
	if (n < 0 && errno == EPERM) {
		printf("no right to use BPF (CAP_BPF, CAP_NET_ADMIN)\n");
		return 77;
	}
	uname(&u);
	libbpf_set_print(keep);
	printf("1..%zu\n", g.gl_pathc);
	for (size_t i = 0; i < g.gl_pathc; i++) {
		const char *path = g.gl_pathv[i], *name = strrchr(path, '/') + 1;
		int r = load(path, true, &n), without = 0;

		if (r < 0) {
			int all = n;

			without = load(path, false, &n);
			if (without == 0 && n < all) {
				printf("# %s: without its %d fentry programs: %s\n", name, all - n, strerror(-r));
				r = 0;
			}
		}
		if (r < 0)
			show_tail();
		printf("%sok %zu - %s on %s%s%s\n", r < 0 ? "not " : "", i + 1, name, u.release, r < 0 ? ": " : "", r < 0 ? strerror(-r) : "");
		failed |= r < 0;
	}
	globfree(&g);
	return failed;
}
