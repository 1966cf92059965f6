/* Network namespaces by name (ip-netns(8)), "pid:N" or path; sockets made inside them without leaving threads there. */
#pragma once
#include "base/err.h"

/** netns_open() - Return: descriptor for setns(2) (caller closes), or -errno with a sentence that says what to do */
int netns_open(const char *name, struct err *reterr);
/**
 * netns_enter() - this thread's sockets are made there from now on; *ret_back is where it was. netns_leave() goes back and closes it.
 * Nothing else may be done between the two. @fd < 0: nothing happens, *ret_back -1.
 */
int netns_enter(int fd, int *ret_back);
void netns_leave(int back);
