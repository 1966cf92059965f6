/* Between the commands that explain. */
#pragma once
#include "base/text.h"

/** explain_clean() - what a terminal must not get becomes '?'; lines stay */
void explain_clean(struct text *t);
