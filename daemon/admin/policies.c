/*
 * What policies have decided, for GET /metrics. A family's samples are those for which it can ever count: ALLOW policies allow, DENY
 * policies deny, those in dry run only would have. With many policies only those that did are told, or the text would be long and empty.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "obs/metrics.h"
#include <string.h>

#define SILENT_ZEROS 256u /* above so many policies, zeros are left out */

static void add_family(struct text *t, const char *name, const char *help, const struct policy_row *r, size_t n, size_t at, bool deny,
		       bool dry)
{
	metrics_family(t, name, METRICS_COUNTER, help);
	for (size_t i = 0; i < n; i++) {
		const struct metrics_label l = {"policy", r[i].name};
		bool counts = r[i].deny == deny && (r[i].dry_run == dry || r[i].default_) && !r[i].elsewhere;
		uint64_t v;

		memcpy(&v, (const char *)&r[i] + at, sizeof(v));
		if (v || (counts && n <= SILENT_ZEROS))
			metrics_u64(t, name, &l, 1, v);
	}
}

void api_add_policies(struct text *t, struct daemon *d)
{
	AUTO_FREE struct policy_row *r = NULL;
	size_t n = 0;

	if (inspect_policies(d, &r, &n) < 0) {
		t->failed = true;
		return;
	}
	metrics_family(t, "adit_policies", METRICS_GAUGE, "policies configured");
	metrics_u64(t, "adit_policies", NULL, 0, n - 1);
	if (n == 1) /* without policies nothing is ever counted */
		return;
	add_family(t, "adit_policy_allowed_total", "decisions of an ALLOW policy, per listener and cluster passed", r, n,
		   offsetof(struct policy_row, allowed), false, false);
	add_family(t, "adit_policy_denied_total", "connections denied by a policy, or by default", r, n, offsetof(struct policy_row, denied),
		   true, false);
	add_family(t, "adit_policy_dry_run_allowed_total", "denials that a policy in dry run would have turned", r, n,
		   offsetof(struct policy_row, dry_allowed), false, true);
	add_family(t, "adit_policy_dry_run_denied_total", "decisions that a policy in dry run would have turned into a denial", r, n,
		   offsetof(struct policy_row, dry_denied), true, true);
}
