//! config-linux.md, Memory.

use anyhow::ensure;
use serde_json::{Value, json};

use super::{expect_file, limited};
use crate::harness::{Case, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#memory";
const MIB: i64 = 1 << 20;
const V1: &[Need] = &[Need::CgroupV1, Need::Controller("memory")];
const V2: &[Need] = &[Need::CgroupV2, Need::Controller("memory")];

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run).on(&[Need::Controller("memory")])
}

/// In the order of the text.
pub const CASES: &[Case] = &[
    case("memory.limit is written to the cgroup", limit),
    case("a memory.limit of -1 is none", unlimited),
    case("a process that uses more memory than its limit is killed", killed),
    case("a process that uses less memory than its limit is not killed", not_killed),
    case("memory.reservation is the soft limit", reservation),
    case("memory.swap counts memory and swap", swap),
    case("memory.swap of -1 with a limit leaves swap without one", unlimited_swap),
    case("memory.swappiness is written to the cgroup", swappiness).on(V1),
    case("disableOOMKiller is written to the cgroup", oom_killer).on(V1),
    case("checkBeforeUpdate refuses a limit below the current usage", check_before_update).on(V2),
    case("a memory limit below -1 is refused", below),
];

fn limit(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "memory": { "limit": 64 * MIB } }))?;
    expect_file(fixture, &container, "memory", ["memory.limit_in_bytes", "memory.max"], "67108864")
}

fn unlimited(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "memory": { "limit": -1 } }))?;
    let none = if fixture.host().is_v2() { "max" } else { "9223372036854771712" };
    expect_file(fixture, &container, "memory", ["memory.limit_in_bytes", "memory.max"], none)
}

/// The exit code of a program that takes and touches 40 MiB under this limit, without swap.
fn hog(fixture: &Fixture, limit: i64) -> anyhow::Result<i32> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/memory", json!({ "limit": limit * MIB, "swap": limit * MIB }));
    Ok(fixture.run(bundle.args(&["/probe", "hog", "40"]))?.code)
}

fn killed(fixture: &Fixture) -> anyhow::Result<()> {
    let code = hog(fixture, 24)?;
    // The text has no word on a runtime's exit code: most add 128 to the signal's number.
    ensure!(matches!(code, 137 | 9), "40 MiB under a limit of 24: expected exit code 137 (SIGKILL), found {code}");
    Ok(())
}

fn not_killed(fixture: &Fixture) -> anyhow::Result<()> {
    let code = hog(fixture, 80)?;
    ensure!(code == 0, "40 MiB under a limit of 80: expected exit code 0, found {code}");
    Ok(())
}

fn reservation(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "memory": { "limit": 64 * MIB, "reservation": 32 * MIB } }))?;
    expect_file(fixture, &container, "memory", ["memory.soft_limit_in_bytes", "memory.low"], "33554432")
}

fn swap(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "memory": { "limit": 64 * MIB, "swap": 96 * MIB } }))?;
    // v2 counts swap alone: 96 - 64 MiB.
    let expected = if fixture.host().is_v2() { 32 * MIB } else { 96 * MIB };
    let files = ["memory.memsw.limit_in_bytes", "memory.swap.max"];
    expect_file(fixture, &container, "memory", files, &expected.to_string())
}

fn unlimited_swap(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "memory": { "limit": 64 * MIB, "swap": -1 } }))?;
    let none = if fixture.host().is_v2() { "max" } else { "9223372036854771712" };
    expect_file(fixture, &container, "memory", ["memory.memsw.limit_in_bytes", "memory.swap.max"], none)
}

fn on_v1(fixture: &Fixture, name: &str, value: Value, file: &str, expected: &str) -> anyhow::Result<()> {
    let mut memory = json!({ "limit": 64 * MIB });
    memory[name] = value;
    let container = limited(fixture, json!({ "memory": memory }))?;
    let found = container.cgroup_file("memory", file)?;
    ensure!(found.lines().any(|line| line == expected), "{file}: expected {expected}, found {found}");
    Ok(())
}

fn swappiness(fixture: &Fixture) -> anyhow::Result<()> {
    on_v1(fixture, "swappiness", json!(17), "memory.swappiness", "17")
}

fn oom_killer(fixture: &Fixture) -> anyhow::Result<()> {
    on_v1(fixture, "disableOOMKiller", json!(true), "memory.oom_control", "oom_kill_disable 1")
}

fn check_before_update(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "memory": { "limit": 64 * MIB } }))?;
    let path = fixture.directory().join("update.json");
    std::fs::write(&path, json!({ "memory": { "limit": 4096, "checkBeforeUpdate": true } }).to_string())?;
    let path = path.to_string_lossy();
    container.call_with_flags("update", &["--resources", &path])?.refused()?;
    expect_file(fixture, &container, "memory", ["", "memory.max"], "67108864")?;
    let status = container.status()?;
    ensure!(status == "running", "the container after a refused limit: expected running, found {status}");
    Ok(())
}

fn below(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/resources/memory", json!({ "limit": -2 }))).map(drop)
}
