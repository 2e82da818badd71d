# make demo and make test do all of their own set-up on a Debian machine that has Rust; both want root.
PREFIX ?= /usr/local
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
BUILT := target/$(HOST)/release/brig
SOURCES := $(shell find runtime/src -name '*.rs') Cargo.toml Cargo.lock runtime/Cargo.toml

.PHONY: build demo test check matrix bench install clean

## build: the static binary, at ./brig
# It is linked to a fixed address: relocating it would cost each of a container's two starts a millisecond. Its stack,
# heap and mappings are randomised all the same.
build: brig

brig: $(SOURCES)
	RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" cargo build --release --locked --package brig --bin brig --target $(HOST)
	cp $(BUILT) $@

## demo: builds brig and runs a container in front of your eyes
demo: brig
	spec-tests/demo ./brig

## test: every suite, in a quarter of an hour or two
test: brig
	spec-tests/beds/install
	spec-tests/all

## check: what is quick and needs no root: formatting is left alone, lints and unit tests are not
check:
	cargo clippy --locked --workspace --all-targets --features brig/faults -- -D warnings
	cargo test --locked --workspace --lib
	spec-tests/rules

## matrix: every case on every bed, against runc, crun and youki; the report is target/report/index.html
matrix: brig
	spec-tests/beds/install
	spec-tests/beds/youki
	spec-tests/matrix --run --youki

## bench: brig, its peers and what the kernel alone charges, interleaved; ends with 1 when a budget is missed
bench: brig
	spec-tests/beds/install
	benches/bench

## install: brig into DESTDIR/PREFIX/sbin
install: brig
	install -D -m 755 brig $(DESTDIR)$(PREFIX)/sbin/brig

clean:
	cargo clean
	rm -f brig
