//! config-linux.md, Namespaces.

use std::fs;
use std::process::{Child, Command};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Case, Container, Fixture, Level, Need, wait_until};

const SECTION: &str = "config-linux.md#namespaces";

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run)
}

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a new pid namespace", SECTION, Level::Must, |fixture| fresh(fixture, "pid")),
    Case::new("a new network namespace", SECTION, Level::Must, |fixture| fresh(fixture, "network")),
    Case::new("a new mount namespace", SECTION, Level::Must, |fixture| fresh(fixture, "mount")),
    Case::new("a new ipc namespace", SECTION, Level::Must, |fixture| fresh(fixture, "ipc")),
    Case::new("a new uts namespace", SECTION, Level::Must, |fixture| fresh(fixture, "uts")),
    Case::new("a new user namespace", SECTION, Level::Must, |fixture| fresh(fixture, "user")),
    case("a new cgroup namespace", |fixture| fresh(fixture, "cgroup")).on(&[Need::Namespace("cgroup")]),
    case("a new time namespace", |fixture| fresh(fixture, "time")).on(&[Need::Namespace("time")]),
    case("a pid namespace is joined by path", |fixture| joined(fixture, "pid")),
    case("a network namespace is joined by path", |fixture| joined(fixture, "network")),
    case("a mount namespace is joined by path", joined_mount).on(&[Need::Program("unshare")]),
    case("an ipc namespace is joined by path", |fixture| joined(fixture, "ipc")),
    case("a uts namespace is joined by path", |fixture| joined(fixture, "uts")),
    case("a user namespace is joined by path", joined_user),
    case("a cgroup namespace is joined by path", |fixture| joined(fixture, "cgroup")).on(&[Need::Namespace("cgroup")]),
    case("a time namespace is joined by path", |fixture| joined(fixture, "time")).on(&[Need::Namespace("time")]),
    case("a path to a namespace of another type is refused", other_type),
    case("a path to a file that is no namespace is refused", no_namespace),
    case("a path to no file is refused", missing),
    case("the pid namespace that is not listed is the caller's", |fixture| inherited(fixture, "pid")),
    case("the network namespace that is not listed is the caller's", |fixture| inherited(fixture, "network")),
    case("the mount namespace that is not listed is the caller's", inherited_mount).on(&[Need::Program("unshare")]),
    case("the ipc namespace that is not listed is the caller's", |fixture| inherited(fixture, "ipc")),
    case("the uts namespace that is not listed is the caller's", inherited_uts),
    case("the user namespace that is not listed is the caller's", |fixture| inherited(fixture, "user")),
    case("the cgroup namespace that is not listed is the caller's", |fixture| inherited(fixture, "cgroup"))
        .on(&[Need::Namespace("cgroup")]),
    case("the time namespace that is not listed is the caller's", |fixture| inherited(fixture, "time"))
        .on(&[Need::Namespace("time")]),
    case("a type of namespace that is listed twice is refused", twice),
    case("a type of namespace that is not known is refused", unknown),
];

/// The name in /proc/self/ns of what the specification calls `kind`.
fn file(kind: &str) -> &str {
    match kind {
        "network" => "net",
        "mount" => "mnt",
        other => other,
    }
}

fn link(path: &str) -> anyhow::Result<String> {
    Ok(fs::read_link(path).with_context(|| path.to_owned())?.display().to_string())
}

/// Which namespace init is in.
fn of(container: &Container<'_>, kind: &str) -> anyhow::Result<String> {
    link(&container.proc(&format!("ns/{}", file(kind))))
}

fn own(kind: &str) -> anyhow::Result<String> {
    link(&format!("/proc/self/ns/{}", file(kind)))
}

fn fresh(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    match kind {
        "user" => bundle.user_namespace(100_000, 65536)?,
        _ => bundle.namespace(kind, None),
    };
    let container = fixture.create(&bundle)?;
    let (found, caller) = (of(&container, kind)?, own(kind)?);
    ensure!(found != caller, "expected a {kind} namespace of its own, found the caller's, {caller}");
    let other = fixture.create(bundle.set("/linux/cgroupsPath", json!(fixture.cgroups_path("other"))))?;
    ensure!(of(&other, kind)? != found, "two containers share the {kind} namespace {found}");
    Ok(())
}

fn joined(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.namespace(kind, None);
    let holder = fixture.start(&mut bundle)?;
    let path = holder.proc(&format!("ns/{}", file(kind)));
    let mut bundle = fixture.bundle()?;
    if kind == "uts" {
        bundle.remove("/hostname");
    }
    let container = fixture.start(bundle.namespace(kind, Some(&path)))?;
    let (expected, found) = (of(&holder, kind)?, of(&container, kind)?);
    ensure!(found == expected, "the {kind} namespace: expected {expected} by its path, found {found}");
    // Whoever enters is in it too.
    let facts = container.exec_facts(&[])?;
    let found = facts.namespaces.get(file(kind)).cloned().unwrap_or_default();
    ensure!(found == expected, "the {kind} namespace of an exec: expected {expected}, found {found}");
    // The first process of a pid namespace ends only once all others there are waited for.
    container.kill("KILL")?;
    container.wait().map(drop)
}

