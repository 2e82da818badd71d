//! config-linux.md: huge pages, network, PIDs, RDMA, and what is written to cgroup v2 as it stands.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{expect_file, limited};
use crate::harness::{Case, Fixture, Level, Need};

const HUGE: &str = "config-linux.md#huge-page-limits";
const NETWORK: &str = "config-linux.md#network";
const PIDS: &str = "config-linux.md#pids";
const RDMA: &str = "config-linux.md#rdma";
const UNIFIED: &str = "config-linux.md#unified";
const V2: &[Need] = &[Need::CgroupV2];
const V2_MEMORY: &[Need] = &[Need::CgroupV2, Need::Controller("memory")];
const HUGETLB: &[Need] = &[Need::CgroupV2, Need::Controller("hugetlb")];
const PID: &[Need] = &[Need::Controller("pids")];

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("hugepageLimits are written to the cgroup, as reservation first", HUGE, Level::Must, huge_pages)
        .on(HUGETLB),
    Case::new("a limit of a page size that the host does not have is refused", HUGE, Level::Must, no_such_page)
        .on(HUGETLB),
    Case::new("a network classID on a host without its controller starts or is refused", NETWORK, Level::Runc, network),
    Case::new("pids.limit is written to the cgroup", PIDS, Level::Must, pids).on(PID),
    Case::new("a pids.limit of -1 is none", PIDS, Level::Must, unlimited_pids).on(PID),
    Case::new("a pids.limit of 0 allows no new process", PIDS, Level::Should, zero_pids).on(PID),
    Case::new("a pids.limit of 0 is none before version 1.3", PIDS, Level::Should, old_zero_pids).on(PID),
    Case::new("a pids without a limit limits nothing", PIDS, Level::Must, no_pids).on(PID),
    Case::new("an update with a pids without a limit changes nothing", "runc: update", Level::Runc, pids_kept).on(PID),
    Case::new("no more processes than pids.limit can be started", PIDS, Level::Must, fork_bomb).on(PID),
    Case::new("limits of an RDMA device are written to the cgroup", RDMA, Level::Must, rdma).on(&[
        Need::CgroupV2,
        Need::Controller("rdma"),
        Need::Program("rdma"),
    ]),
    Case::new("a key of unified is written to its file", UNIFIED, Level::Must, unified).on(V2_MEMORY),
    Case::new("a key of unified that no runtime knows is written to its file", UNIFIED, Level::Must, unknown_key)
        .on(V2),
    Case::new("unified enables the controller that its key needs", UNIFIED, Level::Must, enabled).on(V2_MEMORY),
    Case::new("a key of unified of a controller that is not there is refused", UNIFIED, Level::Must, no_controller)
        .on(V2),
    Case::new("a key of unified without a file is refused", UNIFIED, Level::Must, no_file).on(V2),
    Case::new("a value of unified that the kernel refuses is refused", UNIFIED, Level::Must, bad_value).on(V2),
    Case::new("a key of unified that is a path is refused", UNIFIED, Level::Security, path).on(V2),
    Case::new("a setting of v1 that v2 cannot express is refused", UNIFIED, Level::Must, not_expressed).on(V2_MEMORY),
];

fn huge_pages(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }] }))?;
    for file in ["hugetlb.2MB.rsvd.max", "hugetlb.2MB.max"] {
        let found = container.cgroup_file("hugetlb", file)?;
        ensure!(found == "4194304", "{file}: expected 4194304, found {found}");
    }
    Ok(())
}

fn refused(fixture: &Fixture, resources: Value) -> anyhow::Result<String> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/resources", resources))
}

fn no_such_page(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 4_194_304 }] })).map(drop)
}

/// None of these hosts has net_cls. Docker never requests it; a caller that does must not be left with half a container.
fn network(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/network", json!({ "classID": 1_048_577 }));
    let done = fixture.run(&bundle)?;
    if done.code != 0 {
        done.refused()?;
    }
    Ok(())
}

fn pids(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "pids": { "limit": 77 } }))?;
    expect_file(fixture, &container, "pids", ["pids.max", "pids.max"], "77")
}

fn unlimited_pids(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "pids": { "limit": -1 } }))?;
    expect_file(fixture, &container, "pids", ["pids.max", "pids.max"], "max")
}

fn zero_pids(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/pids", json!({ "limit": 0 })).args(&["/probe", "fork", "3"]);
    bundle.set("/ociVersion", json!("1.3.0"));
    let done = fixture.run(&bundle)?.ok()?;
    ensure!(done.stdout.contains("started 0\n"), "expected that nothing can be started, found {}", done.stdout);
    Ok(())
}

