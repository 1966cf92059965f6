/*
 * Traffic keys are nowhere in our memory once the kernel has them, or once the tunnel has ended. All that is writable is searched;
 * what is looked for is kept inverted, or it would be found there. Of the kernel only setsockopt() is made up.
 */
/* link: -Wl,--wrap=setsockopt */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/record_pair.h"
#include <linux/tls.h>
#include <netinet/tcp.h>

#define KEY	 16
#define AREA_MAX (64ul << 20) /* larger ones are a sanitizer's */

int __real_setsockopt(int fd, int level, int name, const void *p, socklen_t n);
int __wrap_setsockopt(int fd, int level, int name, const void *p, socklen_t n);

static uint8_t inverted[4][KEY];
static unsigned int n_keys;
static bool refuse;

int __wrap_setsockopt(int fd, int level, int name, const void *p, socklen_t n)
{
	const struct tls12_crypto_info_aes_gcm_128 *a = p;

	if (level == IPPROTO_TCP && name == TCP_ULP)
		return 0;
	if (level != SOL_TLS)
		return __real_setsockopt(fd, level, name, p, n);
	if (name == TLS_TX || name == TLS_RX) {
		assert_int_equal(n, sizeof(*a));
		for (int i = 0; i < KEY; i++)
			inverted[n_keys % ARRAY_LEN(inverted)][i] = a->key[i] ^ 0xff;
		n_keys++;
	}
	errno = EPERM;
	return refuse ? -1 : 0;
}

static bool is_key(const uint8_t *p, const uint8_t *inv)
{
	for (int i = 0; i < KEY; i++)
		if ((p[i] ^ inv[i]) != 0xff)
			return false;
	return true;
}

__attribute__((no_sanitize("address"))) static unsigned int keys_in_memory(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned int found = 0;
	unsigned long a, b;
	char line[512], perm[8];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%lx-%lx %4s", &a, &b, perm) != 3 || strncmp(perm, "rw", 2) != 0 || b - a > AREA_MAX)
			continue;
		for (const uint8_t *p = (const uint8_t *)a; p + KEY <= (const uint8_t *)b; p++)
			for (size_t k = 0; k < ARRAY_LEN(inverted); k++)
				found += is_key(p, inverted[k]);
	}
	fclose(f);
	return found;
}

static void open_two(struct two *t, bool by_kernel)
{
	n_keys = 0;
	refuse = !by_kernel;
	cfg.kernel.ktls = SWITCH_AUTO;
	two_open(t, AES128);
	assert_string_equal(rec_engine_str(&t->r[0]), by_kernel ? "ktls" : "user");
	assert_int_equal(n_keys, 4);
}

static void what_the_kernel_has_we_have_no_longer(void **state)
{
	struct two t;

	(void)state;
	open_two(&t, true);
	assert_int_equal(keys_in_memory(), 0);
	two_close(&t);
}

static void an_ended_tunnel_leaves_no_keys(void **state)
{
	struct two t;

	(void)state;
	open_two(&t, false);
	assert_true(keys_in_memory() >= 4); /* so it can find them */
	two_close(&t);
	assert_int_equal(keys_in_memory(), 0);
}

int main(void)
{
#if defined(ADIT_SAN_asan) || defined(ADIT_SAN_tsan)
	puts("a sanitizer's memory is not searched");
	return 77;
#endif
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_the_kernel_has_we_have_no_longer),
		cmocka_unit_test(an_ended_tunnel_leaves_no_keys),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
