//! runtime.md, State and Query State.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Container, Fixture, Level, wait_until};

const SECTION: &str = "runtime.md#state";
const QUERY: &str = "runtime.md#query-state";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("the state has every required property, each of its type", SECTION, Level::Must, schema),
    Case::new("the state's ociVersion is a release of the specification", SECTION, Level::Must, version),
    Case::new("the state's id is the one that create was given", SECTION, Level::Must, id),
    Case::new("the status is created once create has returned", SECTION, Level::Must, |fixture| {
        status(fixture, "created")
    }),
    Case::new("the status is running once start has returned", SECTION, Level::Must, |fixture| {
        status(fixture, "running")
    }),
    Case::new("the status is stopped once the program has exited", SECTION, Level::Must, |fixture| {
        status(fixture, "stopped")
    }),
    Case::new("the status is stopped when a created container was killed", SECTION, Level::Must, killed_before_start),
    Case::new("the status is derived from the process, whatever killed it", SECTION, Level::Must, ended_by_others),
    Case::new("the state's pid is the container's process", SECTION, Level::Must, pid),
    Case::new("the state's bundle is absolute, however create was given it", SECTION, Level::Must, bundle_path),
    Case::new("the state's annotations are the configuration's", SECTION, Level::Must, annotations),
    Case::new("the state's annotations without any are absent or empty", SECTION, Level::Must, no_annotations),
    Case::new("the states of two containers are their own", SECTION, Level::Must, two),
    Case::new("state without an id is an error", QUERY, Level::Must, |fixture| {
        fixture.call(&["state"])?.refused().map(drop)
    }),
    Case::new("state of a container that is not there is an error", QUERY, Level::Must, |fixture| {
        fixture.call(&["state", "of-nobody"])?.refused().map(drop)
    }),
];

/// Takes a new container as far as this status.
fn until<'a>(fixture: &'a Fixture, bundle: &mut Bundle, status: &str) -> anyhow::Result<Container<'a>> {
    bundle.args(&["/probe", "wait"]);
    let container = fixture.create(bundle)?;
    if status != "created" {
        container.start()?;
    }
    if status == "stopped" {
        container.kill("KILL")?;
        container.wait()?;
        container.wait_status("stopped")?;
    }
    Ok(container)
}

/// By schema/state-schema.json.
fn schema(fixture: &Fixture) -> anyhow::Result<()> {
    for status in ["created", "running", "stopped"] {
        let mut bundle = fixture.bundle()?;
        bundle.set("/annotations", json!({ "org.example.key": "value" }));
        let state = until(fixture, &mut bundle, status)?.state()?;
        for name in ["ociVersion", "id", "status", "bundle"] {
            ensure!(state[name].is_string(), "{name} when {status}: expected a string, found {state}");
        }
        let known = ["creating", "created", "running", "stopped"];
        ensure!(state["status"].as_str().is_some_and(|word| known.contains(&word)), "the status: found {state}");
        ensure!(
            state["pid"].is_null() || state["pid"].is_u64(),
            "pid when {status}: expected none or a number, found {state}"
        );
        let strings = |map: &serde_json::Map<String, Value>| map.values().all(Value::is_string);
        ensure!(state["annotations"].as_object().is_some_and(strings), "annotations: expected strings, found {state}");
    }
    Ok(())
}

fn version(fixture: &Fixture) -> anyhow::Result<()> {
    let state = until(fixture, &mut fixture.bundle()?, "created")?.state()?;
    let text = state["ociVersion"].as_str().context("no ociVersion")?;
    let numbers: Vec<_> = text.split(['-', '+']).next().unwrap_or("").split('.').map(str::parse::<u32>).collect();
    ensure!(numbers.len() == 3 && numbers.iter().all(Result::is_ok), "ociVersion: expected x.y.z, found {text}");
    Ok(())
}

fn id(fixture: &Fixture) -> anyhow::Result<()> {
    let container = until(fixture, &mut fixture.bundle()?, "created")?;
    let found = container.state()?["id"].clone();
    ensure!(found == container.id(), "the id: expected {}, found {found}", container.id());
    Ok(())
}

fn status(fixture: &Fixture, wanted: &str) -> anyhow::Result<()> {
    let found = until(fixture, &mut fixture.bundle()?, wanted)?.status()?;
    ensure!(found == wanted, "the status: expected {wanted}, found {found}");
    Ok(())
}

