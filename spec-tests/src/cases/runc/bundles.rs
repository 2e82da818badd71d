//! Invalid bundles: each is refused, with runc's text where callers match it.

use std::fs;

use serde_json::{Value, json};

use super::RUNC;
use crate::harness::{Case, Fixture, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
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
    case("a hook that fails is reported as by runc", hooks),
];

fn absent(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.each(|side| Ok(fs::write(side.directory().join("file"), "")?))?;
    for verb in ["create", "run", "run -d", "restore"] {
        for place in ["{dir}", "{dir}/none", "{dir}/file", "none"] {
            both.line(&format!("{verb} -b {place} {{id}}"))?;
        }
        both.line(&format!("{verb} {{id}}"))?;
    }
    both.each(|side| Ok(fs::remove_dir_all(side.bundle.path().join("rootfs"))?))?;
    both.done("create without a root directory", |side| side.call(&["create", "-b", "{bundle}", "{id}"]))?;
    both.line("state {id}")?.equal()
}

fn malformed(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    for (name, text) in [
        ("nothing", ""),
        ("a word", "config"),
        ("half an object", "{\"ociVersion\": \"1.0.2\""),
        ("a list", "[]"),
        ("a number", "1"),
        ("an empty object", "{}"),
        ("a comma too many", "{\"ociVersion\": \"1.0.2\",}"),
    ] {
        both.each(|side| Ok(fs::write(side.bundle.path().join("config.json"), text)?))?;
        both.done(&format!("create of {name}"), |side| side.call(&["create", "-b", "{bundle}", "{id}"]))?;
    }
    both.line("state {id}")?.equal()
}

/// Each change of a good configuration by itself.
fn refused(fixture: &Fixture, changes: &[(&str, Value)]) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    for (pointer, value) in changes {
        let mut before = Vec::new();
        both.bundle(|bundle| {
            before.push(bundle.config.clone());
            bundle.set(pointer, value.clone());
        })?;
        both.done(&format!("create with {pointer} {value}"), |side| side.call(&["create", "-b", "{bundle}", "{id}"]))?;
        both.line("delete -f {id}")?;
        let mut before = before.into_iter();
        both.bundle(|bundle| bundle.config = before.next().unwrap_or_default())?;
    }
    both.equal()
}

fn types(fixture: &Fixture) -> anyhow::Result<()> {
    refused(
        fixture,
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

fn values(fixture: &Fixture) -> anyhow::Result<()> {
    refused(
        fixture,
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

fn host_values(fixture: &Fixture) -> anyhow::Result<()> {
    refused(
        fixture,
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

fn programs(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    for program in ["none", "/none", "/tmp", "./none", "/none/below", ""] {
        both.bundle(|bundle| {
            bundle.args(&[program]);
        })?;
        both.done(&format!("create of {program:?}"), |side| side.call(&["create", "-b", "{bundle}", "{id}"]))?;
        both.line("delete -f {id}")?;
        both.done(&format!("run of {program:?}"), |side| side.call(&["run", "-b", "{bundle}", "{id}"]))?;
    }
    both.line("state {id}")?.equal()
}

fn mounts(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
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
        both.bundle(|bundle| {
            before.push(bundle.config.clone());
            bundle.mount(destination, kind, source, options);
        })?;
        let name = format!("create with a mount of {kind:?} {source} at {destination} {options:?}");
        both.done(&name, |side| side.call(&["create", "-b", "{bundle}", "{id}"]))?.line("delete -f {id}")?;
        let mut before = before.into_iter();
        both.bundle(|bundle| bundle.config = before.next().unwrap_or_default())?;
    }
    both.equal()
}

fn hooks(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"] {
        for (path, args) in [("/bin/false", json!(["false"])), ("/no/such/hook", Value::Null)] {
            both.bundle(|bundle| {
                bundle.args(&["/probe", "exit", "0"]).set("/hooks", json!({ kind: [{ "path": path, "args": args }] }));
            })?;
            let name = format!("run with the {kind} hook {path}");
            both.done(&name, |side| side.call(&["run", "-b", "{bundle}", "{id}"]))?.line("state {id}")?;
        }
    }
    both.equal()
}
