//! Tests of the real binary over its socket, with generated bundles and without containerd. These tests require root.

mod bootstrap;
mod environment;
mod execs;
mod foreign;
mod lifecycle;
mod streams;
