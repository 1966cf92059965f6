/* Numbers for people: as few digits as tell the size, always the unit. */
#include "human.h"
#include "base/clean.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

char *human_bytes(uint64_t v, char out[HUMAN])
{
	static const char unit[] = "KMGTPE";
	uint64_t whole = v, rest = 0; /* rest: 1024ths */
	int u = -1;

	while (whole >= 1024 && u + 1 < (int)sizeof(unit) - 1) {
		rest = whole % 1024;
		whole /= 1024;
		u++;
	}
	if (u < 0)
		snprintf(out, HUMAN, "%" PRIu64, v);
	else if (whole < 10)
		snprintf(out, HUMAN, "%" PRIu64 ".%" PRIu64 "%c", whole, rest * 10 / 1024, unit[u]);
	else
		snprintf(out, HUMAN, "%" PRIu64 "%c", whole, unit[u]);
	return out;
}

char *human_time(uint64_t us, char out[HUMAN])
{
	const uint64_t s = us / 1000000;

	if (us < 1000)
		snprintf(out, HUMAN, "%" PRIu64 "us", us);
	else if (us < 10000)
		snprintf(out, HUMAN, "%" PRIu64 ".%" PRIu64 "ms", us / 1000, us % 1000 / 100);
	else if (us < 1000000)
		snprintf(out, HUMAN, "%" PRIu64 "ms", us / 1000);
	else if (s < 10)
		snprintf(out, HUMAN, "%" PRIu64 ".%" PRIu64 "s", s, us % 1000000 / 100000);
	else if (s < 60)
		snprintf(out, HUMAN, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(out, HUMAN, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(out, HUMAN, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s % 3600 / 60);
	else
		snprintf(out, HUMAN, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s % 86400 / 3600);
	return out;
}

bool human_ms(const char *s, uint64_t *ret_ms)
{
	static const struct {
		const char *name;
		uint64_t ms;
	} units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}};
	uint64_t v = 0;
	const char *p = s;

	for (; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return false;
	for (size_t i = 0; p > s && i < ARRAY_LEN(units); i++)
		if (!strcmp(p, units[i].name))
			return !__builtin_mul_overflow(v, units[i].ms, ret_ms);
	return false;
}
