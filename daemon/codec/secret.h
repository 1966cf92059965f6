/* Names whose values are nobody's business: not in logs, traces or answers. Pure. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#define SECRET_SHOWN "[redacted]"
/** secret_name() - does a header or metadata member of this name hold a credential? Letters' case does not matter. */
bool secret_name(const char *name, size_t n);