fn killed_before_start(fixture: &Fixture) -> anyhow::Result<()> {
    let container = until(fixture, &mut fixture.bundle()?, "created")?;
    container.kill("KILL")?;
    container.wait()?;
    container.wait_status("stopped")
}

fn ended_by_others(fixture: &Fixture) -> anyhow::Result<()> {
    let container = until(fixture, &mut fixture.bundle()?, "running")?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(container.pid()), nix::sys::signal::Signal::SIGKILL)?;
    container.wait()?;
    let found = container.status()?;
    ensure!(found == "stopped", "the status after a kill(2) from outside: expected stopped, found {found}");
    Ok(())
}

fn pid(fixture: &Fixture) -> anyhow::Result<()> {
    for status in ["created", "running"] {
        let mut bundle = fixture.bundle()?;
        let container = until(fixture, &mut bundle, status)?;
        let pid = container.state()?["pid"].as_i64().with_context(|| format!("no pid when {status}"))?;
        let root = std::fs::read_link(format!("/proc/{pid}/ns/mnt"))?;
        let own = std::fs::read_link("/proc/self/ns/mnt")?;
        ensure!(
            root != own,
            "the process {pid} when {status}: expected the container's, found one in our mount namespace"
        );
        let inside = Path::new(&format!("/proc/{pid}/root/probe")).exists();
        ensure!(inside, "the root of the process {pid} when {status}: expected the container's");
        if status == "running" {
            // Start may be over before the exec is.
            wait_until("the program's argv", || {
                let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
                Ok((words == "/probe\0wait\0").then_some(()))
            })?;
        }
    }
    Ok(())
}

fn bundle_path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]).write()?;
    let name = bundle.path().file_name().context("a bundle's name")?.to_string_lossy().into_owned();
    for given in [name.clone(), format!("./{name}"), format!("../cases/{name}")] {
        let id = fixture.id();
        fixture.call(&["create", "--bundle", &given, &id])?.ok()?;
        let state: Value = serde_json::from_str(&fixture.call(&["state", &id])?.ok()?.stdout)?;
        fixture.call(&["delete", "--force", &id])?.ok()?;
        let found = state["bundle"].as_str().context("no bundle")?;
        ensure!(
            Path::new(found).is_absolute(),
            "bundle for --bundle {given}: expected an absolute path, found {found}"
        );
        let same = std::fs::canonicalize(found)? == std::fs::canonicalize(bundle.path())?;
        ensure!(same, "bundle for --bundle {given}: expected {}, found {found}", bundle.path().display());
    }
    Ok(())
}

fn annotations(fixture: &Fixture) -> anyhow::Result<()> {
    let wanted = json!({ "org.example.key": "value", "org.example.other": "a \"quoted\" ü\n" });
    for status in ["created", "running", "stopped"] {
        let mut bundle = fixture.bundle()?;
        bundle.set("/annotations", wanted.clone());
        let found = until(fixture, &mut bundle, status)?.state()?["annotations"].clone();
        ensure!(found == wanted, "annotations when {status}: expected {wanted}, found {found}");
    }
    Ok(())
}

fn no_annotations(fixture: &Fixture) -> anyhow::Result<()> {
    let found = until(fixture, &mut fixture.bundle()?, "created")?.state()?["annotations"].clone();
    let empty = found.as_object().is_some_and(serde_json::Map::is_empty);
    ensure!(found.is_null() || empty, "annotations: expected none, found {found}");
    Ok(())
}

fn two(fixture: &Fixture) -> anyhow::Result<()> {
    let first = until(fixture, &mut fixture.bundle()?, "running")?;
    let second = until(fixture, &mut fixture.bundle()?, "created")?;
    let (one, other) = (first.state()?, second.state()?);
    ensure!(
        one["status"] == "running" && other["status"] == "created",
        "expected running and created, found {one} {other}"
    );
    ensure!(
        one["pid"] != other["pid"] && one["bundle"] != other["bundle"],
        "expected two processes, found {one} {other}"
    );
    second.kill("KILL")?;
    second.wait()?;
    second.wait_status("stopped")?;
    let found = first.status()?;
    ensure!(found == "running", "the first one after the second was killed: expected running, found {found}");
    Ok(())
}
