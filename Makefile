# Adit: node-level service-mesh agent. `make help` says what there is to make.
#
# Sources are found by wildcard; a new file under daemon/, ctl/ or tests/ needs no line here.
# Variables for the command line or config.mk: SAN=asan|ubsan|tsan, WERROR=0, V=1, WOLFSSL=packaged, CC, CFLAGS,
# LDFLAGS, DESTDIR, prefix

-include config.mk
SHELL	:= /bin/bash
VERSION	:= 0.1.0
SAN	?=
WERROR	?= 1
V	?= 0

# Parallel by default. Output is kept apart per target where nobody watches a program run.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)
ifeq ($(filter setup check check-sys test-vm test demo bench fuzz lint,$(MAKECMDGOALS)),)
MAKEFLAGS += --output-sync=target
endif
endif
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all setup check check-sys test-vm test demo bench fuzz lint format install uninstall deb man clean help
.PHONY: bpf unit-programs oom-programs kernel-programs bpf-programs vm-programs fuzz-programs print-cppflags FORCE

B := build$(if $(SAN),/$(SAN))

# ---- wolfSSL: our own build if the cache has it, else (or with WOLFSSL=packaged) the distribution's

wolfssl_dir := $(if $(filter packaged,$(WOLFSSL)),,$(shell scripts/build-wolfssl --print))
ifneq ($(wolfssl_dir),)
wolfssl_cppflags := -isystem $(wolfssl_dir)/include -DADIT_WOLFSSL_PACKAGED=0
wolfssl_libs	 := $(wolfssl_dir)/lib/libwolfssl.a
else
wolfssl_cppflags := -DADIT_WOLFSSL_PACKAGED=1
wolfssl_libs	 := -lwolfssl
ifeq ($(wildcard /usr/include/wolfssl/options.h)$(filter setup test demo bench help clean,$(MAKECMDGOALS)),)
$(error no wolfSSL for this user: run 'make setup' first, as the user who builds)
endif
endif

# ---- flags

ifeq ($(origin CC),default)
CC := gcc
endif
CLANG ?= clang
ifeq ($(SAN),)
CFLAGS ?= -O2 -g
hardening := -fstack-protector-strong -D_FORTIFY_SOURCE=2
else
CFLAGS ?= -O1 -g
san_asan  := -fsanitize=address,undefined -fno-sanitize-recover=all
san_ubsan := -fsanitize=undefined -fno-sanitize-recover=all
san_tsan  := -fsanitize=thread
san_flags := $(san_$(SAN))
ifeq ($(san_flags),)
$(error SAN=$(SAN): want asan, ubsan or tsan)
endif
# at -O1 gcc sees less and warns of texts that cannot be cut
hardening := -DADIT_SAN_$(SAN)=1 -Wno-format-truncation
endif

warnings := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wswitch
ifneq ($(WERROR),0)
warnings += -Werror
endif
cppflags := -D_GNU_SOURCE -Iinclude -Idaemon -Ibuild/bpf -isystem /usr/include/libnl3 $(wolfssl_cppflags) $(CPPFLAGS)
cflags	 := -std=gnu11 $(CFLAGS) -fno-omit-frame-pointer $(warnings) -pthread
ldflags	 := -pthread -pie -Wl,-z,relro,-z,now -Wl,--as-needed $(LDFLAGS)
libs	 := $(wolfssl_libs) -lnghttp2 -lyaml -lmicrohttpd -ljansson -lcares -lpcre2-8 -lxxhash -lcap-ng -lbpf -lnl-route-3 -lnl-3 -ldl -lm
compile	  = $(CC) $(cppflags) $(cflags) -fPIE $(hardening) $(san_flags)
link	  = $(CC) $(cflags) $(san_flags) $(ldflags)

# The fuzzers are another compiler's build of the same sources, beside the others.
F := build/fuzz
fuzz_flags   := -fsanitize=address,undefined -fno-sanitize-recover=all -DFUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION=1
fuzz_compile  = $(CLANG) $(cppflags) -std=gnu11 -O1 -g -fno-omit-frame-pointer $(warnings) -pthread $(fuzz_flags)

ifeq ($(V),0)
say = @printf '  %-5s %s\n' $(1) $(2);
endif

# ---- sources