/// Callers that could not leave the limit out wrote zero for none: Podman 4.3 to 5.4.
fn old_zero_pids(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/pids", json!({ "limit": 0 })).set("/ociVersion", json!("1.2.0"));
    let container = fixture.start(&mut bundle)?;
    expect_file(fixture, &container, "pids", ["pids.max", "pids.max"], "max")
}

fn no_pids(fixture: &Fixture) -> anyhow::Result<()> {
    // A manager of cgroups may have a default, which stays.
    let mut bundle = fixture.bundle()?;
    let default = fixture.start(&mut bundle)?.cgroup_file("pids", "pids.max")?;
    for version in ["1.2.0", "1.3.0"] {
        for pids in [json!({}), json!({ "limit": null })] {
            let mut bundle = fixture.bundle()?;
            bundle.set("/linux/resources/pids", pids).set("/ociVersion", json!(version));
            let container = fixture.start(&mut bundle)?;
            expect_file(fixture, &container, "pids", ["pids.max", "pids.max"], &default)?;
        }
    }
    Ok(())
}

fn pids_kept(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "pids": { "limit": 77 } }))?;
    let file = fixture.directory().join("resources.json");
    for pids in [json!({}), json!({ "limit": null }), json!(null)] {
        std::fs::write(&file, json!({ "pids": pids }).to_string())?;
        container.call_with_flags("update", &["--resources", &file.to_string_lossy()])?.ok()?;
        expect_file(fixture, &container, "pids", ["pids.max", "pids.max"], "77")?;
    }
    Ok(())
}

fn fork_bomb(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/pids", json!({ "limit": 10 })).args(&["/probe", "fork", "20"]);
    let done = fixture.run(&bundle)?.ok()?;
    ensure!(done.stdout.contains("started 9\n"), "expected 9 children besides init, found {}", done.stdout);
    Ok(())
}

/// A software device of the kernel stands in for hardware; Debian's kernel has the second.
fn rdma(fixture: &Fixture) -> anyhow::Result<()> {
    let kind = match fixture.tool("modprobe", &["siw"])?.code {
        0 => "siw",
        _ => fixture.tool("modprobe", &["rdma_rxe"])?.ok().map(|_| "rxe")?,
    };
    fixture.tool("rdma", &["link", "add", "spec0", "type", kind, "netdev", "lo"])?.ok()?;
    let outcome = (|| {
        let container = limited(fixture, json!({ "rdma": { "spec0": { "hcaHandles": 3, "hcaObjects": 10_000 } } }))?;
        let found = container.cgroup_file("rdma", "rdma.max")?;
        let expected = "spec0 hca_handle=3 hca_object=10000";
        ensure!(found.lines().any(|line| line == expected), "rdma.max: expected {expected}, found {found:?}");
        container.call_with_flags("delete", &["--force"])?.ok().map(drop)
    })();
    fixture.tool("rdma", &["link", "delete", "spec0"])?.ok()?;
    outcome
}

fn unified(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "unified": { "memory.high": "50331648" } }))?;
    expect_file(fixture, &container, "memory", ["", "memory.high"], "50331648")
}

fn unknown_key(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "unified": { "cgroup.max.descendants": "5", "cgroup.max.depth": "3" } }))?;
    expect_file(fixture, &container, "", ["", "cgroup.max.descendants"], "5")?;
    expect_file(fixture, &container, "", ["", "cgroup.max.depth"], "3")
}

fn enabled(fixture: &Fixture) -> anyhow::Result<()> {
    let container = limited(fixture, json!({ "unified": { "memory.low": "4096" } }))?;
    let place = container.cgroup("memory")?;
    let parent = place.parent().context("a cgroup has a parent")?;
    let found = fs::read_to_string(parent.join("cgroup.subtree_control"))?;
    let is_enabled = found.split_whitespace().any(|name| name == "memory");
    ensure!(is_enabled, "the parent's cgroup.subtree_control: expected memory in it, found {found:?}");
    expect_file(fixture, &container, "memory", ["", "memory.low"], "4096")
}

fn no_controller(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "unified": { "nosuch.max": "1" } })).map(drop)
}

fn no_file(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "unified": { "cgroup.max.nothing": "1" } })).map(drop)
}

fn bad_value(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "unified": { "cgroup.max.depth": "deep" } })).map(drop)
}

fn path(fixture: &Fixture) -> anyhow::Result<()> {
    let place = fixture.directory().join("victim");
    fs::write(&place, "before")?;
    let key = format!("../../../../../../../../..{}", place.display());
    let mut unified = json!({});
    unified[key.as_str()] = json!("after");
    refused(fixture, json!({ "unified": unified }))?;
    let found = fs::read_to_string(&place)?;
    ensure!(found == "before", "a file of the host was written: {found:?}");
    Ok(())
}

fn not_expressed(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "memory": { "limit": 67_108_864, "swappiness": 17 } })).map(drop)
}
