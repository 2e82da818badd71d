//! config-linux.md, CPU.

use anyhow::{Context, ensure};
use serde_json::json;

use super::{expect_file, limited};
use crate::harness::{Case, Fixture, Level, Need, wait_until};

const SECTION: &str = "config-linux.md#cpu";

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run).on(&[Need::Controller("cpu")])
}

const CPUSET: &[Need] = &[Need::Controller("cpuset")];

/// In the order of the text.
pub const CASES: &[Case] = &[
    case("more cpu.shares are more of the CPU", shares),
    case("cpu.quota and cpu.period are written to the cgroup", quota),
    case("a negative cpu.quota is none", no_quota),
    case("a process that uses more than its cpu.quota is throttled", throttled),
    case("cpu.burst is written to the cgroup", burst).on(&[Need::Controller("cpu"), Need::Kernel(5, 14)]),
    case("cpu.period alone is written to the cgroup", period),
    case("cpu.idle is written to the cgroup", idle).on(&[Need::Controller("cpu"), Need::Kernel(5, 15)]),
    case("realtimeRuntime and realtimePeriod are written to the cgroup", realtime).on(&[Need::CgroupV1]),
    case("cpu.cpus is written to the cgroup and the process runs there", cpus).on(CPUSET),
    case("cpu.mems is written to the cgroup", mems).on(CPUSET),
    case("a CPU that the host does not have is refused", no_such_cpu).on(CPUSET),
];

fn shares(fixture: &Fixture) -> anyhow::Result<()> {
    let weight = |shares: u64| -> anyhow::Result<u64> {
        let container = limited(fixture, json!({ "cpu": { "shares": shares } }))?;
        let file = if fixture.host().is_v2() { "cpu.weight" } else { "cpu.shares" };
        Ok(container.cgroup_file("cpu", file)?.parse()?)
    };
    let found = [weight(128)?, weight(1024)?, weight(4096)?];
    if fixture.host().is_v2() {
        // The scale of v2 is another; no text says which value is which.
        ensure!(found[0] < found[1] && found[1] < found[2], "the weights of 128, 1024, 4096 shares: {found:?}");
    } else {
        ensure!(found == [128, 1024, 4096], "cpu.shares: expected 128, 1024, 4096, found {found:?}");
    }
    Ok(())
}

fn quota(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "cpu": { "quota": 30_000, "period": 60_000 } }))?;
    if fixture.host().is_v2() {
        return expect_file(fixture, &container, "cpu", ["", "cpu.max"], "30000 60000");
    }
    expect_file(fixture, &container, "cpu", ["cpu.cfs_quota_us", ""], "30000")?;
    expect_file(fixture, &container, "cpu", ["cpu.cfs_period_us", ""], "60000")
}

fn no_quota(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "cpu": { "quota": -1 } }))?;
    let none = if fixture.host().is_v2() { "max 100000" } else { "-1" };
    expect_file(fixture, &container, "cpu", ["cpu.cfs_quota_us", "cpu.max"], none)
}

fn throttled(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/cpu", json!({ "quota": 2000, "period": 10_000 })).args(&["/probe", "spin"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    wait_until("the container to be throttled", || {
        let text = container.cgroup_file("cpu", "cpu.stat")?;
        let count = text.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap_or("0");
        Ok((count.trim().parse::<u64>()? > 0).then_some(()))
    })
}

fn burst(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "cpu": { "quota": 50_000, "burst": 20_000, "period": 100_000 } }))?;
    expect_file(fixture, &container, "cpu", ["cpu.cfs_burst_us", "cpu.max.burst"], "20000")
}

fn period(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "cpu": { "period": 50_000 } }))?;
    let expected = if fixture.host().is_v2() { "max 50000" } else { "50000" };
    expect_file(fixture, &container, "cpu", ["cpu.cfs_period_us", "cpu.max"], expected)
}

fn idle(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "cpu": { "idle": 1 } }))?;
    expect_file(fixture, &container, "cpu", ["cpu.idle", "cpu.idle"], "1")
}

/// The parent of all of a worker's cgroups needs a share of the realtime budget, which is released with the parent.
fn realtime(fixture: &Fixture) -> anyhow::Result<()> {
    let Some(mount) = fixture.host().v1("cpu") else {
        return Ok(());
    };
    let path = fixture.cgroups_path("realtime");
    let parent = match path.split_once(':') {
        Some((slice, _)) if fixture.systemd() => mount.join(slice),
        _ => mount.join(path.trim_start_matches('/')).parent().unwrap_or(mount).to_owned(),
    };
    std::fs::create_dir_all(&parent)?;
    std::fs::write(parent.join("cpu.rt_runtime_us"), "20000").context("a realtime budget for the parent")?;
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/cgroupsPath", json!(path));
    bundle.set("/linux/resources/cpu", json!({ "realtimeRuntime": 5000, "realtimePeriod": 500_000 }));
    let container = fixture.start(&mut bundle)?;
    expect_file(fixture, &container, "cpu", ["cpu.rt_runtime_us", ""], "5000")?;
    expect_file(fixture, &container, "cpu", ["cpu.rt_period_us", ""], "500000")
}

fn cpus(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/cpu", json!({ "cpus": "0" }));
    let container = fixture.start(&mut bundle)?;
    expect_file(fixture, &container, "cpuset", ["cpuset.cpus", "cpuset.cpus"], "0")?;
    let facts = container.exec_facts(&[])?;
    let found = facts.status("Cpus_allowed_list")?;
    ensure!(found == "0", "Cpus_allowed_list: expected 0, found {found}");
    Ok(())
}

fn mems(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "cpu": { "mems": "0" } }))?;
    expect_file(fixture, &container, "cpuset", ["cpuset.mems", "cpuset.mems"], "0")
}

fn no_such_cpu(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/cpu", json!({ "cpus": "9999" }));
    fixture.refused(&bundle).map(drop)
}
