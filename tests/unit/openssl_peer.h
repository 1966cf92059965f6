/* openssl s_client at the other end of a rec. */
#pragma once
#include <sys/wait.h>

struct openssl {
	pid_t pid;
	int in, out; /* its input, its output */
	char said[65536];
	size_t n;
	struct two t; /* [1] is the rec */
};

static inline void openssl_start(struct openssl *o, const char *more)
{
	struct cfg_identity id = certs_identity("b", AES128 ":" AES256 ":" CHACHA);
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}}, peer;
	struct pollfd p = {.events = POLLIN};
	struct err e = {""};
	int in[2], out[2], s;
	char cmd[1200];

	memset(o, 0, sizeof(*o));
	assert_int_equal(sock_listen(&a, 8, &s, &e), 0);
	assert_int_equal(sock_local(s, &a), 0);
	snprintf(cmd, sizeof(cmd), "exec openssl s_client -connect 127.0.0.1:%u -CAfile %s %s 2>&1", a.port, certs_file("ca", ".pem"), more);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	o->pid = fork();
	assert_true(o->pid >= 0);
	if (o->pid == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	o->in = in[1];
	o->out = out[0];
	p.fd = s;
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	s = sock_accept(p.fd, &peer);
	assert_true(s >= 0);
	close(p.fd);
	o->t.ctx[1] = ctx_of(&id);
	o->t.r[0].fd = -1;
	o->t.res[1] = -EAGAIN;
	assert_int_equal(rec_open(&o->t.r[1], &l, s, o->t.ctx[1], true, NULL), 0);
	shake(&o->t);
}

static inline void openssl_stop(struct openssl *o)
{
	int status;

	close(o->in);
	kill(o->pid, SIGKILL);
	waitpid(o->pid, &status, 0);
	close(o->out);
	two_close(&o->t);
}

static inline void openssl_says(struct openssl *o, const char *text)
{
	struct timespec t0;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (!memmem(o->said, o->n, text, strlen(text))) {
		struct pollfd p = {.fd = o->out, .events = POLLIN};
		ssize_t n = poll(&p, 1, 100) == 1 ? read(o->out, o->said + o->n, sizeof(o->said) - o->n) : 0;

		o->n += n > 0 ? (size_t)n : 0;
		if (ms_left(&t0) <= 0)
			fail_msg("openssl never said '%s' but: %.*s", text, (int)o->n, o->said);
	}
	o->n = 0;
}

static inline void openssl_types(struct openssl *o, const char *text)
{
	assert_int_equal(write(o->in, text, strlen(text)), (ssize_t)strlen(text));
}

static inline void openssl_sends(struct openssl *o, const char *text)
{
	struct got g = {0};
	struct err e = {""};

	openssl_types(o, text);
	if (read_some(&o->t.r[1], &g, strlen(text), &e) <= 0)
		fail_msg("%s", e.msg);
	assert_int_equal(g.n, strlen(text));
	assert_memory_equal(g.p, text, g.n);
	free(g.p);
}
