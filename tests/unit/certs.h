/*
 * Certificates for tests, made anew by scripts/mkcerts and openssl in a directory of its own, which goes when the program ends.
 *   node, b		ns/adit/sa/node and /b of cluster.local
 *   rsa		ns/adit/sa/rsa, with an RSA key
 *   stranger		ns/adit/sa/s of other.example, the same CA
 *   old		expired yesterday; future: valid from tomorrow
 *   alien		of another CA, which is alien-ca.pem
 *   twins, nobody	two URI names, none
 *   asca, nosign, encrypts, pathless, web, long	a CA's; key usages that may not be; no path; no SPIFFE id; an id of 300 bytes
 */
#pragma once
#include "model/config.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char certs_at[64];
static pid_t certs_owner;

static void certs_remove(void)
{
	char cmd[128];

	if (getpid() != certs_owner) /* a child that calls exit() */
		return;
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", certs_at);
	(void)!system(cmd);
}

/* the top of the sources: somewhere above the program, or where we are */
static inline void certs_top(char *out, size_t n)
{
	char exe[400], *slash, file[512];
	ssize_t len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	exe[len > 0 ? len : 0] = '\0';
	while ((slash = strrchr(exe, '/'))) {
		*slash = '\0';
		snprintf(file, sizeof(file), "%s/scripts/mkcerts", exe);
		if (!access(file, X_OK)) {
			snprintf(out, n, "%s", exe);
			return;
		}
	}
	snprintf(out, n, ".");
}

/* @all: not only node and b, which takes a moment. ADIT_CERTS names a directory that has node and b already. */
static inline int certs_make(bool all)
{
	static const char script[] =
		"cd '%s' && D='%s' && {\n"
		"set -e\n"
		"[ %d = 1 ] || { scripts/mkcerts $D --id node=ns/adit/sa/node --id b=ns/adit/sa/b; exit 0; }\n"
		"scripts/mkcerts $D --id node=ns/adit/sa/node --id b=ns/adit/sa/b --id rsa=ns/adit/sa/rsa --rsa rsa"
		" --expired old --foreign alien --two-sans twins --no-san nobody\n"
		"scripts/mkcerts $D --trust-domain other.example --id stranger=ns/adit/sa/s\n"
		"cd $D\n"
		"odd() { printf '%%s\\n' \"basicConstraints=critical,$2\" \"keyUsage=critical,$3\" \"subjectAltName=URI:$4\" >$1.ext\n"
		"  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -subj /CN=$1 -out $1.req\n"
		"  openssl x509 -req -in $1.req -CA ca.pem -CAkey ca.key -days 2 -extfile $1.ext -out $1.pem; }\n"
		"ID=spiffe://cluster.local/ns/adit/sa\n"
		"odd asca CA:true digitalSignature,keyCertSign $ID/asca\n"
		"odd nosign CA:false keyEncipherment $ID/nosign\n"
		"odd encrypts CA:false digitalSignature,cRLSign $ID/encrypts\n"
		"odd pathless CA:false digitalSignature spiffe://cluster.local\n"
		"odd web CA:false digitalSignature https://cluster.local/ns/adit\n"
		"odd long CA:false digitalSignature $ID/$(printf %%0300d 0)\n"
		"printf '%%s\\n' [ca] default_ca=c [c] database=i new_certs_dir=. rand_serial=yes default_md=sha256 policy=p [p]"
		" commonName=optional >future.cnf; : >i\n"
		"openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout future.key -subj /CN=f -out future.req\n"
		"sed s/asca/future/ asca.ext | sed s/CA:true/CA:false/ | sed s/,keyCertSign// >future.ext\n"
		"openssl ca -config future.cnf -batch -notext -keyfile ca.key -cert ca.pem -in future.req -extfile future.ext"
		" -startdate $(date -u -d '+1 day' +%%Y%%m%%d%%H%%M%%SZ) -enddate $(date -u -d '+9 days' +%%Y%%m%%d%%H%%M%%SZ)"
		" -out future.pem\n"
		"} >$D/log 2>&1 || { cat $D/log; exit 1; }\n";
	char cmd[sizeof(script) + 600], top[400], file[128];
	FILE *sh;

	if (!all && getenv("ADIT_CERTS")) {
		snprintf(certs_at, sizeof(certs_at), "%s", getenv("ADIT_CERTS"));
		return 0;
	}
	snprintf(certs_at, sizeof(certs_at), "/tmp/adit-certs-XXXXXX");
	if (!mkdtemp(certs_at))
		return -1;
	certs_owner = getpid();
	atexit(certs_remove);
	certs_top(top, sizeof(top));
	snprintf(cmd, sizeof(cmd), script, top, certs_at, all);
	snprintf(file, sizeof(file), "%s/make", certs_at);
	sh = fopen(file, "we");
	if (!sh || fputs(cmd, sh) < 0 || fclose(sh))
		return -1;
	snprintf(cmd, sizeof(cmd), "bash '%s'", file);
	return system(cmd) ? -1 : 0;
}

/* file name in the directory; the text lives for the next 63 calls */
static inline const char *certs_file(const char *name, const char *suffix)
{
	static char text[64][160];
	static unsigned int n;
	char *out = text[n++ % 64];

	snprintf(out, sizeof(text[0]), "%s/%s%s", certs_at, name, suffix);
	return out;
}

/* an identity as configuration gives it; strings live as long as the next few of these */
static inline struct cfg_identity certs_identity(const char *name, const char *ciphers)
{
	return (struct cfg_identity){
		.name = name,
		.certificate = certs_file(name, ".pem"),
		.key = certs_file(name, ".key"),
		.ca = certs_file("ca", ".pem"),
		.ciphers = ciphers,
	};
}
