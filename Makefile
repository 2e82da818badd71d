# make demo and make test do all of their own set-up on a Debian machine that has Rust; both want root.
PREFIX ?= /usr/local
SHIM := containerd-shim-brig-v2
SOURCES := $(shell find runtime shim -path "*/src/*" -name "*.rs" -o -name Cargo.toml) Cargo.toml Cargo.lock rust-toolchain.toml \
	packaging/build

.PHONY: build shim demo lint test proving check matrix bench install clean

## build: the static binaries, ./brig and ./containerd-shim-brig-v2; TARGET, RUSTFLAGS and PIE=1 are honoured
# It always asks cargo, which notices when one of these three is different.
build:
	packaging/build

## shim: the same, for those who look for it under this name
shim: $(SHIM)

brig $(SHIM) &: $(SOURCES)
	packaging/build

## demo: builds brig and runs a container in front of your eyes
demo: brig
	spec-tests/demo ./brig

## test: every suite, in a quarter of an hour or two
test: brig
	spec-tests/beds/install
	spec-tests/all

## lint: clippy, the documentation, cargo-deny and a build with the oldest supported Rust, each without a warning
lint:
	spec-tests/lint

## proving: the runtime judged from outside: cases on every bed, runtime-tools' validation, rules, and its own clients
proving: brig
	spec-tests/beds/install
	spec-tests/all proving

## check: what is quick: lints, unit tests, and brig as a debug build before every case that this host can run, as root
check:
	cargo clippy --locked --workspace --all-targets --features brig/faults -- -D warnings
	cargo test --locked --workspace --lib --bins
	spec-tests/rules
	cargo build --locked --package brig --bin brig
	spec-tests/spec host --runtime target/debug/brig

## matrix: every case on every bed, against runc, crun and youki; the report is target/report/index.html
matrix: brig
	spec-tests/beds/install
	spec-tests/beds/youki
	spec-tests/matrix --run --youki

## bench: brig, its peers and what the kernel alone charges, interleaved; ends with 1 when a budget is missed
bench: build
	spec-tests/beds/install
	spec-tests/beds/youki
	spec-tests/beds/rust-shim
	benches/bench

## install: what `make build` made: brig into DESTDIR/PREFIX/sbin, the shim into DESTDIR/PREFIX/bin
install:
	@test -x brig -a -x $(SHIM) || { echo "install: ./brig and ./$(SHIM) do not exist; run \`make build\` first" >&2; exit 1; }
	install -D -m 755 brig $(DESTDIR)$(PREFIX)/sbin/brig
	install -D -m 755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/$(SHIM)

clean:
	cargo clean
	rm -f brig $(SHIM)
