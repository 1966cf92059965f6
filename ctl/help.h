/* --help, written by hand. */
#pragma once

/** help_text() - of a command, or of aditctl when @command is NULL. Static; never NULL for a command that exists. */
const char *help_text(const char *command);
