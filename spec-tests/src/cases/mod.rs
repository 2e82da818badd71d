//! The cases, by chapter of the specification (release 1.3) and then by its sections.
#![forbid(unsafe_code)]

pub mod config;

use crate::harness::Case;

/// All of them, in the order of the chapters.
pub const ALL: &[&[Case]] = &[config::root::CASES, config::mounts::CASES];

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
