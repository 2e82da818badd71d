//! config-linux.md: the part of the configuration that is Linux's.

pub mod cgroups;
pub mod cpu;
pub mod device_list;
pub mod devices;
pub mod filesystems;
pub mod io;
pub mod limits;
pub mod memory;
pub mod namespaces;
pub mod net_devices;
pub mod paths;
pub mod personality;
pub mod seccomp;
pub mod seccomp_notify;
pub mod seccomp_profile;
pub mod sysctl;
pub mod user_namespace;

use anyhow::ensure;
use serde_json::Value;

use crate::harness::{Container, Fixture};

/// A running container with these linux.resources.
fn limited(fixture: &Fixture, resources: Value) -> anyhow::Result<Container<'_>> {
    let mut bundle = fixture.bundle()?;
    fixture.start(bundle.set("/linux/resources", resources))
}

/// The expected content of a file of the container's cgroup; `files` is its name on v1 and on v2.
fn expect_file(
    fixture: &Fixture,
    container: &Container<'_>,
    controller: &str,
    files: [&str; 2],
    expected: &str,
) -> anyhow::Result<()> {
    let file = files[usize::from(fixture.host().is_v2())];
    let found = container.cgroup_file(controller, file)?;
    ensure!(found == expected, "{file}: expected {expected}, found {found}");
    Ok(())
}
