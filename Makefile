# make demo and make test do all of their own set-up on a Debian machine that has Rust; both want root.
PREFIX ?= /usr/local
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
BUILT := target/$(HOST)/release
SHIM := containerd-shim-brig-v2
SOURCES := $(shell find runtime shim -path "*/src/*" -name '*.rs') Cargo.toml Cargo.lock $(wildcard runtime/Cargo.toml runtime/*/Cargo.toml shim/Cargo.toml)

.PHONY: build shim demo lint test proving check matrix bench install clean

## build: the static binaries, ./brig and ./containerd-shim-brig-v2
# It is linked to a fixed address: relocating it would cost each of a container's two starts a millisecond. Its stack,
# heap and mappings are randomised all the same.
build: brig $(SHIM)

## shim: the same, for those who look for it under this name
shim: $(SHIM)

brig $(SHIM) &: $(SOURCES)
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" cargo build --release --locked --target $(HOST) \
		--package brig --bin brig --package brig-shim --bin $(SHIM)
	cp $(BUILT)/brig $(BUILT)/$(SHIM) .

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

## install: brig into DESTDIR/PREFIX/sbin, the shim into DESTDIR/PREFIX/bin, where containerd finds it by PATH
install: brig $(SHIM)
	install -D -m 755 brig $(DESTDIR)$(PREFIX)/sbin/brig
	install -D -m 755 $(SHIM) $(DESTDIR)$(PREFIX)/bin/$(SHIM)

clean:
	cargo clean
	rm -f brig $(SHIM)
