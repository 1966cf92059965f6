/* Where BPF objects go: the cgroup2 hierarchy, a bpffs; and what libbpf has to say. Main thread. */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * place_cgroup() - open the cgroup @below ("/" or NULL: the top) of the cgroup2 hierarchy
 * @ret_root: id of its top as this process sees it, where paths of the configuration begin
 * Return: descriptor (caller closes), or -errno with the sentence.
 */
int place_cgroup(const char *below, uint64_t *ret_root, struct err *reterr);
/** place_cgroup_own() - the same for the cgroup this process is in */
int place_cgroup_own(struct err *reterr);
/** place_cgroup_id() - as in struct bpf_link_info and bpf_get_current_cgroup_id(). Return: 0: none. */
uint64_t place_cgroup_id(int fd);
/**
 * place_cgroup_path() - the path of cgroup @id below the mount @root, whose own path has @root_len bytes, into @path; "" for the top
 * Needs CAP_DAC_READ_SEARCH. Any thread. Return: 0, -ESTALE: it was removed, or not below our mount; -EPERM, or another -errno.
 */
int place_cgroup_path(int root, size_t root_len, uint64_t id, char *path, size_t size);
/**
 * place_pins() - open the folder @pin in a bpffs, made if it is not there and @make, and lock it
 * Closing the descriptor gives up the lock. Return: descriptor, -ENOENT, or -errno with a sentence.
 */
int place_pins(const char *pin, bool make, struct err *reterr);
/** place_addresses() - does the kernel tell this process where its functions are? Return: 0, or -errno with what is needed. */
int place_addresses(struct err *reterr);

/** place_hear() - from here to place_unhear() what libbpf warns of first is kept instead of printed, for place_refused() */
void place_hear(void);
void place_unhear(void);
/** place_refused() - why @what could not be loaded, @r being the error. Return: @r. */
int place_refused(int r, const char *what, struct err *reterr);
