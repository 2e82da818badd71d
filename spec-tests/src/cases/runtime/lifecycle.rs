//! runtime.md, Scope of a Container and Lifecycle: the steps in their order.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, KINDS, Level};

const SECTION: &str = "runtime.md#lifecycle";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new(
        "the user who created a container can use every operation on it",
        "runtime.md#scope-of-a-container",
        Level::Must,
        scope,
    ),
    Case::new("create makes the namespaces and mounts", SECTION, Level::Must, environment),
    Case::new("create makes the cgroup, and puts the process into it", SECTION, Level::Must, cgroup),
    Case::new("create does not run the program", SECTION, Level::Must, not_run),
    Case::new("a config.json that is changed after create changes nothing", SECTION, Level::Must, changed),
    Case::new("a config.json that is gone after create changes nothing", SECTION, Level::Must, gone),
    Case::new("hooks that are added to config.json after create are not called", SECTION, Level::Must, added_hooks),
    Case::new("hooks of all kinds are called in the order of the lifecycle", SECTION, Level::Must, hooks),
    Case::new("start runs the program", SECTION, Level::Must, run),
    Case::new("a container that was created can be started any time later", SECTION, Level::Must, others_between),
    Case::new("delete removes the resources that create has made", SECTION, Level::Must, undone),
];

fn scope(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    container.state()?;
    container.start()?;
    container.kill("KILL")?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    fixture.call(&["state", container.id()])?.refused().map(drop)
}

fn environment(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "tmpfs", "spec", &[]).args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    for name in ["pid", "net", "ipc", "uts", "mnt"] {
        let (own, found) = (format!("/proc/self/ns/{name}"), container.proc(&format!("ns/{name}")));
        ensure!(
            fs::read_link(own)? != fs::read_link(found)?,
            "the {name} namespace: expected a new one, found our own"
        );
    }
    let mounts = fs::read_to_string(container.proc("mountinfo"))?;
    for point in ["/proc", "/dev", "/tmp"] {
        ensure!(mounts.contains(&format!(" {point} ")), "expected a mount at {point}, found {mounts}");
    }
    Ok(())
}

fn cgroup(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let directory = container.cgroup("memory")?;
    let members = fs::read_to_string(directory.join("cgroup.procs"))?;
    let pid = container.pid().to_string();
    ensure!(
        members.lines().any(|line| line == pid),
        "{}: expected {pid} in it, found {members:?}",
        directory.display()
    );
    ensure!(directory.parent() != Some(Path::new("/sys/fs/cgroup")), "the cgroup: found {}", directory.display());
    Ok(())
}

fn not_run(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "record", "/log"]);
    let container = fixture.create(&bundle)?;
    let found = container.status()?;
    ensure!(found == "created", "the status: expected created, found {found}");
    let called = bundle.called()?;
    ensure!(called.is_empty(), "expected that the program has not run, found its record {called:?}");
    container.start()?;
    container.wait()?;
    let called = bundle.called()?;
    ensure!(called == ["/probe"], "after start: expected the program's record, found {called:?}");
    Ok(())
}

fn changed(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/annotations", json!({ "org.example.key": "first" })).set("/process/env", json!(["WHICH=first"]));
    let container = fixture.create(&bundle)?;
    bundle.set("/annotations", json!({ "org.example.key": "second" })).set("/process/env", json!(["WHICH=second"]));
    bundle.set("/process/cwd", json!("/tmp")).args(&["/probe", "exit", "9"]).write()?;
    container.start()?;
    let facts = container.facts()?;
    let found = (facts.args.join(" "), facts.env.get("WHICH").cloned().unwrap_or_default(), facts.cwd);
    let wanted = ("/probe facts".to_owned(), "first".to_owned(), "/".to_owned());
    ensure!(found == wanted, "args, environment and directory: expected {wanted:?}, found {found:?}");
    let annotation = container.state()?["annotations"]["org.example.key"].clone();
    ensure!(annotation == "first", "the annotation in the state: expected first, found {annotation}");
    Ok(())
}

fn gone(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    let container = fixture.create(&bundle)?;
    fs::remove_file(bundle.path().join("config.json"))?;
    container.state()?;
    container.start()?;
    container.facts()?;
    container.wait_status("stopped")?;
    container.delete()
}

fn added_hooks(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    bundle.hook("startContainer", "first", &[]).hook("poststart", "first", &[]).hook("poststop", "first", &[]);
    let container = fixture.create(&bundle)?;
    bundle.remove("/hooks");
    for kind in ["startContainer", "poststart", "poststop"] {
        bundle.hook(kind, "second", &[]);
    }
    bundle.write()?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    let found = bundle.called()?;
    ensure!(found == ["first"; 3], "expected the three hooks that create was given, found {found:?}");
    Ok(())
}

fn hooks(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    // The program ends once poststart was called, whenever that is.
    bundle.hook_of_every_kind().args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let found = bundle.called()?;
    ensure!(found == KINDS[..3], "after create: expected {:?}, found {found:?}", &KINDS[..3]);
    container.start()?;
    let found = bundle.called()?;
    ensure!(found == KINDS[..5], "after start: expected {:?}, found {found:?}", &KINDS[..5]);
    container.kill("KILL")?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    let found = bundle.called()?;
    ensure!(found == KINDS, "after delete: expected {KINDS:?}, found {found:?}");
    Ok(())
}

fn run(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "42"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    let code = container.wait()?;
    ensure!(code == 42, "the program's exit code: expected 42, found {code}");
    Ok(())
}

fn others_between(fixture: &Fixture) -> anyhow::Result<()> {
    let first = fixture.create(&fixture.bundle()?)?;
    fixture.facts(&fixture.bundle()?)?;
    let found = first.status()?;
    ensure!(found == "created", "the status after another container's life: expected created, found {found}");
    first.start()?;
    first.facts().map(drop)
}

fn undone(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    let container = fixture.create(&bundle)?;
    let cgroup = container.cgroup("memory")?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    ensure!(!cgroup.exists(), "the cgroup: expected none, found {}", cgroup.display());
    ensure!(!fixture.root().join(container.id()).exists(), "the runtime's record: expected none, found one");
    let path = bundle.path().to_string_lossy();
    let left: Vec<_> = mounts.lines().filter(|line| line.contains(&*path)).collect();
    ensure!(left.is_empty(), "mounts of the caller below the bundle: expected none, found {left:?}");
    ensure!(
        bundle.rootfs("/probe").exists(),
        "the root file system was not created by the container: expected it there"
    );
    Ok(())
}
