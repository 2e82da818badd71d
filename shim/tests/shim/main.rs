//! Tests of the real binary over its socket, with generated bundles and without containerd. These tests require root.

mod bed;
mod bootstrap;
mod execs;
mod foreign;
mod lifecycle;
mod streams;
