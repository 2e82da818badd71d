//! config-linux.md, Default Filesystems.

use anyhow::ensure;

use crate::harness::{Case, Fixture, Level};

/// In the order of the text.
pub const CASES: &[Case] = &[Case::new(
    "proc, sysfs, devpts and tmpfs are available at their usual paths",
    "config-linux.md#default-filesystems",
    Level::Should,
    available,
)];

fn available(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = fixture.facts(&fixture.bundle()?)?;
    for (path, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs")] {
        let found = &facts.mount(path)?.kind;
        ensure!(found == kind, "{path}: expected {kind}, found {found}");
    }
    Ok(())
}
