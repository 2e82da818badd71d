# make demo and make test set up a Debian machine that has Rust by themselves; both require root.
PREFIX ?= /usr/local
SHIM := containerd-shim-brig-v2
SOURCES := $(shell find runtime shim -path "*/src/*" -name "*.rs" -o -name Cargo.toml) Cargo.toml Cargo.lock rust-toolchain.toml \
	packaging/build

.PHONY: build shim demo lint test proving check matrix bench install clean

## build: the static binaries, ./brig and ./containerd-shim-brig-v2; TARGET, RUSTFLAGS and PIE=1 are honoured
# The target always runs cargo, which detects a change of these three.
build:
	packaging/build

## shim: the same as build
shim: $(SHIM)

brig $(SHIM) &: $(SOURCES)
	packaging/build

## demo: build brig and run a container with it
demo: brig
	spec-tests/demo ./brig

## test: every suite, in 15 to 30 minutes
test: brig
	spec-tests/beds/install
	spec-tests/all

## lint: clippy, the documentation, cargo-deny and a build with the oldest supported Rust, each without a warning
lint:
	spec-tests/lint

## proving: conformance of the runtime: cases in every environment, runtime-tools' validation, rules, and its own clients
proving: brig
	spec-tests/beds/install
	spec-tests/all proving

## check: the quick checks: lints, unit tests, and brig as a debug build before every case that this host can run, as root
check:
	cargo clippy --locked --workspace --all-targets --features brig/faults -- -D warnings
	cargo test --locked --workspace --lib --bins
	spec-tests/rules
	cargo build --locked --package brig --bin brig
	spec-tests/spec host --runtime target/debug/brig

## matrix: every case in every environment, against runc, crun and youki; the report is target/report/index.html
matrix: brig
	spec-tests/beds/install
	spec-tests/beds/youki
	spec-tests/matrix --run --youki

## bench: brig, the reference runtimes and the bare kernel operations, interleaved; exits with 1 when a budget is missed
bench: build
	spec-tests/beds/install
	spec-tests/beds/youki
	spec-tests/beds/rust-shim
	benches/bench

## install: the result of `make build`: brig into DESTDIR/PREFIX/sbin, the shim into DESTDIR/PREFIX/bin
install:
	@test -x brig -a -x $(SHIM) || { echo "install: ./brig and ./$(SHIM) do not exist; run \`make build\` first" >&2; exit 1; }
	install -D -m 755 brig $(DESTDIR)$(PREFIX)/sbin/brig
	install -D -m 755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/$(SHIM)

clean:
	cargo clean
	rm -f brig $(SHIM)
