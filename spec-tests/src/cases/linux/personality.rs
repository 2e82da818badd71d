//! config-linux.md, Personality; and the label of mounts.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::facts::Facts;
use crate::harness::{Case, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#personality";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("personality LINUX32 shows a machine of 32 bits", SECTION, Level::Must, linux32)
        .on(&[Need::File("/proc/sys/abi/vsyscall32")]),
    Case::new("personality LINUX is that of the host", SECTION, Level::Must, linux),
    Case::new("exec has the container's personality", SECTION, Level::Must, exec),
    Case::new("a personality that is not known is refused", SECTION, Level::Must, unknown),
];

fn personality(facts: &Facts) -> anyhow::Result<&str> {
    Ok(facts.files.get("/proc/self/personality").context("/proc/self/personality was not read")?.trim())
}

fn linux32(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/linux/personality", json!({ "domain": "LINUX32" })))?;
    let found = personality(&facts)?;
    ensure!(found == "00000008", "personality: expected 00000008 (PER_LINUX32), found {found}");
    ensure!(facts.machine != "x86_64", "uname's machine: expected one of 32 bits, found {}", facts.machine);
    Ok(())
}

fn linux(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/linux/personality", json!({ "domain": "LINUX" })))?;
    let found = personality(&facts)?;
    ensure!(found == "00000000", "personality: expected 00000000 (PER_LINUX), found {found}");
    let (host, found) = (rustix::system::uname(), facts.machine.as_str());
    let expected = host.machine().to_string_lossy();
    ensure!(found == expected, "uname's machine: expected {expected}, found {found}");
    Ok(())
}

fn exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(bundle.set("/linux/personality", json!({ "domain": "LINUX32" })))?;
    let facts = container.exec_facts(&[])?;
    let found = personality(&facts)?;
    ensure!(found == "00000008", "personality in exec: expected 00000008 (PER_LINUX32), found {found}");
    Ok(())
}

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/personality", json!({ "domain": "XENIX" }))).map(drop)
}
