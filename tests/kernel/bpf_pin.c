/*
 * A link pinned in a bpffs outlives the process that made it: the program goes on deciding until the pin is removed, and another
 * process takes the link over from there. So a restart of the agent leaves no hole in capture. Maps made with BPF_F_MMAPABLE are shared
 * memory: what user space writes the program sees, and the other way round. kern/capture.c, bypass_slots.c. Source: kernel/bpf/inode.c,
 * syscall.c.
 */
/* link: -lbpf */
#include "cgroup.h"
#include "netns.h"
#include <sys/mman.h>
#include <sys/mount.h>

static char dir[] = "/tmp/adit-bpffs.XXXXXX", pin[64];

/* refuses connect() to whoever while the word in the map is set, and counts */
static int refuser(int words)
{
	struct bpf_insn insn[] = {
		STOREI(BPF_W, R(10), -4, 0),
		MAP(R(1), words),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(R(0), 0, 7),
		MOVI(R(1), 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, R(0), R(1), 8, BPF_ADD),
		LOAD(BPF_DW, R(1), R(0), 0),
		MOVI(R(0), 1),
		JEQI(R(1), 0, 1),
		MOVI(R(0), 0),
		END(),
		MOVI(R(0), 1),
		END(),
	};

	return prog_new(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, insn, COUNT(insn));
}

static int try_connect(uint16_t port)
{
	struct sockaddr_in a = loopback(port);
	int fd = new_socket(), r = connect(fd, (struct sockaddr *)&a, sizeof(a)) ? -errno : 0;

	close(fd);
	return r;
}

int main(void)
{
	int words = map_new(BPF_MAP_TYPE_ARRAY, "words", 4, 16, 1, BPF_F_MMAPABLE), l = listener(0, false), link, status;
	volatile uint64_t *shared;
	pid_t p;

	cgroup_enter();
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		skip("no mount namespace to be had: %s", strerror(errno));
	CHECK(mkdtemp(dir) && !mount("bpf", dir, "bpf", 0, NULL), "a bpffs of our own");
	snprintf(pin, sizeof(pin), "%s/link", dir);
	shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, words, 0);
	CHECK(shared != MAP_FAILED, "mmap");
	p = fork();
	if (!p) {
		link = bpf_link_create(refuser(words), cgroup_fd, BPF_CGROUP_INET4_CONNECT, NULL);
		CHECK(link >= 0 && !bpf_obj_pin(link, pin), "link and pin");
		_exit(0);
	}
	CHECK(waitpid(p, &status, 0) == p && !status, "the first process");
	CHECK(try_connect(port_of(l)) == 0, "connect with the word 0");
	CHECK(shared[1] == 1, "calls seen in shared memory: %llu", (unsigned long long)shared[1]);
	shared[0] = 1;
	CHECK(try_connect(port_of(l)) == -EPERM, "the program is still there and sees what was written");
	link = bpf_obj_get(pin);
	CHECK(link >= 0, "taken over from the pin");
	CHECK(!unlink(pin), "unlink");
	CHECK(try_connect(port_of(l)) == -EPERM, "whoever has the link keeps it");
	close(link);
	for (int i = 0; i < 100 && try_connect(port_of(l)); i++)
		usleep(10000);
	CHECK(try_connect(port_of(l)) == 0, "without pin and descriptor the program is gone");
	umount(dir);
	rmdir(dir);
	close(l);
	return 0;
}
