# Bonded's one front door for people and for continuous integration: `make help` lists the ways in.
#
# There is one profile, release: the tests run what ships, and nothing is built twice. For the same
# reason every cargo call works on the whole workspace with the same features ($(CARGO_FLAGS)); a
# call for a single package would resolve other features and build the dependencies again.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help build demo test test-long bench bench-registry bench-parts lint fmt fmt-check clippy deny doc \
        peers clean install cargo-test toolchain

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
bindir = $(PREFIX)/bin
libdir = $(PREFIX)/lib
sysconfdir ?= /etc

# Cargo's default target folder, unless the user keeps it elsewhere.
TARGET = $(or $(CARGO_TARGET_DIR),target)

# The ocidir crate, an oracle in the tests, links OpenSSL: the system's, or one that its build
# makes (that needs perl), or the tests do without the oracle.
OCIDIR := $(shell \
  if pkg-config --exists openssl 2>/dev/null; then echo system; \
  elif command -v perl >/dev/null 2>&1; then echo vendored; \
  else echo none; fi)
FEATURES_system := --features tests/ocidir
FEATURES_vendored := --features tests/ocidir,tests/vendored-openssl
FEATURES_none :=
CARGO_FLAGS := --release --locked $(FEATURES_$(OCIDIR))

# Peers are found first, so that the pinned ones win over what the system has. Syft would ask the
# network for a newer self.
WITH_PEERS = export SYFT_CHECK_FOR_APP_UPDATE=false; \
  peers=$$(sh tests/peers.sh path); export PATH="$${peers:+$$peers:}$$PATH"

help: ## this list
	@echo "Bonded: exact build artifacts, sealed by digest, checked at every hand-over."
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  BONDED_PEERS=require  a missing peer fails the run; BONDED_PEERS=skip installs none"
	@echo "  LOAD='--clients 8'    words for \`make bench-registry\`; LOAD=--help lists them"
	@echo "  PREFIX, DESTDIR       where \`make install\` puts things (PREFIX=$(PREFIX))"

# === Build ===

toolchain: # Fails with advice when what nothing here can install is missing.
	@command -v $(firstword $(CARGO)) >/dev/null 2>&1 || { \
	  echo "make: there is no cargo on PATH. Bonded needs a stable Rust toolchain: install it with"; \
	  echo "      rustup, or with a package of your system that is at least the rust-version in Cargo.toml."; \
	  exit 1; } >&2
	@command -v cc >/dev/null 2>&1 || { \
	  echo "make: there is no C compiler (cc) on PATH; Rust links with it. On Debian and Ubuntu:"; \
	  echo "      apt-get install gcc libc6-dev; on Fedora: dnf install gcc; on Alpine: apk add build-base."; \
	  exit 1; } >&2
ifeq ($(OCIDIR),none)
	@echo "make: neither pkg-config with OpenSSL's headers nor perl is here: the tests run without the" \
	      "ocidir oracle (Debian: apt-get install pkg-config libssl-dev)." >&2
endif

build: toolchain ## build everything that ships
	$(CARGO) build $(CARGO_FLAGS) --workspace

demo: toolchain ## the main job, on a real image, narrated
	$(CARGO) build $(CARGO_FLAGS) --bin bond --bin bonded
	@$(WITH_PEERS); PATH="$(abspath $(TARGET))/release:$$PATH" ./tests/demo.sh

doc: toolchain ## the API documentation, without warnings
	RUSTDOCFLAGS="-D warnings $(RUSTDOCFLAGS)" $(CARGO) doc $(CARGO_FLAGS) --workspace --no-deps

# === Check ===

fmt: toolchain ## format the code
	$(CARGO) fmt --all

fmt-check: toolchain
	$(CARGO) fmt --all --check

clippy: toolchain
	$(CARGO) clippy $(CARGO_FLAGS) --workspace --all-targets -- -D warnings

lint: fmt-check clippy ## formatting and clippy, without warnings

