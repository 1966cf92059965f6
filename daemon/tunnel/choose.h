/*
 * Which of several identities an accepted tunnel gets, where its listener has `identity: workload`: that of the workload whose server name
 * (SNI) the client asks for; else of the one whose address it connected to, as HBONE's clients do; else the listener's
 * identity_default; else none. Worker thread.
 */
#pragma once
#include "tls/record.h"
#include "tunnel/tunnel.h"

/** choose_identity() - @name NULL: none was asked for. NULL: nobody's */
const struct cfg_identity *choose_identity(const struct config *cfg, const struct cfg_listener *l, const struct addr *local, const char *name);
/** choose_first() - what a handshake at @local can be prepared with before it is known whether a name comes. NULL: nothing: refuse it. */
const struct cfg_identity *choose_first(const struct config *cfg, const struct cfg_listener *l, const struct addr *local);
/** choose_wait() - @t, a tunnel just accepted, gets the identity of the name that its client asks for, if any is configured */
void choose_wait(struct tunnel *t);
/** choose_again() - may @t go on with the identity that it has, now that @l is its listener? Return: the identity in @cfg, or NULL. */
const struct cfg_identity *choose_again(const struct config *cfg, const struct cfg_listener *l, const struct tunnel *t);
