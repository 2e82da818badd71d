//! config-linux.md, User namespace mappings; and the offsets of a time namespace.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::facts::Facts;
use crate::harness::{Case, Fixture, Level, Need};

const MAPPINGS: &str = "config-linux.md#user-namespace-mappings";
const OFFSETS: &str = "config-linux.md#offset-for-time-namespace";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("uidMappings and gidMappings are those of the user namespace", MAPPINGS, Level::Must, mappings),
    Case::new("several mappings of ids are all made", MAPPINGS, Level::Must, several),
    Case::new("the process is of the mapped ids, seen from the host", MAPPINGS, Level::Must, seen_from_outside),
    Case::new("a mapping of ids changes no owner in the root file system", MAPPINGS, Level::Should, owners),
    Case::new("a user namespace without mappings is refused", MAPPINGS, Level::Runc, without),
    Case::new("timeOffsets shift the clocks of a time namespace", OFFSETS, Level::Must, offsets)
        .on(&[Need::Namespace("time")]),
    Case::new("a negative offset of the boot clock", OFFSETS, Level::Must, negative_offset)
        .on(&[Need::Namespace("time")]),
    Case::new("exec sees the shifted clocks", OFFSETS, Level::Must, offsets_in_exec).on(&[Need::Namespace("time")]),
    Case::new("an offset for a clock that is not known is refused", OFFSETS, Level::Must, unknown_clock)
        .on(&[Need::Namespace("time")]),
];

/// A file of numbers in lines, as rows.
fn rows(facts: &Facts, path: &str) -> anyhow::Result<Vec<Vec<String>>> {
    let text = facts.files.get(path).with_context(|| format!("{path} was not read"))?;
    Ok(text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
}

fn mappings(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 5000)?;
    bundle.set("/linux/gidMappings", json!([{ "containerID": 0, "hostID": 100_000, "size": 7000 }]));
    let facts = fixture.facts(&bundle)?;
    for (path, size) in [("/proc/self/uid_map", "5000"), ("/proc/self/gid_map", "7000")] {
        let found = rows(&facts, path)?;
        ensure!(found == [["0", "100000", size]], "{path}: expected 0 100000 {size}, found {found:?}");
    }
    Ok(())
}

fn several(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 10)?;
    let both = json!([
        { "containerID": 0, "hostID": 100_000, "size": 10 },
        { "containerID": 500, "hostID": 200_000, "size": 1 },
        { "containerID": 1000, "hostID": 300_000, "size": 65 },
    ]);
    bundle.set("/linux/uidMappings", both.clone()).set("/linux/gidMappings", both);
    let facts = fixture.facts(&bundle)?;
    let expected = [["0", "100000", "10"], ["500", "200000", "1"], ["1000", "300000", "65"]];
    for path in ["/proc/self/uid_map", "/proc/self/gid_map"] {
        let found = rows(&facts, path)?;
        ensure!(found == expected, "{path}: expected {expected:?}, found {found:?}");
    }
    Ok(())
}

fn seen_from_outside(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?.set("/process/user", json!({ "uid": 12, "gid": 34 }));
    let container = fixture.start(&mut bundle)?;
    let status = std::fs::read_to_string(container.proc("status"))?;
    for (name, expected) in [("Uid:", "100012"), ("Gid:", "100034")] {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let all_are = line.split_whitespace().all(|id| id == expected);
        ensure!(all_are && !line.is_empty(), "{name} seen from the host: expected {expected}, found {line}");
    }
    Ok(())
}

fn owners(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?;
    std::fs::write(bundle.rootfs("/of-root"), "")?;
    std::fs::write(bundle.rootfs("/of-other"), "")?;
    std::os::unix::fs::chown(bundle.rootfs("/of-other"), Some(4321), Some(1234))?;
    fixture.facts(&bundle)?;
    for (path, expected) in [("/of-root", (0, 0)), ("/of-other", (4321, 1234)), ("/probe", (100_000, 100_000))] {
        let meta = std::fs::metadata(bundle.rootfs(path))?;
        let found = (meta.uid(), meta.gid());
        ensure!(found == expected, "the owner of {path}: expected {expected:?} as before, found {found:?}");
    }
    Ok(())
}

fn without(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.namespace("user", None)).map(drop)
}

/// The offsets that the probe found, as `monotonic SECONDS NANOSECONDS, boottime SECONDS NANOSECONDS`.
fn found_offsets(facts: &Facts) -> anyhow::Result<String> {
    let rows = rows(facts, "/proc/self/timens_offsets")?;
    Ok(rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join(", "))
}

fn offsets(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.namespace("time", None).set(
        "/linux/timeOffsets",
        json!({ "monotonic": { "secs": 4000, "nanosecs": 7 }, "boottime": { "secs": 90_000_000 } }),
    );
    let facts = fixture.facts(&bundle)?;
    let (expected, found) = ("monotonic 4000 7, boottime 90000000 0", found_offsets(&facts)?);
    ensure!(found == expected, "timens_offsets: expected {expected}, found {found}");
    let uptime = facts.files.get("/proc/uptime").context("/proc/uptime was not read")?;
    let seconds: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    ensure!(seconds >= 90_000_000.0, "/proc/uptime: expected more than 90000000 s, found {seconds}");
    Ok(())
}

fn negative_offset(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.namespace("time", None).set("/linux/timeOffsets", json!({ "boottime": { "secs": -1, "nanosecs": 5 } }));
    let found = found_offsets(&fixture.facts(&bundle)?)?;
    ensure!(found.ends_with("boottime -1 5"), "timens_offsets: expected boottime -1 5, found {found}");
    Ok(())
}

fn offsets_in_exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.namespace("time", None).set("/linux/timeOffsets", json!({ "monotonic": { "secs": 4000 } }));
    let container = fixture.start(&mut bundle)?;
    let found = found_offsets(&container.exec_facts(&[])?)?;
    ensure!(found.starts_with("monotonic 4000 0"), "timens_offsets in exec: expected monotonic 4000 0, found {found}");
    Ok(())
}

fn unknown_clock(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.namespace("time", None).set("/linux/timeOffsets", json!({ "sundial": { "secs": 1 } }));
    fixture.refused(&bundle).map(drop)
}
