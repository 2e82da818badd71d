//! config-linux.md, Block IO.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::limited;
use crate::harness::{Case, Container, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#block-io";
const IO: &[Need] = &[Need::BlockDevice, Need::Controller("io")];
const WEIGHTS: &[&str] = &["io.bfq.weight", "io.weight", "blkio.bfq.weight", "blkio.weight"];
const WEIGHT: &[Need] = &[Need::BlockDevice, Need::CgroupFile("io", WEIGHTS)];
const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run).on(IO)
}

/// In the order of the text.
pub const CASES: &[Case] = &[
    case("blockIO.weight is written to the cgroup", weight).on(WEIGHT),
    case("throttleReadBpsDevice is written to the cgroup", |fixture| {
        throttle(fixture, "throttleReadBpsDevice", "read_bps_device", "rbps")
    }),
    case("throttleWriteBpsDevice is written to the cgroup", |fixture| {
        throttle(fixture, "throttleWriteBpsDevice", "write_bps_device", "wbps")
    }),
    case("throttleReadIOPSDevice is written to the cgroup", |fixture| {
        throttle(fixture, "throttleReadIOPSDevice", "read_iops_device", "riops")
    }),
    case("throttleWriteIOPSDevice is written to the cgroup", |fixture| {
        throttle(fixture, "throttleWriteIOPSDevice", "write_iops_device", "wiops")
    }),
    case("a throttle of a device that the host does not have is refused", no_such_device),
];

/// Any whole disk of this machine, as major and minor. Limits name it, but the container never uses it.
fn disk() -> anyhow::Result<(u64, u64)> {
    let entry = fs::read_dir("/sys/block")?.next().context("there is no block device")??;
    let text = fs::read_to_string(entry.path().join("dev"))?;
    let (major, minor) = text.trim().split_once(':').context("a device has two numbers")?;
    Ok((major.parse()?, minor.parse()?))
}

fn throttle(fixture: &Fixture, field: &str, v1: &str, v2: &str) -> anyhow::Result<()> {
    let (major, minor) = disk()?;
    let mut limit = json!({});
    limit[field] = json!([{ "major": major, "minor": minor, "rate": 1_048_576 }]);
    let container = limited(fixture, json!({ "blockIO": limit }))?;
    if fixture.host().is_v2() {
        let found = container.cgroup_file("io", "io.max")?;
        let line = found.lines().find(|line| line.starts_with(&format!("{major}:{minor} "))).unwrap_or_default();
        let expected = format!("{v2}=1048576");
        ensure!(line.split(' ').any(|word| word == expected), "io.max: expected {expected}, found {found:?}");
        return Ok(());
    }
    let file = format!("blkio.throttle.{v1}");
    let (expected, found) = (format!("{major}:{minor} 1048576"), container.cgroup_file("blkio", &file)?);
    ensure!(found.lines().any(|line| line == expected), "{file}: expected {expected}, found {found:?}");
    Ok(())
}

/// The container's weights, in the form of the I/O scheduler of this kernel that has them.
fn weights(fixture: &Fixture, container: &Container<'_>) -> anyhow::Result<String> {
    let mut found = String::new();
    for file in ["io.bfq.weight", "io.weight", "blkio.bfq.weight", "blkio.weight", "blkio.bfq.weight_device"] {
        let controller = if fixture.host().is_v2() { "io" } else { "blkio" };
        found += &container.cgroup_file(controller, file).unwrap_or_default();
        found.push('\n');
    }
    Ok(found)
}

fn weight(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "blockIO": { "weight": 200 } }))?;
    let (found, host_default) = (weights(fixture, &container)?, "default 100");
    // BFQ takes the number as it stands; io.weight has a wider scale, to which it is converted.
    let is_written = found.lines().any(|line| line == "default 200" || line == "200")
        || found.lines().any(|line| line.starts_with("default ") && line != host_default);
    ensure!(is_written, "the weight of 200: found {found:?}");
    Ok(())
}

fn refused(fixture: &Fixture, block_io: Value) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/resources/blockIO", block_io)).map(drop)
}

fn no_such_device(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "throttleReadBpsDevice": [{ "major": 61, "minor": 7, "rate": 1000 }] }))
}
