//! Where each kind of hook is looked for and runs: in the runtime's namespaces, or in the container's.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::json;

use super::entries::life;
use crate::harness::{Case, Fixture, Level, wait_until};

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("prestart hooks run in the runtime's namespaces", "config.md#prestart", Level::Must, |fixture| {
        in_runtime(fixture, "prestart")
    }),
    Case::new(
        "createRuntime hooks run in the runtime's namespaces",
        "config.md#createruntime-hooks",
        Level::Must,
        |fixture| in_runtime(fixture, "createRuntime"),
    ),
    Case::new(
        "createContainer hooks run in the container's namespaces",
        "config.md#createcontainer-hooks",
        Level::Must,
        |fixture| in_container(fixture, "createContainer"),
    ),
    Case::new(
        "createContainer hooks are found by the runtime's files",
        "config.md#createcontainer-hooks",
        Level::Must,
        host_program,
    ),
    Case::new(
        "startContainer hooks run in the container's namespaces",
        "config.md#startcontainer-hooks",
        Level::Must,
        |fixture| in_container(fixture, "startContainer"),
    ),
    Case::new(
        "startContainer hooks run in the container's root",
        "config.md#startcontainer-hooks",
        Level::Must,
        inside_root,
    ),
    Case::new(
        "startContainer hooks are found in the container alone",
        "config.md#startcontainer-hooks",
        Level::Must,
        not_host_program,
    ),
    Case::new("poststart hooks run in the runtime's namespaces", "config.md#poststart", Level::Must, |fixture| {
        in_runtime(fixture, "poststart")
    }),
    Case::new("poststop hooks run in the runtime's namespaces", "config.md#poststop", Level::Must, |fixture| {
        in_runtime(fixture, "poststop")
    }),
];

const NAMES: [&str; 5] = ["pid", "net", "ipc", "uts", "mnt"];

fn namespaces(directory: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let link = |name: &str| {
        let text = std::fs::read_link(format!("{directory}/{name}"))?.to_string_lossy().into_owned();
        Ok((name.to_owned(), text))
    };
    NAMES.into_iter().map(link).collect()
}

fn in_runtime(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    life(fixture, bundle.hook(kind, kind, &[]))?;
    let record = bundle.record(kind)?;
    let own = namespaces("/proc/self/ns")?;
    for name in NAMES {
        let (wanted, found) = (&own[name], &record.namespaces[name]);
        ensure!(wanted == found, "the {name} namespace of {kind}: expected the caller's {wanted}, found {found}");
    }
    ensure!(
        !record.root.contains(&"probe".to_owned()),
        "the root of {kind}: expected the caller's, found {:?}",
        record.root
    );
    Ok(())
}

fn in_container(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook(kind, kind, &[]).args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let inside = namespaces(&container.proc("ns"))?;
    container.start()?;
    wait_until("the hook's record", || Ok((!bundle.called()?.is_empty()).then_some(())))?;
    let record = bundle.record(kind)?;
    for name in NAMES {
        let (wanted, found) = (&inside[name], &record.namespaces[name]);
        ensure!(wanted == found, "the {name} namespace of {kind}: expected the container's {wanted}, found {found}");
    }
    Ok(())
}

fn host_program(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let program = bundle.path().join("hook-program");
    std::fs::rename(bundle.rootfs("/probe"), &program)?;
    std::fs::copy(&program, bundle.rootfs("/probe"))?;
    let mut entry = bundle.hook_entry("createContainer", "hook", &[]);
    entry["path"] = json!(program);
    life(fixture, bundle.push("/hooks/createContainer", entry))?;
    bundle.record("hook").map(drop)
}

fn inside_root(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("startContainer", "hook", &[]);
    life(fixture, &mut bundle)?;
    let found = bundle.record("hook")?.root;
    ensure!(found.contains(&"probe".to_owned()), "the hook's root: expected the container's, found {found:?}");
    Ok(())
}

fn not_host_program(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut entry = bundle.hook_entry("startContainer", "hook", &[]);
    entry["path"] = json!(bundle.rootfs("/probe"));
    bundle.push("/hooks/startContainer", entry).args(&["/probe", "record", "/log"]);
    bundle.write()?;
    let id = fixture.id();
    let created = fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id])?;
    if created.code == 0 {
        fixture.call(&["start", &id])?;
        wait_until("the container's end", || {
            let state = fixture.call(&["state", &id])?;
            Ok((state.code != 0 || state.stdout.contains("\"stopped\"")).then_some(()))
        })?;
    }
    let found = bundle.called()?;
    ensure!(found.is_empty(), "a program that only the host has, and the container's after it: found {found:?}");
    Ok(())
}
