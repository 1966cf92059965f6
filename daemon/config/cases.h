/*
 * Policies tried on cases, without a daemon: who connects, and what should come of it. Pure but for reading what it is told to.
 */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include <stdbool.h>
#include <stdint.h>

/** struct case_verdict - one case; texts are valid during the call */
struct case_verdict {
	uint32_t index, line; /* from 0; in the file of cases */
	const char *name;     /* NULL: it has none */
	bool ok;
	bool allowed, want_allowed;
	const char *policy; /* that decided: "NAME/rules/N", "default-deny", or "none" */
	const char *want_policy; /* NULL: any */
	const char *at; /* the listener or cluster that denied; NULL: allowed */
};

/** struct cases - what to try on what */
struct cases {
	const char *policies_name, *policies; /* YAML, as `aditctl policy apply` takes it */
	size_t n_policies;		      /* bytes */
	const char *cases_name, *cases;
	size_t n_cases;
	const char *config; /* a configuration file whose listeners, clusters and policies count; NULL: every name is known */
};

/**
 * cases_run() - tell @told of each, in order
 * Return: how many were not ok, or -EINVAL, -ENOENT, -ENOMEM, ... with the sentence "FILE:LINE:COLUMN: ...".
 */
int cases_run(const struct cases *c, void (*told)(void *arg, const struct case_verdict *v), void *arg, struct err *reterr);
