//! config-linux.md, Sysctl and Memory policy; and what is said of Intel's resource director.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Case, Fixture, Level, Need};

const SYSCTL: &str = "config-linux.md#sysctl";
const POLICY: &str = "config-linux.md#memory-policy";
const RDT: &str = "config-linux.md#intelrdt";
const NUMA: &[Need] = &[Need::File("/proc/self/numa_maps")];

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("intelRdt without a resctrl file system is refused", RDT, Level::Must, no_resctrl)
        .on(&[Need::NoFile("/sys/fs/resctrl/schemata")]),
    Case::new("a memBwSchema of several lines is refused", RDT, Level::Must, |fixture| {
        rdt_refused(fixture, json!({ "closID": "spec", "memBwSchema": "MB:0=20\nL3:0=f" }))
    }),
    Case::new("schemata of several lines in one are refused", RDT, Level::Must, |fixture| {
        rdt_refused(fixture, json!({ "closID": "spec", "schemata": ["MB:0=20\nL3:0=f"] }))
    }),
    Case::new("a closID that is a path is refused", RDT, Level::Security, |fixture| {
        rdt_refused(fixture, json!({ "closID": "../spec", "l3CacheSchema": "L3:0=f" }))
    }),
    Case::new("memoryPolicy MPOL_BIND binds memory to its nodes", POLICY, Level::Must, |fixture| {
        policy(fixture, json!({ "mode": "MPOL_BIND", "nodes": "0" }), "bind:0")
    })
    .on(NUMA),
    Case::new("memoryPolicy MPOL_INTERLEAVE spreads memory over its nodes", POLICY, Level::Must, |fixture| {
        policy(fixture, json!({ "mode": "MPOL_INTERLEAVE", "nodes": "0" }), "interleave:0")
    })
    .on(NUMA),
    Case::new("memoryPolicy MPOL_PREFERRED prefers its node", POLICY, Level::Must, |fixture| {
        policy(fixture, json!({ "mode": "MPOL_PREFERRED", "nodes": "0" }), "prefer:0")
    })
    .on(NUMA),
    Case::new("memoryPolicy MPOL_PREFERRED_MANY prefers its nodes", POLICY, Level::Must, |fixture| {
        policy(fixture, json!({ "mode": "MPOL_PREFERRED_MANY", "nodes": "0" }), "prefer (many):0")
    })
    .on(&[Need::File("/proc/self/numa_maps"), Need::Kernel(5, 15)]),
    Case::new("memoryPolicy MPOL_LOCAL takes no nodes", POLICY, Level::Must, |fixture| {
        policy(fixture, json!({ "mode": "MPOL_LOCAL" }), "local")
    })
    .on(NUMA),
    Case::new("memoryPolicy MPOL_DEFAULT is that of the host", POLICY, Level::Must, |fixture| {
        policy(fixture, json!({ "mode": "MPOL_DEFAULT" }), "default")
    })
    .on(NUMA),
    Case::new("the flags of a memoryPolicy are set", POLICY, Level::Must, |fixture| {
        let policy = json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] });
        self::policy(fixture, policy, "bind=static:0")
    })
    .on(NUMA),
    Case::new("a memoryPolicy that is not known is refused", POLICY, Level::Must, |fixture| {
        policy_refused(fixture, json!({ "mode": "MPOL_ELSEWHERE", "nodes": "0" }))
    })
    .on(NUMA),
    Case::new("a memoryPolicy that needs nodes and has none is refused", POLICY, Level::Must, |fixture| {
        policy_refused(fixture, json!({ "mode": "MPOL_BIND" }))
    })
    .on(NUMA),
    Case::new("a memoryPolicy of a node that the host does not have is refused", POLICY, Level::Must, |fixture| {
        policy_refused(fixture, json!({ "mode": "MPOL_BIND", "nodes": "63" }))
    })
    .on(NUMA),
    Case::new("a flag of a memoryPolicy that is not known is refused", POLICY, Level::Must, |fixture| {
        policy_refused(fixture, json!({ "mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_FAST"] }))
    })
    .on(NUMA),
    Case::new("a sysctl of the network namespace is set", SYSCTL, Level::Must, network),
    Case::new("a sysctl of the ipc namespace is set", SYSCTL, Level::Must, ipc),
    Case::new("a sysctl with slashes in its name is set", SYSCTL, Level::Runc, slashes),
    Case::new("sysctls are set where /proc/sys is read-only", SYSCTL, Level::Must, readonly),
    Case::new("a sysctl of the whole host is refused", SYSCTL, Level::Runc, of_the_host),
    Case::new(
        "a sysctl of a namespace that the container shares with the host is refused",
        SYSCTL,
        Level::Runc,
        shared,
    ),
    Case::new("a sysctl that is not there is refused", SYSCTL, Level::Must, missing),
    Case::new("a value that a sysctl does not accept is refused", SYSCTL, Level::Must, bad_value),
];

