/* Numbers for people. */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define HUMAN 24 /* bytes that every result fits in */

/** human_bytes() - 0, 512, 1.5K, 24M, 1.2G: powers of 1024, two to four digits. Return: @out. */
char *human_bytes(uint64_t v, char out[HUMAN]);
/** human_time() - of microseconds: 85us, 1.2ms, 340ms, 9.5s, 4m05s, 3h12m, 2d04h. Return: @out. */
char *human_time(uint64_t us, char out[HUMAN]);
/** human_ms() - reads "500ms", "30s", "5m", "1h"; bare numbers are refused. Return: false if it is none of these. */
bool human_ms(const char *s, uint64_t *ret_ms);
