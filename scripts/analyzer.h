/*
 * What clang's analyzer, which looks at one file at a time, cannot see: that err_set() and err_prefix() return the code they
 * are given. Put in front of each file by `scripts/lint`; without it every `if (r < 0)` behind them has a false other side.
 */
#pragma once
#include "base/err.h"

#define err_set(e, code, ...) ((void)err_set(e, code, __VA_ARGS__), (code))
#define err_prefix(e, code, ...) ((void)err_prefix(e, code, __VA_ARGS__), (code))
