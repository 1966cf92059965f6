/*
 * Applied policies and the audit log of a running daemon: opened at the start, before the first snapshot; what the API reaches them by; what
 * puts a changed set in force. Main thread.
 */
#pragma once
#include "control/control.h"
#include "control/policies.h"
#include <sys/signalfd.h>

/**
 * applied_open() - the state folder that the sources of @ctl name: @ctl->policies, audit and applied are set
 * Return: 0, or -errno with the sentence: what was applied is there and cannot be known, so do not start.
 */
int applied_open(struct control *ctl, struct err *reterr);
void applied_close(struct control *ctl); /* zeroed memory is fine */
/** applied_ops() - for admin_set_policies() */
void applied_ops(struct control *ctl, struct policy_ops *ret);
/** applied_signal() - a signal changed something, or (@r < 0) was refused with @e: to the audit log, with its sender */
void applied_signal(struct control *ctl, const struct signalfd_siginfo *si, int r, const struct err *e);
/** applied_own() - the same for what aditd did by itself: files that are watched have changed */
void applied_own(struct control *ctl, const char *what, int r, const struct err *e);
