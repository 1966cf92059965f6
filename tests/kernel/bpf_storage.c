/*
 * Socket storage: a cgroup/sock_create program notes something at a socket as it is made; with BPF_F_CLONE an accepted socket inherits
 * what its listener has (its own making runs no sock_create); user space reads it by descriptor; it is gone with the socket. Who made a
 * socket is known that way when the sockops program needs it. bpf/bypass.bpf.c. Source: net/core/bpf_sk_storage.c.
 */
/* link: -lbpf */
#include "cgroup.h"

static int storage(uint32_t flags)
{
	struct btf *btf = btf__new_empty();
	LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = BPF_F_NO_PREALLOC | flags);
	LIBBPF_OPTS(bpf_btf_load_opts, lo);
	const void *raw;
	uint32_t size;
	int i, fd, map;

	CHECK(btf, "BTF");
	i = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	CHECK(i > 0, "BTF");
	raw = btf__raw_data(btf, &size);
	fd = bpf_btf_load(raw, size, &lo);
	if (fd < 0 && errno == EPERM)
		skip("no right to use BPF (CAP_BPF, CAP_NET_ADMIN)");
	CHECK(fd >= 0, "BTF is refused");
	o.btf_fd = (uint32_t)fd;
	o.btf_key_type_id = o.btf_value_type_id = (uint32_t)i;
	map = bpf_map_create(BPF_MAP_TYPE_SK_STORAGE, "notes", 4, 4, 0, &o);
	CHECK(map >= 0, "a map of type sk_storage");
	btf__free(btf);
	close(fd);
	return map;
}

static int noted(int map, int fd)
{
	int v = -1;

	return bpf_map_lookup_elem(map, &fd, &v) ? -errno : v;
}

int main(void)
{
	int cloned = storage(BPF_F_CLONE), own = storage(0), prog, l, c, s;
	struct sockaddr_in a;
	/* 42 into both at every new socket */
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		STOREI(BPF_W, R(10), -4, 42),
		MAP(R(1), cloned),
		MOV(R(2), R(6)),
		MOV(R(3), R(10)),
		ADDI(R(3), -4),
		MOVI(R(4), BPF_SK_STORAGE_GET_F_CREATE),
		CALL(BPF_FUNC_sk_storage_get),
		MAP(R(1), own),
		MOV(R(2), R(6)),
		MOV(R(3), R(10)),
		ADDI(R(3), -4),
		MOVI(R(4), BPF_SK_STORAGE_GET_F_CREATE),
		CALL(BPF_FUNC_sk_storage_get),
		MOVI(R(0), 1),
		END(),
	};

	prog = prog_new(BPF_PROG_TYPE_CGROUP_SOCK, BPF_CGROUP_INET_SOCK_CREATE, insn, COUNT(insn));
	s = new_socket();
	cgroup_enter();
	CHECK(noted(cloned, s) == -ENOENT, "a socket that is older");
	close(s);
	CHECK(bpf_link_create(prog, cgroup_fd, BPF_CGROUP_INET_SOCK_CREATE, NULL) >= 0, "attach to the cgroup");
	l = listener(0, false);
	a = loopback(port_of(l));
	c = new_socket();
	CHECK(!connect(c, (struct sockaddr *)&a, sizeof(a)), "connect");
	s = accept(l, NULL, NULL);
	CHECK(s >= 0, "accept");
	CHECK(noted(cloned, l) == 42 && noted(cloned, c) == 42, "listener %d, client %d", noted(cloned, l), noted(cloned, c));
	CHECK(noted(cloned, s) == 42, "accepted, with BPF_F_CLONE: %d", noted(cloned, s));
	CHECK(noted(own, s) == -ENOENT, "accepted, without: %d", noted(own, s));
	close(c);
	close(s);
	close(l);
	c = new_socket();
	CHECK(noted(cloned, c) == 42, "and the next");
	close(c);
	return 0;
}
