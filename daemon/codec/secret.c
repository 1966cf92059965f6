/*
 * Names whose values are nobody's business. Agents exchange metadata, which is no place for credentials; but headers can be configured,
 * and what a peer sends is the peer's. So whatever shows headers or metadata to people asks here first.
 *
 * By parts of names: there is no list of all names, and a value too many hidden does no harm.
 */
#include "codec/secret.h"
#include <string.h>
#include <strings.h>

bool secret_name(const char *name, size_t n)
{
	static const char *const parts[] = {"authorization", "cookie", "token", "secret", "passw", "api-key", "apikey", "api_key",
					    "credential", "private", "session-id", "sessionid", "jwt", "signature"};

	for (size_t p = 0; p < sizeof(parts) / sizeof(*parts); p++) {
		size_t k = strlen(parts[p]);

		for (size_t i = 0; i + k <= n; i++)
			if (!strncasecmp(name + i, parts[p], k))
				return true;
	}
	return false;
}