/// A process with a mount namespace of its own, in which the bundle can be seen.
struct Holder(Child);

impl Holder {
    fn start(fixture: &Fixture) -> anyhow::Result<Holder> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]).arg(fixture.beside_probe("probe")).arg("wait");
        let child = command.spawn()?;
        let holder = Holder(child);
        let name = format!("/proc/{}/comm", holder.0.id());
        wait_until("unshare to become the probe", || {
            Ok((fs::read_to_string(&name).unwrap_or_default().trim() == "probe").then_some(()))
        })?;
        Ok(holder)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/mnt", self.0.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail only if the process has exited, and no other process could have killed it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn joined_mount(fixture: &Fixture) -> anyhow::Result<()> {
    let holder = Holder::start(fixture)?;
    let expected = link(&holder.path())?;
    let mut bundle = fixture.bundle()?;
    let container = fixture.create(bundle.namespace("mount", Some(&holder.path())))?;
    let found = of(&container, "mount")?;
    ensure!(found == expected, "the mount namespace: expected {expected} by its path, found {found}");
    Ok(())
}

fn joined_user(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?;
    let holder = fixture.start(&mut bundle)?;
    let path = holder.proc("ns/user");
    let mut bundle = fixture.bundle()?;
    // The mappings say what the namespace has; runc 1.1 wants them to know its root.
    bundle.user_namespace(100_000, 65536)?.namespace("user", Some(&path));
    let container = fixture.start(&mut bundle)?;
    let (expected, found) = (of(&holder, "user")?, of(&container, "user")?);
    ensure!(found == expected, "the user namespace: expected {expected} by its path, found {found}");
    Ok(())
}

fn other_type(fixture: &Fixture) -> anyhow::Result<()> {
    for (kind, path) in [("network", "uts"), ("uts", "ipc"), ("ipc", "net"), ("pid", "mnt"), ("mount", "net")] {
        let mut bundle = fixture.bundle()?;
        bundle.remove("/hostname").namespace(kind, Some(&format!("/proc/self/ns/{path}")));
        fixture.refused(&bundle).with_context(|| format!("{kind} with the path of a {path} namespace"))?;
    }
    Ok(())
}

fn no_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.namespace("network", Some("/proc/self/status"))).map(drop)
}

fn missing(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.namespace("network", Some("/nowhere/net"))).map(drop)
}

fn inherited(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.without_namespace(kind);
    if kind == "network" {
        // A new sysfs belongs to a network namespace of one's own.
        bundle.config["mounts"].as_array_mut().context("mounts")?.retain(|mount| mount["type"] != "sysfs");
    }
    let container = fixture.create(&bundle)?;
    let (expected, found) = (own(kind)?, of(&container, kind)?);
    ensure!(found == expected, "the {kind} namespace: expected the caller's {expected}, found {found}");
    Ok(())
}

fn inherited_uts(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.without_namespace("uts").remove("/hostname");
    let container = fixture.create(&bundle)?;
    let (expected, found) = (own("uts")?, of(&container, "uts")?);
    ensure!(found == expected, "the uts namespace: expected the caller's {expected}, found {found}");
    Ok(())
}

/// The runtime is called in a temporary mount namespace, because its mounts are visible to all processes there.
fn inherited_mount(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let proc = bundle.config["mounts"][0].clone();
    bundle.without_namespace("mount").set("/mounts", json!([proc]));
    bundle.write()?;
    let id = fixture.id();
    let pid_file = fixture.directory().join("inherited.pid");
    let runtime = fixture.command(&["create", "--bundle"]);
    let mut words = vec!["--mount".to_owned(), "--propagation".into(), "private".into(), "sh".into(), "-c".into()];
    words.push("readlink /proc/self/ns/mnt >here; \"$@\" >said 2>&1".into());
    words.push("sh".into());
    words.push(runtime.get_program().to_string_lossy().into_owned());
    words.extend(runtime.get_args().map(|word| word.to_string_lossy().into_owned()));
    words.extend([bundle.path().display().to_string(), "--pid-file".into(), pid_file.display().to_string(), id]);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = fixture.tool("unshare", &words)?;
    let said = fs::read_to_string(fixture.directory().join("said"))?;
    ensure!(done.code == 0, "create: expected exit code 0, found {}: {said}", done.code);
    let expected = fs::read_to_string(fixture.directory().join("here"))?;
    let found = link(&format!("/proc/{}/ns/mnt", fs::read_to_string(&pid_file)?.trim()))?;
    ensure!(found == expected.trim(), "the mount namespace: expected the caller's {expected}, found {found}");
    Ok(())
}

fn twice(fixture: &Fixture) -> anyhow::Result<()> {
    for kind in ["pid", "network", "mount", "ipc", "uts"] {
        let mut bundle = fixture.bundle()?;
        bundle.push("/linux/namespaces", json!({ "type": kind }));
        fixture.refused(&bundle).with_context(|| format!("two entries of type {kind}"))?;
    }
    let mut bundle = fixture.bundle()?;
    bundle.push("/linux/namespaces", json!({ "type": "network", "path": "/proc/self/ns/net" }));
    fixture.refused(&bundle).context("a new and a joined network namespace").map(drop)
}

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.namespace("space", None)).map(drop)
}
