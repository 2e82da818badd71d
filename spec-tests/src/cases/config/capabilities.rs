//! config.md, Linux Process: capabilities.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Case, Fixture, Level};

const SECTION: &str = "config.md#linux-process";
/// Numbers of linux/capability.h.
const CHOWN: u64 = 1;
const KILL: u64 = 1 << 5;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_RAW: u64 = 1 << 13;

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("each of the five capability sets is that of the configuration", SECTION, Level::Must, sets),
    Case::new("an empty capabilities object leaves none", SECTION, Level::Must, empty),
    Case::new("an unknown capability does not stop the container", SECTION, Level::Should, unknown),
    Case::new("a capability beyond the bounding set does not stop the container", SECTION, Level::Should, |fixture| {
        ungrantable(fixture).map(drop)
    }),
    Case::new("a capability that cannot be granted is not there", SECTION, Level::Must, |fixture| {
        let effective = ungrantable(fixture)?;
        ensure!(effective & NET_RAW == 0, "CapEff: expected no CAP_NET_RAW, found {effective:#x}");
        Ok(())
    }),
    Case::new("a user other than root keeps the ambient capabilities", SECTION, Level::Must, ambient),
    Case::new(
        "a user other than root has no effective capabilities",
        "runc: process.capabilities",
        Level::Security,
        user,
    ),
    Case::new("inheritable capabilities are none unless they are asked for", SECTION, Level::Security, inheritable),
];

fn sets(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let capabilities = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW"],
        "permitted": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "inheritable": ["CAP_KILL", "CAP_NET_BIND_SERVICE"],
        "effective": ["CAP_NET_BIND_SERVICE"],
        "ambient": ["CAP_NET_BIND_SERVICE"]
    });
    // execve(2) of root raises permitted and effective to the bounding set: only another user shows the sets.
    bundle.set("/process/capabilities", capabilities).set("/process/user", json!({ "uid": 0, "gid": 0 }));
    let facts = fixture.facts(&bundle)?;
    let found = facts.capabilities("CapBnd")?;
    let wanted = CHOWN | KILL | NET_BIND_SERVICE | NET_RAW;
    ensure!(found == wanted, "CapBnd: expected {wanted:#x}, found {found:#x}");
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let facts = fixture.facts(&bundle)?;
    for (set, wanted) in [
        ("CapBnd", wanted),
        ("CapInh", KILL | NET_BIND_SERVICE),
        ("CapAmb", NET_BIND_SERVICE),
        ("CapPrm", NET_BIND_SERVICE),
        ("CapEff", NET_BIND_SERVICE),
    ] {
        let found = facts.capabilities(set)?;
        ensure!(found == wanted, "{set} of uid 1000: expected {wanted:#x}, found {found:#x}");
    }
    Ok(())
}

fn empty(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/process/capabilities", json!({})))?;
    for set in ["CapBnd", "CapInh", "CapPrm", "CapEff", "CapAmb"] {
        let found = facts.capabilities(set)?;
        ensure!(found == 0, "{set}: expected none, found {found:#x}");
    }
    Ok(())
}

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for set in ["bounding", "permitted", "effective"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", "CAP_OF_NO_KERNEL"]));
    }
    let facts = fixture.facts(&bundle)?;
    let found = facts.capabilities("CapEff")?;
    ensure!(found == KILL, "CapEff: expected CAP_KILL alone ({KILL:#x}), found {found:#x}");
    Ok(())
}

/// The effective capabilities of a program whose runtime could not grant CAP_NET_RAW.
fn ungrantable(fixture: &Fixture) -> anyhow::Result<u64> {
    let mut bundle = fixture.bundle()?;
    for set in ["bounding", "permitted", "effective"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL", "CAP_NET_RAW"]));
    }
    bundle.write()?;
    let id = fixture.id();
    let mut words = vec!["--bounding-set", "-net_raw", "--"];
    let command = fixture.command(&["run", "--bundle"]);
    let (program, path) = (fixture.runtime().to_string_lossy(), bundle.path().to_string_lossy());
    words.push(&program);
    let given: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    words.extend(given.iter().map(String::as_str));
    words.extend([&*path, &id]);
    let done = fixture.tool("setpriv", &words)?.ok()?;
    crate::facts::Facts::parse(&done.stdout).context("setpriv")?.capabilities("CapEff")
}

fn ambient(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for set in ["bounding", "permitted", "inheritable", "effective", "ambient"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!(["CAP_KILL"]));
    }
    let facts = fixture.facts(bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })))?;
    let found = facts.capabilities("CapEff")?;
    ensure!(found == KILL, "CapEff of uid 1000: expected CAP_KILL ({KILL:#x}), found {found:#x}");
    Ok(())
}

fn user(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })))?;
    for set in ["CapEff", "CapPrm", "CapAmb", "CapInh"] {
        let found = facts.capabilities(set)?;
        ensure!(found == 0, "{set} of uid 1000: expected none, found {found:#x}");
    }
    Ok(())
}

fn inheritable(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = fixture.facts(&fixture.bundle()?)?;
    for set in ["CapInh", "CapAmb"] {
        let found = facts.capabilities(set)?;
        ensure!(found == 0, "{set}: expected none, found {found:#x}");
    }
    Ok(())
}
