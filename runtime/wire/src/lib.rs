//! Small formats that brig's command and its containerd shim both write.
//!
//! The crate knows nothing of containers, and does no I/O.
#![forbid(unsafe_code)]

pub mod logrus;
pub mod protobuf;
