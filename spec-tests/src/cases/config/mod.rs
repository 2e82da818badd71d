//! config.md: the parts of the configuration that every platform has.

pub mod mounts;
pub mod root;