daemon_src := $(filter-out daemon/main.c,$(wildcard daemon/*/*.c))
ctl_src	   := $(wildcard ctl/*.c)
unit_src   := $(wildcard tests/unit/test_*.c)
oom_src	   := $(wildcard tests/oom/oom_*.c)
kernel_src := $(wildcard tests/kernel/*.c)
fuzz_src   := $(wildcard tests/fuzz/fuzz_*.c)
bpf_src	   := $(wildcard bpf/*.bpf.c)
bpf_test_src := $(wildcard tests/bpf/*.c)
vm_src	   := $(wildcard tests/vm/*.c)

daemon_obj := $(daemon_src:%.c=$(B)/obj/%.o)
ctl_obj	   := $(ctl_src:%.c=$(B)/obj/%.o)
unit_bin   := $(unit_src:%.c=$(B)/%)
oom_bin	   := $(oom_src:%.c=$(B)/%)
kernel_bin := $(kernel_src:%.c=$(B)/%)
fuzz_bin   := $(fuzz_src:tests/fuzz/%.c=$(F)/%)
bpf_skel   := $(bpf_src:bpf/%.bpf.c=build/bpf/%.skel.h)
bpf_test_bin := $(bpf_test_src:%.c=$(B)/%)
vm_bin	   := $(vm_src:%.c=$(B)/%)
ctl_main   := $(filter ctl/main.c ctl/aditctl.c,$(ctl_src))

programs := $(if $(wildcard daemon/main.c),$(B)/aditd) $(if $(ctl_main),$(B)/aditctl)

all: $(B)/libadit.a $(programs)

# ---- objects and programs
# Whatever is compiled depends on a file that changes when the flags do.

write_if_changed = mkdir -p $(@D); printf '%s\n' $(1) | cmp -s - $@ || printf '%s\n' $(1) >$@

$(B)/flags: FORCE
	@$(call write_if_changed,'$(compile)' '$(link) $(libs)')
$(F)/flags: FORCE
	@$(call write_if_changed,'$(fuzz_compile)')

# Only sources that print the version are compiled again when the commit changes.
describe  := $(shell git describe --tags --always --dirty --match 'v*' 2>/dev/null)
version	  := $(VERSION)$(if $(filter-out v$(VERSION),$(describe)),+$(patsubst v$(VERSION)-%,%,$(describe)))
versioned := $(shell grep -ls ADIT_VERSION $(daemon_src) $(ctl_src) $(wildcard daemon/main.c) /dev/null)
$(B)/version: FORCE
	@$(call write_if_changed,'$(version)')
$(versioned:%.c=$(B)/obj/%.o): private cppflags += -DADIT_VERSION='"$(version)"'
$(versioned:%.c=$(B)/obj/%.o): $(B)/version
$(versioned:%.c=$(F)/obj/%.o) $(unit_bin) $(oom_bin): private cppflags += -DADIT_VERSION='"$(VERSION)"'

# BPF: one object for all kernels (CO-RE), and the skeleton that the daemon includes. The same for every SAN.
bpf_cflags := -O2 -g -target bpf -mcpu=v3 -D__TARGET_ARCH_x86 -Wall -Wextra -Werror -Iinclude -Ibpf -idirafter \
	/usr/include/$(shell $(CC) -print-multiarch 2>/dev/null)

build/bpf/%.bpf.o: bpf/%.bpf.c
	@mkdir -p $(@D)
	$(call say,BPF,$<) $(CLANG) $(bpf_cflags) -MMD -MP -MT $@ -c $< -o $@

build/bpf/%.skel.h: build/bpf/%.bpf.o
	$(call say,SKEL,$@) PATH=$$PATH:/usr/sbin bpftool gen skeleton $< name $* >$@

bpf: $(bpf_skel)
$(daemon_obj) $(bpf_test_bin) $(vm_bin) $(daemon_src:%.c=$(F)/obj/%.o): | $(bpf_skel)

$(B)/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,CC,$<) $(compile) -MMD -MP -c $< -o $@

$(B)/libadit.a: $(daemon_obj)
	@mkdir -p $(@D); rm -f $@
	$(call say,AR,$@) ar rcs $@ $^

$(B)/libctl.a: $(filter-out $(ctl_main:%.c=$(B)/obj/%.o),$(ctl_obj))
	@mkdir -p $(@D); rm -f $@
	$(call say,AR,$@) ar rcs $@ $^

$(B)/aditd: $(B)/obj/daemon/main.o $(B)/libadit.a
	$(call say,LD,$@) $(link) $^ $(libs) -o $@

$(B)/aditctl: $(ctl_obj) $(B)/libadit.a
	$(call say,LD,$@) $(link) $^ $(libs) -o $@

# ---- tests
# A unit test includes the .c it tests; the library supplies the rest. A line "/* link: -Wl,--wrap=send */" in a test adds
# to its link. The failing-malloc sweeps are linked with every allocator wrapped (tests/oom/oom.h).

test_cppflags := -I. -Itests -Ictl
test_link      = $$(sed -n 's|^/\* link: \(.*\) \*/$$|\1|p' $<)
comma	 := ,
oom_wrap := $(foreach f,malloc calloc realloc reallocarray free posix_memalign aligned_alloc strdup strndup \
	asprintf vasprintf __asprintf_chk __vasprintf_chk,-Wl$(comma)--wrap=$(f))

$(B)/tests/unit/%: tests/unit/%.c $(B)/libadit.a $(B)/libctl.a $(B)/flags
	@mkdir -p $(@D)
	$(call say,TEST,$@) $(compile) $(test_cppflags) -MMD -MP -MF $@.d $< $(ldflags) $(test_link) \
		$(B)/libctl.a $(B)/libadit.a $(libs) -lcmocka -o $@

$(B)/tests/oom/%: tests/oom/%.c $(B)/obj/tests/oom/oom.o $(B)/libadit.a $(B)/libctl.a $(B)/flags
	@mkdir -p $(@D)
	$(call say,TEST,$@) $(compile) $(test_cppflags) -MMD -MP -MF $@.d $< $(ldflags) $(oom_wrap) $(test_link) \
		$(B)/obj/tests/oom/oom.o $(B)/libctl.a $(B)/libadit.a $(libs) -lcmocka -o $@

$(B)/tests/kernel/%: tests/kernel/%.c $(B)/flags
	@mkdir -p $(@D)
	$(call say,TEST,$@) $(compile) $(test_cppflags) -MMD -MP -MF $@.d $< $(ldflags) $(test_link) -o $@

$(B)/tests/bpf/%: tests/bpf/%.c $(B)/libadit.a $(B)/flags
	@mkdir -p $(@D)
	$(call say,TEST,$@) $(compile) $(test_cppflags) -MMD -MP -MF $@.d $< $(ldflags) $(test_link) \
		$(B)/libadit.a $(libs) -o $@

$(B)/tests/vm/%: tests/vm/%.c $(B)/libadit.a $(B)/flags
	@mkdir -p $(@D)
	$(call say,TEST,$@) $(compile) $(test_cppflags) -MMD -MP -MF $@.d $< $(ldflags) $(test_link) \
		$(B)/libadit.a $(libs) -o $@

$(F)/obj/%.o: %.c $(F)/flags
	@mkdir -p $(@D)
	$(call say,CLANG,$<) $(fuzz_compile) -fsanitize=fuzzer-no-link -MMD -MP -c $< -o $@

$(F)/libadit.a: $(daemon_src:%.c=$(F)/obj/%.o)
	@mkdir -p $(@D); rm -f $@
	$(call say,AR,$@) ar rcs $@ $^

$(F)/fuzz_%: tests/fuzz/fuzz_%.c $(F)/libadit.a $(F)/flags
	$(call say,FUZZ,$@) $(fuzz_compile) -Wno-missing-prototypes $(test_cppflags) -fsanitize=fuzzer -MMD -MP -MF $@.d \
		$< $(test_link) $(F)/libadit.a $(libs) -o $@

unit-programs: $(unit_bin)
oom-programs: $(oom_bin)
kernel-programs: $(kernel_bin)
bpf-programs: $(bpf_test_bin)
vm-programs: $(vm_bin)
fuzz-programs: $(fuzz_bin)

# ---- what people run

setup:
	@scripts/setup

check:
	@SAN=$(SAN) tests/run unit oom

check-sys:
	@SAN=$(SAN) tests/run kernel bpf sys

test-vm:
	@tests/run vm system

test: setup
	@tests/run --all

demo: setup
	@$(MAKE) --no-print-directory all
	@scripts/demo

bench:
	@$(MAKE) --no-print-directory all
	@tests/bench/run

T ?= 60
fuzz:
	@T='$(T)' RUNS='$(RUNS)' tests/run fuzz

lint:
	@scripts/lint

print-cppflags:
	@echo '$(cppflags) -std=gnu11 -pthread -DADIT_VERSION="$(VERSION)"'

format:
	clang-format -i $(wildcard daemon/*.[ch] daemon/*/*.[ch] ctl/*.[ch] include/adit/*.h tests/*/*.[ch])

# ---- installing
# With prefix=/usr/local systemd finds its files in $(prefix)/lib, too. A configuration that is there stays as it is.

prefix	     ?= /usr/local
bindir	     ?= $(prefix)/bin
libdir	     ?= $(prefix)/lib
sbindir	     ?= $(prefix)/sbin
mandir	     ?= $(prefix)/share/man
sysconfdir   ?= /etc
systemddir   ?= $(prefix)/lib
unitdir	     ?= $(systemddir)/systemd/system
sysusersdir  ?= $(systemddir)/sysusers.d
tmpfilesdir  ?= $(systemddir)/tmpfiles.d
modulesdir   ?= $(systemddir)/modules-load.d
docdir	     ?= $(prefix)/share/doc/adit
bashcompdir  ?= $(prefix)/share/bash-completion/completions
INSTALL	     ?= install

man_src  := $(wildcard docs/man/*.scd)
man_page := $(man_src:docs/man/%.scd=build/man/%)

build/man/%: docs/man/%.scd
	@mkdir -p $(@D)
	$(call say,MAN,$@) scdoc <$< >$@

man: $(man_page)

# where the man pages go, and the rest: FILE=PLACE
man_files  = $(foreach m,$(man_page),$(m)=$(mandir)/man$(patsubst .%,%,$(suffix $(m)))/$(notdir $(m)))
data_files = packaging/adit.sysusers=$(sysusersdir)/adit.conf packaging/adit.tmpfiles=$(tmpfilesdir)/adit.conf \
	packaging/adit.modules-load=$(modulesdir)/adit.conf packaging/completion/aditctl.bash=$(bashcompdir)/aditctl \
	$(foreach e,$(wildcard docs/examples/*.yaml packaging/examples/*.conf),$(e)=$(docdir)/examples/$(notdir $(e)))
kept_files = packaging/adit.yaml=$(sysconfdir)/adit/adit.yaml packaging/adit.logrotate=$(sysconfdir)/logrotate.d/adit
from  = $(firstword $(subst =, ,$1))
place = $(DESTDIR)$(lastword $(subst =, ,$1))
fill  = sed 's|@sbindir@|$(sbindir)|g; s|@bindir@|$(bindir)|g; s|@libdir@|$(libdir)|g; s|@sysconfdir@|$(sysconfdir)|g'

install: all man
	$(INSTALL) -D -m 755 $(B)/aditd $(DESTDIR)$(sbindir)/aditd
	$(INSTALL) -D -m 755 $(B)/aditctl $(DESTDIR)$(bindir)/aditctl
	$(foreach f,$(man_files) $(data_files),$(INSTALL) -D -m 644 $(call from,$f) $(call place,$f) && ) true
	$(foreach f,$(kept_files),{ [ -e $(call place,$f) ] || $(INSTALL) -D -m 644 $(call from,$f) $(call place,$f); } && ) true
	$(INSTALL) -d -m 755 $(DESTDIR)$(sysconfdir)/adit/conf.d $(DESTDIR)$(libdir)/adit/pins/adit
	$(fill) packaging/aditd.service | $(INSTALL) -D -m 644 /dev/stdin $(DESTDIR)$(unitdir)/aditd.service

# What people wrote stays: configuration, policies, logs, the user.
uninstall:
	rm -f $(DESTDIR)$(sbindir)/aditd $(DESTDIR)$(bindir)/aditctl $(DESTDIR)$(unitdir)/aditd.service \
		$(foreach f,$(man_files) $(data_files),$(call place,$f))
	-rmdir -p $(DESTDIR)$(libdir)/adit/pins/adit 2>/dev/null

deb: all man
	@scripts/deb

clean:
	rm -rf build

help:
	@printf '%s\n' \
	'make              build build/aditd and build/aditctl' \
	'make setup        install the Debian packages needed, build wolfSSL (cached)' \
	'make demo         two nodes in network namespaces, real applications through a tunnel' \
	'make test         everything there is to test, with its set-up (root)' \
	'make check        unit tests and failing-malloc sweeps (no root, below 30 s); SAN=asan|ubsan|tsan' \
	'make check-sys    kernel behaviours, and scenarios in network namespaces (root)' \
	'make test-vm      kernels 6.1 and 6.12, and the package under systemd, in virtual machines' \
	'make fuzz T=60    each fuzzer for T seconds; or RUNS=n executions' \
	'make bench        measure' \
	'make lint         clang-tidy, cppcheck, layers, headers, man pages' \
	'make format       clang-format' \
	'make install      and uninstall: DESTDIR, prefix, bindir, sbindir, mandir, sysconfdir, unitdir, ...' \
	'make deb          a Debian package, in build/deb' \
	'make man clean    man pages; remove build/'

FORCE:

-include $(shell find $(B)/obj $(B)/tests $(F) build/bpf -name '*.d' 2>/dev/null)
