//! The cases, by chapter of the specification (release 1.3) and then by its sections.
#![forbid(unsafe_code)]

pub mod config;

use crate::harness::Case;

/// All of them, in the order of the chapters.
pub const ALL: &[&[Case]] = &[
    config::version::CASES,
    config::root::CASES,
    config::mounts::CASES,
    config::mount_options::CASES,
    config::mount_trees::CASES,
    config::idmap::CASES,
    config::process::CASES,
    config::terminal::CASES,
    config::rlimits::CASES,
    config::capabilities::CASES,
    config::linux_process::CASES,
    config::scheduler::CASES,
    config::user::CASES,
    config::names::CASES,
    config::properties::CASES,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::ALL;

    #[test]
    fn names_are_unique() {
        let mut seen = BTreeSet::new();
        for case in ALL.iter().copied().flatten() {
            assert!(seen.insert(case.name), "two cases are called {:?}", case.name);
        }
    }
}
