//! config.md, Mounts.

use anyhow::ensure;

use crate::harness::{Case, Ground, Level};

/// In the order of the text.
pub const CASES: &[Case] = &[Case::new("mounts are made in the listed order", "config.md#mounts", Level::Must, order)];

fn order(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.mount("/tmp", "tmpfs", "first", &["size=1m"]).mount("/tmp", "tmpfs", "second", &["size=2m"]);
    let facts = ground.facts(&bundle)?;
    let sources: Vec<_> =
        facts.mounts.iter().filter(|mount| mount.point == "/tmp").map(|mount| mount.source.as_str()).collect();
    ensure!(sources == ["first", "second"], "mounts at /tmp: expected first, then second; found {sources:?}");
    Ok(())
}
