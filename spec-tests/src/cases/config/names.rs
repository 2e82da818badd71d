//! config.md, Hostname and Domainname.

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Ground, Level};

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("hostname is the name that the container sees", "config.md#hostname", Level::Must, hostname),
    Case::new("hostname leaves the host's name alone", "config.md#hostname", Level::Security, hosts_name),
    Case::new("domainname is the domain that the container sees", "config.md#domainname", Level::Must, domainname),
    Case::new(
        "a hostname that is too long for the kernel is refused",
        "config.md#valid-values",
        Level::Must,
        long_hostname,
    ),
    Case::new("without a hostname the container sees the caller's", "config.md#hostname", Level::Runc, without),
];

fn hostname(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    let found = ground.facts(bundle.set("/hostname", json!("mrs-dalloway")))?.hostname;
    ensure!(found == "mrs-dalloway", "the host's name: expected mrs-dalloway, found {found}");
    Ok(())
}

fn own_name() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

fn hosts_name(ground: &Ground) -> anyhow::Result<()> {
    let before = own_name()?;
    let mut bundle = ground.bundle()?;
    bundle.set("/hostname", json!("mrs-dalloway"));
    let _container = ground.start(&mut bundle)?;
    let after = own_name()?;
    ensure!(before == after, "the host's own name: expected {before} as before, found {after}");
    Ok(())
}

fn domainname(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    let found = ground.facts(bundle.set("/domainname", json!("foobarbaz.test")))?.domainname;
    ensure!(found == "foobarbaz.test", "the domain: expected foobarbaz.test, found {found}");
    Ok(())
}

fn long_hostname(ground: &Ground) -> anyhow::Result<()> {
    // uname(2): 64 bytes.
    ground.refused(ground.bundle()?.set("/hostname", json!("x".repeat(65)))).map(drop)
}

fn without(ground: &Ground) -> anyhow::Result<()> {
    let found = ground.facts(ground.bundle()?.remove("/hostname"))?.hostname;
    let wanted = own_name()?;
    ensure!(found == wanted, "the host's name: expected {wanted}, found {found}");
    Ok(())
}
