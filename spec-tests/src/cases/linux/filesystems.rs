//! config-linux.md, Default Filesystems.

use anyhow::ensure;

use crate::harness::{Case, Ground, Level};

/// In the order of the text.
pub const CASES: &[Case] = &[Case::new(
    "proc, sysfs, devpts and tmpfs are available where Linux programs look for them",
    "config-linux.md#default-filesystems",
    Level::Should,
    available,
)];

fn available(ground: &Ground) -> anyhow::Result<()> {
    let facts = ground.facts(&ground.bundle()?)?;
    for (path, kind) in [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs")] {
        let found = &facts.mount(path)?.kind;
        ensure!(found == kind, "{path}: expected {kind}, found {found}");
    }
    Ok(())
}
