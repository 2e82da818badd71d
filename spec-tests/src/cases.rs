//! The cases, by chapter of the specification (release 1.3) and then by its sections.
#![forbid(unsafe_code)]

pub mod config;
pub mod features;
pub mod linux;
pub mod runc;
pub mod runtime;
pub mod runtime_linux;
pub mod security;

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
    config::hooks::entries::CASES,
    config::hooks::moments::CASES,
    config::hooks::places::CASES,
    config::properties::CASES,
    linux::filesystems::CASES,
    linux::namespaces::CASES,
    linux::user_namespace::CASES,
    linux::devices::CASES,
    linux::net_devices::CASES,
    linux::cgroups::CASES,
    linux::device_list::CASES,
    linux::memory::CASES,
    linux::cpu::CASES,
    linux::io::CASES,
    linux::limits::CASES,
    linux::sysctl::CASES,
    linux::seccomp::CASES,
    linux::seccomp_profile::CASES,
    linux::seccomp_notify::CASES,
    linux::paths::CASES,
    linux::personality::CASES,
    runtime::state::CASES,
    runtime::lifecycle::CASES,
    runtime::failing_hooks::CASES,
    runtime::errors::CASES,
    runtime::operations::CASES,
    runtime::signals::CASES,
    runtime_linux::CASES,
    security::links::CASES,
    security::namespaces::CASES,
    security::proc::CASES,
    security::descriptors::CASES,
    security::files::CASES,
    security::host_nodes::CASES,
    security::node_attributes::CASES,
    security::locked_flags::CASES,
    security::neighbour::CASES,
    security::process::CASES,
    security::systemd::CASES,
    security::cgroup::CASES,
    security::console::CASES,
    features::CASES,
    runc::usage::CASES,
    runc::bundles::CASES,
    runc::create::CASES,
    runc::run::CASES,
    runc::exec::CASES,
    runc::kill::CASES,
    runc::freeze::CASES,
    runc::look::CASES,
    runc::mounts::CASES,
    runc::limits::CASES,
    runc::spec::CASES,
    runc::inherited::CASES,
    runc::crun::CASES,
];

#[cfg(test)]
mod tables;

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
