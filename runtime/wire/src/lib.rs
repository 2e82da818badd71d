//! Small wire formats that the `brig` command and the containerd shim both write.
//!
//! The crate knows nothing of containers, and does no I/O.
#![forbid(unsafe_code)]

pub mod logrus;
pub mod protobuf;
