/* Parts of the kernel plane that are not written yet: each says so. Goes away with the last of them. */
#include "kern/bypass.h"
#include "kern/capture.h"
#include "kern/steer.h"
#include <string.h>
#if !__has_include("bypass.c")
const char *bypass_why_str(enum bypass_why w) { (void)w; return "off"; }
const char *bypass_refusal_str(uint32_t i) { static const char *const s = "abcdefghijkl"; return s + i; }
int bypass_create(struct bypass **ret, const struct cfg_kernel *cfg, struct err *reterr) { (void)cfg; *ret = NULL; return err_set(reterr, -ENOTSUP, "not built yet"); }
void bypass_destroy(struct bypass *b) { (void)b; }
void bypass_switch(struct bypass *b, bool on) { (void)b, (void)on; }
void bypass_info(struct bypass *b, struct bypass_info *ret) { (void)b; memset(ret, 0, sizeof(*ret)); }
int bypass_join(struct bypass *b, int a, int u, uint32_t t, uint32_t i, struct bypass_join *j) { (void)b, (void)a, (void)u, (void)t, (void)i, (void)j; return -ENOTSUP; }
int bypass_join_leg(struct bypass *b, int fd, struct bypass_join *j) { (void)b, (void)fd, (void)j; return -ENOTSUP; }
int bypass_demote(struct bypass *b, struct bypass_join *j, uint64_t now) { (void)b, (void)j, (void)now; return 0; }
void bypass_leave(struct bypass *b, struct bypass_join *j) { (void)b, (void)j; }
void bypass_counts(const struct bypass *b, const struct bypass_join *j, struct bypass_counts *ret) { (void)b, (void)j; memset(ret, 0, sizeof(*ret)); }
uint64_t bypass_last_ms(const struct bypass *b, const struct bypass_join *j) { (void)b, (void)j; return 0; }
#endif
#if !__has_include("capture.c")
int capture_create(struct capture **ret, const struct config *cfg, struct err *reterr) { (void)cfg, (void)reterr; *ret = NULL; return 0; }
void capture_destroy(struct capture *c, bool keep) { (void)c, (void)keep; }
void capture_age(struct capture *c) { (void)c; }
void capture_info(struct capture *c, struct capture_info *ret) { (void)c; memset(ret, 0, sizeof(*ret)); }
#endif
#if !__has_include("steer.c")
int steer_create(struct steer **ret, const struct config *cfg, int (*fd)(void *arg, uint32_t i, uint32_t w), void *arg, struct err *reterr) { (void)cfg, (void)fd, (void)arg, (void)reterr; *ret = NULL; return 0; }
void steer_destroy(struct steer *s) { (void)s; }
void steer_info(struct steer *s, struct steer_info *ret) { (void)s; memset(ret, 0, sizeof(*ret)); }
#endif
