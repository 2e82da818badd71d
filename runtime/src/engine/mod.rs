//! Layer 4: the public API, one function a verb.
#![forbid(unsafe_code)]

mod options;
pub use options::*;
