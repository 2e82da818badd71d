//! Bundles that are wrong: each is refused, in runc's words where callers read them.

use std::fs;

use serde_json::{Value, json};

use super::RUNC;
use crate::harness::{Case, Ground, Level};

const fn case(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: bundles", Level::Runc, run).on(RUNC)
}

/// From no bundle at all to single fields.
pub const CASES: &[Case] = &[
    case("a bundle that is not there is refused as by runc", absent),
    case("a config.json that is no JSON is refused as by runc", malformed),
    case("a config.json of the wrong types is refused as by runc", types),
    case("a config.json with impossible values is refused as by runc", values),
    case("a config.json with values that the host cannot keep is refused as by runc", host_values),
    case("a program that cannot be run fails the start as runc's", programs),
    case("a mount that cannot be made fails the create as runc's", mounts),
    case("a hook that fails is told as runc tells it", hooks),
];

fn absent(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.each(|twin| Ok(fs::write(twin.directory().join("file"), "")?))?;
    for verb in ["create", "run", "run -d", "restore"] {
        for place in ["{dir}", "{dir}/none", "{dir}/file", "none"] {
            twins.line(&format!("{verb} -b {place} {{id}}"))?;
        }
        twins.line(&format!("{verb} {{id}}"))?;
    }
    twins.each(|twin| Ok(fs::remove_dir_all(twin.bundle.path().join("rootfs"))?))?;
    twins.done("create without a root directory", |twin| twin.call(&["create", "-b", "{bundle}", "{id}"]))?;
    twins.line("state {id}")?.equal()
}

fn malformed(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?;
    for (name, text) in [
        ("nothing", ""),
        ("a word", "config"),
        ("half an object", "{\"ociVersion\": \"1.0.2\""),
        ("a list", "[]"),
        ("a number", "1"),
        ("an empty object", "{}"),
        ("a comma too many", "{\"ociVersion\": \"1.0.2\",}"),
    ] {
        twins.each(|twin| Ok(fs::write(twin.bundle.path().join("config.json"), text)?))?;
        twins.done(&format!("create of {name}"), |twin| twin.call(&["create", "-b", "{bundle}", "{id}"]))?;
    }
    twins.line("state {id}")?.equal()
}

/// Each change of a good configuration by itself.
fn refused(ground: &Ground, changes: &[(&str, Value)]) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for (pointer, value) in changes {
        let mut before = Vec::new();
        twins.bundle(|bundle| {
            before.push(bundle.config.clone());
            bundle.set(pointer, value.clone());
        })?;
        twins
            .done(&format!("create with {pointer} {value}"), |twin| twin.call(&["create", "-b", "{bundle}", "{id}"]))?;
        twins.line("delete -f {id}")?;
        let mut before = before.into_iter();
        twins.bundle(|bundle| bundle.config = before.next().unwrap_or_default())?;
    }
    twins.equal()
}

fn types(ground: &Ground) -> anyhow::Result<()> {
    refused(
        ground,
        &[
            ("/process", json!("x")),
            ("/process/args", json!("x")),
            ("/process/args", json!([1])),
            ("/process/env", json!({})),
            ("/process/cwd", json!(1)),
            ("/process/user/uid", json!("root")),
            ("/process/user/uid", json!(-1)),
            ("/process/terminal", json!("yes")),
            ("/root", json!([])),
            ("/root/path", json!(1)),
            ("/mounts", json!({})),
            ("/hostname", json!(1)),
            ("/linux", json!([])),
            ("/linux/namespaces", json!({})),
            ("/annotations", json!([])),
            ("/linux/resources", json!({ "memory": { "limit": "1m" } })),
            ("/hooks", json!([])),
            ("/ociVersion", json!(1)),
        ],
    )
}

fn values(ground: &Ground) -> anyhow::Result<()> {
    refused(
        ground,
        &[
            ("/process", Value::Null),
            ("/process/args", json!([])),
            ("/process/cwd", json!("tmp")),
            ("/process/cwd", json!("")),
            ("/root", Value::Null),
            ("/root/path", json!("")),
            ("/root/path", json!("none")),
            ("/root/path", json!("config.json")),
            ("/linux/namespaces", json!([{ "type": "bogus" }])),
            ("/linux/namespaces", json!([{ "type": "pid" }, { "type": "pid" }])),
        ],
    )
}

fn host_values(ground: &Ground) -> anyhow::Result<()> {
    refused(
        ground,
        &[
            ("/linux/namespaces/0/path", json!("/none")),
            ("/linux/sysctl", json!({ "kernel.bogus": "1" })),
            ("/linux/sysctl", json!({ "vm.swappiness": "1" })),
            ("/process/rlimits", json!([{ "type": "BOGUS", "soft": 1, "hard": 1 }])),
            ("/linux/seccomp", json!({ "defaultAction": "BOGUS" })),
            ("/hostname", json!("x".repeat(65))),
            ("/ociVersion", json!("")),
            ("/ociVersion", json!("0.9.0")),
            ("/ociVersion", json!("2.0.0")),
            ("/process/oomScoreAdj", json!(2000)),
            ("/linux/rootfsPropagation", json!("bogus")),
            ("/process/apparmorProfile", json!("bogus")),
            ("/process/selinuxLabel", json!("bogus")),
            ("/linux/uidMappings", json!([{ "containerID": 0, "hostID": 0, "size": 1 }])),
        ],
    )
}

fn programs(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for program in ["none", "/none", "/tmp", "./none", "/none/below", ""] {
        twins.bundle(|bundle| {
            bundle.args(&[program]);
        })?;
        twins.done(&format!("create of {program:?}"), |twin| twin.call(&["create", "-b", "{bundle}", "{id}"]))?;
        twins.line("delete -f {id}")?;
        twins.done(&format!("run of {program:?}"), |twin| twin.call(&["run", "-b", "{bundle}", "{id}"]))?;
    }
    twins.line("state {id}")?.equal()
}

fn mounts(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for (destination, kind, source, options) in [
        ("/x", "bogus", "none", &[][..]),
        ("/x", "bind", "/no/such/source", &["bind"]),
        ("x", "tmpfs", "none", &[]),
        ("/proc/self/x", "tmpfs", "none", &[]),
        ("/x", "tmpfs", "none", &["bogus=1"]),
        ("/probe", "tmpfs", "none", &[]),
        ("/proc", "tmpfs", "none", &[]),
        ("/x", "", "/no/such/source", &["bind"]),
    ] {
        let mut before = Vec::new();
        twins.bundle(|bundle| {
            before.push(bundle.config.clone());
            bundle.mount(destination, kind, source, options);
        })?;
        let name = format!("create with a mount of {kind:?} {source} at {destination} {options:?}");
        twins.done(&name, |twin| twin.call(&["create", "-b", "{bundle}", "{id}"]))?.line("delete -f {id}")?;
        let mut before = before.into_iter();
        twins.bundle(|bundle| bundle.config = before.next().unwrap_or_default())?;
    }
    twins.equal()
}

fn hooks(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        for (path, args) in [("/bin/false", json!(["false"])), ("/no/such/hook", Value::Null)] {
            twins.bundle(|bundle| {
                bundle.args(&["/probe", "exit", "0"]).set("/hooks", json!({ kind: [{ "path": path, "args": args }] }));
            })?;
            let name = format!("run with the {kind} hook {path}");
            twins.done(&name, |twin| twin.call(&["run", "-b", "{bundle}", "{id}"]))?.line("state {id}")?;
        }
    }
    twins.equal()
}