fn rdt_refused(fixture: &Fixture, rdt: Value) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/intelRdt", rdt)).map(drop)
}

fn no_resctrl(fixture: &Fixture) -> anyhow::Result<()> {
    rdt_refused(fixture, json!({ "closID": "spec", "l3CacheSchema": "L3:0=f" }))?;
    rdt_refused(fixture, json!({ "closID": "spec" }))
}

/// The policy of a mapping that has none of its own is its process's, and the second word of its line (proc(5)).
fn policy(fixture: &Fixture, policy: Value, expected: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/memoryPolicy", policy);
    let text = fixture.attempts(&mut bundle, &["read /proc/self/numa_maps"])?.concat();
    let text = text.strip_prefix("ok ").with_context(|| format!("numa_maps: {text}"))?;
    let heap = text.split("\\n").find(|line| line.contains(" heap")).context("numa_maps has no line of the heap")?;
    let (_, rest) = heap.split_once(' ').context("a line of numa_maps has several words")?;
    let is_it = rest.strip_prefix(expected).is_some_and(|rest| rest.starts_with(' '));
    ensure!(is_it, "the heap's policy: expected {expected}, found {rest}");
    Ok(())
}

fn policy_refused(fixture: &Fixture, policy: Value) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/memoryPolicy", policy)).map(drop)
}

/// Sets `name` and reads `path`.
fn set(fixture: &Fixture, name: &str, value: &str, path: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut sysctl = json!({});
    sysctl[name] = json!(value);
    bundle.set("/linux/sysctl", sysctl);
    let found = fixture.attempts(&mut bundle, &[&format!("read {path}")])?;
    let expected = format!("ok {value}");
    ensure!(found[0] == expected, "{path}: expected {value}, found {found:?}");
    Ok(())
}

fn network(fixture: &Fixture) -> anyhow::Result<()> {
    set(fixture, "net.ipv4.ip_forward", "1", "/proc/sys/net/ipv4/ip_forward")?;
    set(fixture, "net.ipv4.ip_local_port_range", "2000\t3000", "/proc/sys/net/ipv4/ip_local_port_range")
}

fn ipc(fixture: &Fixture) -> anyhow::Result<()> {
    set(fixture, "kernel.msgmax", "4321", "/proc/sys/kernel/msgmax")?;
    set(fixture, "fs.mqueue.msg_max", "17", "/proc/sys/fs/mqueue/msg_max")
}

fn slashes(fixture: &Fixture) -> anyhow::Result<()> {
    set(fixture, "net/ipv4/conf/lo/forwarding", "1", "/proc/sys/net/ipv4/conf/lo/forwarding")
}

fn readonly(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/sysctl", json!({ "kernel.msgmax": "4321" })).set("/linux/readonlyPaths", json!(["/proc/sys"]));
    let found = fixture.attempts(&mut bundle, &["read /proc/sys/kernel/msgmax", "write /proc/sys/kernel/msgmax 1"])?;
    ensure!(found == ["ok 4321", "EROFS"], "msgmax: expected 4321 and EROFS, found {found:?}");
    Ok(())
}

fn refused(fixture: &Fixture, sysctl: Value) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/sysctl", sysctl)).map(drop)
}

/// The value is what the host has, so that a runtime that takes it does no harm.
fn of_the_host(fixture: &Fixture) -> anyhow::Result<()> {
    let value = std::fs::read_to_string("/proc/sys/vm/overcommit_memory")?;
    refused(fixture, json!({ "vm.overcommit_memory": value.trim() }))
}

fn shared(fixture: &Fixture) -> anyhow::Result<()> {
    let value = std::fs::read_to_string("/proc/sys/kernel/msgmax")?;
    let mut bundle = fixture.bundle()?;
    bundle.without_namespace("ipc").set("/linux/sysctl", json!({ "kernel.msgmax": value.trim() }));
    fixture.refused(&bundle).map(drop)
}

fn missing(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "net.ipv4.nothing": "1" }))
}

fn bad_value(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "kernel.msgmax": "many" }))
}