# Licences, bans and sources are checked offline. Advisories need their database, a public
# repository: where it cannot be reached, that check alone is left out, and it says so. A known
# vulnerability fails the run; a database out of reach does not.
deny: toolchain ## licences, sources, duplicate versions, advisories
	@sh tests/peers.sh install cargo-deny
	@$(WITH_PEERS); \
	if ! command -v cargo-deny >/dev/null 2>&1; then \
	  echo "cargo deny: not installed, nothing of it was checked"; \
	  [ "$$BONDED_PEERS" != require ]; exit; \
	fi; \
	set -e; \
	cargo-deny --locked --workspace --all-features check licenses bans sources; \
	if timeout 60 cargo-deny --locked fetch db >/dev/null 2>&1; then \
	  cargo-deny --locked --workspace --all-features check advisories; \
	else \
	  echo "cargo deny: the advisory database is out of reach from here: advisories were not checked"; \
	fi

peers: ## install the programs that the tests run beside Bonded
	@sh tests/peers.sh install

test: lint doc deny peers cargo-test ## every check and every test

test-long: export BONDED_LONG = 1
test-long: test ## the same, with the long sweeps

# What the tests say of themselves, `skipped: …` and `measured: …` (crash states tried, stores refused
# and accepted), is told again at the end, where it can be seen; the totals are the sums over all
# test binaries. A run without a test is a failure.
cargo-test: build
	@$(WITH_PEERS); \
	{ $(CARGO) test $(CARGO_FLAGS) --workspace --no-fail-fast 2>&1; echo $$? >$(TARGET)/test-status; } \
	  | tee $(TARGET)/test.log; \
	echo; \
	grep -Eo '(measured|skipped): .*' $(TARGET)/test.log | sort -u; \
	absent=$$(sh tests/peers.sh list | awk '$$3 == "missing" { printf " %s", $$1 }'); \
	if [ -n "$$absent" ]; then echo "peers that are not here:$$absent"; fi; \
	awk '/^test result:/ { passed += $$4; failed += $$6; ignored += $$8 } \
	     END { printf "total: %d passed, %d failed, %d skipped\n", passed, failed, ignored; exit passed == 0 }' \
	  $(TARGET)/test.log && exit $$(cat $(TARGET)/test-status)

bench: build peers ## the side-by-side comparison, durable against durable
	@$(WITH_PEERS); $(CARGO) run $(CARGO_FLAGS) --bin compare

bench-registry: build peers ## the front door under load, beside other registries
	@$(WITH_PEERS); $(CARGO) run $(CARGO_FLAGS) --bin load -- $(LOAD)

bench-parts: toolchain ## the parts by themselves: hashing, closures, checks, intake
	$(CARGO) bench --locked $(FEATURES_$(OCIDIR)) --workspace --bench '*'

# === Install and clean ===

install: build ## install the programs, the systemd units and a configuration file
	install -d "$(DESTDIR)$(bindir)" "$(DESTDIR)$(libdir)/systemd/system" \
	  "$(DESTDIR)$(libdir)/sysusers.d" "$(DESTDIR)$(libdir)/tmpfiles.d"
	install -s -m 0755 $(TARGET)/release/bond $(TARGET)/release/bonded "$(DESTDIR)$(bindir)"
	sed 's|/usr/bin/bonded|$(bindir)/bonded|' systemd/bonded.service \
	  >"$(DESTDIR)$(libdir)/systemd/system/bonded.service"
	chmod 0644 "$(DESTDIR)$(libdir)/systemd/system/bonded.service"
	install -m 0644 systemd/bonded.socket "$(DESTDIR)$(libdir)/systemd/system/bonded.socket"
	install -m 0644 systemd/bonded.sysusers.conf "$(DESTDIR)$(libdir)/sysusers.d/bonded.conf"
	install -m 0644 systemd/bonded.tmpfiles.conf "$(DESTDIR)$(libdir)/tmpfiles.d/bonded.conf"
	install -d "$(DESTDIR)$(sysconfdir)/bonded"
	test -e "$(DESTDIR)$(sysconfdir)/bonded/bonded.toml" || \
	  install -m 0644 daemon/bonded.toml "$(DESTDIR)$(sysconfdir)/bonded/bonded.toml"
	@echo "Installed. systemd/README.md tells the steps that remain."

clean: ## remove what was built here; the peers stay in their cache
	$(CARGO) clean
