//! config.md, POSIX process.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::harness::{Case, Fixture, Level, Need};

const SECTION: &str = "config.md#posix-process";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("rlimits of every type are set, soft and hard", SECTION, Level::Must, every),
    Case::new("an rlimit may have no bound", SECTION, Level::Must, unbounded).on(&[Need::SysResource]),
    Case::new("an rlimit above the runtime's own is set", SECTION, Level::Must, raised).on(&[Need::SysResource]),
    Case::new("an rlimit that cannot be raised is an error", "runtime.md#create", Level::Must, unraisable),
    Case::new("an rlimit of an unknown type is refused", SECTION, Level::Must, unknown),
    Case::new("an rlimit type that is given twice is refused", SECTION, Level::Must, twice),
    Case::new("a soft rlimit above the hard one is refused", "config.md#valid-values", Level::Must, crossed),
    Case::new("rlimits that are not named are the caller's", "runc: process.rlimits", Level::Runc, untouched),
];

fn limit(kind: &str, soft: u64, hard: u64) -> Value {
    json!({ "type": kind, "soft": soft, "hard": hard })
}

fn every(fixture: &Fixture) -> anyhow::Result<()> {
    // Limits that a program needs to start stay large enough; RLIMIT_NICE and RLIMIT_RTPRIO begin at 0.
    let all = [
        ("RLIMIT_AS", 1 << 30, 1 << 31),
        ("RLIMIT_CORE", 1024, 2048),
        ("RLIMIT_CPU", 1000, 2000),
        ("RLIMIT_DATA", 1 << 29, 1 << 30),
        ("RLIMIT_FSIZE", 1 << 29, 1 << 30),
        ("RLIMIT_LOCKS", 100, 200),
        ("RLIMIT_MEMLOCK", 4096, 8192),
        ("RLIMIT_MSGQUEUE", 4000, 5000),
        ("RLIMIT_NICE", 0, 0),
        ("RLIMIT_NOFILE", 64, 96),
        ("RLIMIT_NPROC", 600, 700),
        ("RLIMIT_RSS", 1 << 29, 1 << 30),
        ("RLIMIT_RTPRIO", 0, 0),
        ("RLIMIT_RTTIME", 1_000_000, 2_000_000),
        ("RLIMIT_SIGPENDING", 300, 400),
        ("RLIMIT_STACK", 1 << 20, 1 << 21),
    ];
    let mut bundle = fixture.bundle()?;
    for (kind, soft, hard) in all {
        bundle.push("/process/rlimits", limit(kind, soft, hard));
    }
    let found = fixture.facts(&bundle)?.rlimits;
    for (kind, soft, hard) in all {
        let found = found.get(kind);
        ensure!(found == Some(&(Some(soft), Some(hard))), "{kind}: expected {soft} and {hard}, found {found:?}");
    }
    Ok(())
}

fn unbounded(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/process/rlimits", limit("RLIMIT_CORE", u64::MAX, u64::MAX));
    bundle.push("/process/rlimits", limit("RLIMIT_MEMLOCK", 4096, u64::MAX));
    let found = fixture.facts(&bundle)?.rlimits;
    let found = (found["RLIMIT_CORE"], found["RLIMIT_MEMLOCK"]);
    ensure!(
        found == ((None, None), (Some(4096), None)),
        "RLIMIT_CORE and RLIMIT_MEMLOCK without a bound: found {found:?}"
    );
    Ok(())
}

fn raised(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/process/rlimits", limit("RLIMIT_SIGPENDING", 5000, 6000));
    let found = fixture.facts_after("ulimit -i 100 2>/dev/null || true", &bundle)?.rlimits["RLIMIT_SIGPENDING"];
    ensure!(found == (Some(5000), Some(6000)), "RLIMIT_SIGPENDING: expected 5000 and 6000, found {found:?}");
    Ok(())
}

fn unraisable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    // Not even root gets more descriptors than fs.nr_open.
    bundle.push("/process/rlimits", limit("RLIMIT_NOFILE", 1 << 40, 1 << 40));
    fixture.refused(&bundle).map(drop)
}

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    for kind in ["RLIMIT_NOTHING", "NOFILE", "rlimit_nofile", ""] {
        fixture.refused(fixture.bundle()?.push("/process/rlimits", limit(kind, 10, 10)))?;
    }
    Ok(())
}

fn twice(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/process/rlimits", limit("RLIMIT_NOFILE", 64, 64));
    bundle.push("/process/rlimits", limit("RLIMIT_CORE", 64, 64));
    bundle.push("/process/rlimits", limit("RLIMIT_NOFILE", 64, 64));
    fixture.refused(&bundle).map(drop)
}

fn crossed(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.refused(fixture.bundle()?.push("/process/rlimits", limit("RLIMIT_NOFILE", 65, 64))).map(drop)
}

fn untouched(fixture: &Fixture) -> anyhow::Result<()> {
    let found = fixture.facts_after("ulimit -c 77", &fixture.bundle()?)?.rlimits["RLIMIT_CORE"];
    // dash counts in blocks of 512 bytes, other shells in 1024.
    let wanted = [77 * 512, 77 * 1024].map(|size| (Some(size), Some(size)));
    ensure!(wanted.contains(&found), "RLIMIT_CORE after ulimit -c 77: found {found:?}");
    Ok(())
}
