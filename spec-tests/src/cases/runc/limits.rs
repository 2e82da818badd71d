//! update: each flag, and what it does to the cgroup.

use std::fs;

use super::RUNC;
use crate::harness::{Case, Differential, Fixture, Level, Need};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: update", Level::Runc, run).on(RUNC)
}

/// Other limits for a container that runs.
pub const CASES: &[Case] = &[
    case("update changes memory as runc does", memory).on(&[Need::Program("runc"), Need::Controller("memory")]),
    case("update changes CPU time as runc does", cpu).on(&[Need::Program("runc"), Need::Controller("cpu")]),
    case("update changes the set of CPUs as runc does", cpuset)
        .on(&[Need::Program("runc"), Need::Controller("cpuset")]),
    case("update changes the number of processes as runc does", pids)
        .on(&[Need::Program("runc"), Need::Controller("pids")]),
    case("update takes a file or stdin", file).on(&[Need::Program("runc"), Need::Controller("pids")]),
    case("an update that is wrong is refused as by runc", refused),
    case("update in each state has the same outcome as runc's", states),
];

/// All files of the controllers, by v1's and v2's names; those that are not there say so alike.
fn files(both: &Differential, after: &str, files: &[(&str, &str)]) -> anyhow::Result<()> {
    for (controller, file) in files {
        both.see(&format!("{file} after {after}"), |side| side.cgroup_file(controller, file))?;
    }
    Ok(())
}

fn each(fixture: &Fixture, flags: &[&str], looks: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    files(&both, "the start", looks)?;
    for flag in flags {
        let line = format!("update {flag} {{id}}");
        both.line(&line)?;
        files(&both, &line, looks)?;
    }
    both.equal()
}

fn memory(fixture: &Fixture) -> anyhow::Result<()> {
    each(
        fixture,
        &[
            "--memory 64m",
            "--memory 134217728",
            "--memory 64m --memory-swap 96m",
            "--memory-reservation 32m",
            "--memory 1.5g --memory-swap -1",
            "--memory-swap=-1",
            "--memory -1",
            "--memory 64MiB --memory-swap 64MB",
            "--memory-reservation 16777217b",
            "--memory 0",
            "--kernel-memory 64m",
            "--kernel-memory-tcp 64m",
        ],
        &[
            ("memory", "memory.limit_in_bytes"),
            ("memory", "memory.memsw.limit_in_bytes"),
            ("memory", "memory.soft_limit_in_bytes"),
            ("memory", "memory.max"),
            ("memory", "memory.swap.max"),
            ("memory", "memory.low"),
        ],
    )
}

fn cpu(fixture: &Fixture) -> anyhow::Result<()> {
    each(
        fixture,
        &[
            "--cpu-share 512",
            "--cpu-share 2",
            "--cpu-share 262144",
            "--cpu-period 50000 --cpu-quota 25000",
            "--cpu-quota 10000",
            "--cpu-quota -1",
            "--cpu-period 200000",
            "--cpu-share 0",
        ],
        &[
            ("cpu", "cpu.shares"),
            ("cpu", "cpu.cfs_period_us"),
            ("cpu", "cpu.cfs_quota_us"),
            ("cpu", "cpu.weight"),
            ("cpu", "cpu.max"),
        ],
    )
}

fn cpuset(fixture: &Fixture) -> anyhow::Result<()> {
    each(
        fixture,
        &["--cpuset-cpus 0", "--cpuset-mems 0", "--cpuset-cpus 0-0 --cpuset-mems=0"],
        &[("cpuset", "cpuset.cpus"), ("cpuset", "cpuset.mems")],
    )
}

fn pids(fixture: &Fixture) -> anyhow::Result<()> {
    each(fixture, &["--pids-limit 7", "--pids-limit=9", "--pids-limit -1", "--pids-limit 0"], &[("pids", "pids.max")])
}

fn file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    let text = r#"{ "pids": { "limit": 12 }, "memory": {} }"#;
    both.each(|side| Ok(fs::write(side.directory().join("limits"), text)?))?;
    both.lines(&["update -r {dir}/limits {id}"])?;
    files(&both, "update -r FILE", &[("pids", "pids.max")])?;
    both.call_with(&["update", "--resources", "-", "{id}"], r#"{ "pids": { "limit": 13 } }"#)?;
    files(&both, "update --resources -", &[("pids", "pids.max")])?;
    // The file counts, flags beside it do not.
    both.call_with(&["update", "-r", "/proc/self/fd/0", "{id}"], r#"{ "pids": { "limit": 15 } }"#)?;
    files(&both, "update -r /proc/self/fd/0", &[("pids", "pids.max")])?;
    both.call_with(&["update", "--resources=-", "{id}"], " null\n")?;
    files(&both, "update -r of null", &[("pids", "pids.max")])?;
    both.line("update -r {dir}/limits --pids-limit 14 {id}")?;
    files(&both, "update -r FILE --pids-limit 14", &[("pids", "pids.max")])?;
    both.call_with(&["update", "-r", "-", "{id}"], "{")?.call_with(&["update", "-r", "-", "{id}"], "")?;
    both.call_with(&["update", "-r", "-", "{id}"], "[]")?
        .lines(&["update -r {dir}/none {id}", "update -r {dir} {id}"])?;
    both.call_with(&["update", "-r", "-", "{id}"], r#"{ "pids": { "limit": "many" } }"#)?;
    files(&both, "what was refused", &[("pids", "pids.max")])?;
    both.equal()
}

fn refused(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for flags in [
        "--memory x",
        "--memory 1x",
        "--memory-swap many",
        "--cpu-share x",
        "--cpu-quota 1.5",
        "--cpu-period -1",
        "--pids-limit many",
        "--blkio-weight x",
        "--cpuset-cpus 4000",
        "--cpuset-cpus x",
        "--cpu-rt-period x",
        "--memory 64m --memory-swap 32m",
        "--l3-cache-schema x",
        "--mem-bw-schema x",
        "--blkio-weight 5",
        "--memory-reservation 99999999999999999999",
    ] {
        both.line(&format!("update {flags} {{id}}"))?;
    }
    both.line("state {id}")?.equal()
}

fn states(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    both.create()?.lines(&["update {id}", "update --pids-limit 20 {id}", "start {id}", "update {id}"])?;
    both.lines(&["pause {id}", "update --pids-limit 21 {id}", "state {id}", "resume {id}"])?;
    both.stopped()?.lines(&["update {id}", "update --pids-limit 22 {id}", "update -r - {id}"])?.equal()
}
