//! config.md, POSIX-platform Hooks.

pub mod entries;
pub mod moments;
pub mod places;
