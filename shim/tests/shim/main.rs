//! The real binary, spoken to over its socket, with a bundle made on the spot and no containerd. These tests want root.

mod bed;
mod bootstrap;
mod execs;
mod foreign;
mod lifecycle;
mod streams;
