//! config.md: the parts of the configuration that every platform has.

pub mod capabilities;
pub mod hooks;
pub mod idmap;
pub mod linux_process;
pub mod mount_options;
pub mod mount_trees;
pub mod mounts;
pub mod names;
pub mod process;
pub mod properties;
pub mod rlimits;
pub mod root;
pub mod scheduler;
pub mod terminal;
pub mod user;
pub mod version;
