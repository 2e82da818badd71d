//! config.md, Hostname and Domainname.

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, Level};

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("hostname is the name that the container sees", "config.md#hostname", Level::Must, hostname),
    Case::new("hostname does not change the host's name", "config.md#hostname", Level::Security, hosts_name),
    Case::new("domainname is the domain that the container sees", "config.md#domainname", Level::Must, domainname),
    Case::new(
        "a hostname that is too long for the kernel is refused",
        "config.md#valid-values",
        Level::Must,
        long_hostname,
    ),
    Case::new("without a hostname the container sees the caller's", "config.md#hostname", Level::Runc, without),
];

fn hostname(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let found = fixture.facts(bundle.set("/hostname", json!("mrs-dalloway")))?.hostname;
    ensure!(found == "mrs-dalloway", "the host's name: expected mrs-dalloway, found {found}");
    Ok(())
}

fn own_name() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

fn hosts_name(fixture: &Fixture) -> anyhow::Result<()> {
    let before = own_name()?;
    let mut bundle = fixture.bundle()?;
    bundle.set("/hostname", json!("mrs-dalloway"));
    let _container = fixture.start(&mut bundle)?;
    let after = own_name()?;
    ensure!(before == after, "the host's own name: expected {before} as before, found {after}");
    Ok(())
}

fn domainname(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let found = fixture.facts(bundle.set("/domainname", json!("foobarbaz.test")))?.domainname;
    ensure!(found == "foobarbaz.test", "the domain: expected foobarbaz.test, found {found}");
    Ok(())
}

fn long_hostname(fixture: &Fixture) -> anyhow::Result<()> {
    // uname(2): 64 bytes.
    fixture.refused(fixture.bundle()?.set("/hostname", json!("x".repeat(65)))).map(drop)
}

fn without(fixture: &Fixture) -> anyhow::Result<()> {
    let found = fixture.facts(fixture.bundle()?.remove("/hostname"))?.hostname;
    let wanted = own_name()?;
    ensure!(found == wanted, "the host's name: expected {wanted}, found {found}");
    Ok(())
}
