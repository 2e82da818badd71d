//! runtime.md, Lifecycle: the outcome for a container whose hooks fail.

use anyhow::{Context, ensure};

use crate::harness::{Bundle, Case, Container, Fixture, Level};

const SECTION: &str = "runtime.md#lifecycle";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a prestart hook that fails fails create", SECTION, Level::Must, |fixture| {
        fails_create(fixture, "prestart")
    }),
    Case::new("a prestart hook that fails has poststop hooks called", SECTION, Level::Must, |fixture| {
        poststop_follows_create(fixture, "prestart")
    }),
    Case::new("a createRuntime hook that fails fails create", SECTION, Level::Must, |fixture| {
        fails_create(fixture, "createRuntime")
    }),
    Case::new("a createRuntime hook that fails has poststop hooks called", SECTION, Level::Must, |fixture| {
        poststop_follows_create(fixture, "createRuntime")
    }),
    Case::new("a createContainer hook that fails fails create", SECTION, Level::Must, |fixture| {
        fails_create(fixture, "createContainer")
    }),
    Case::new("a createContainer hook that fails has poststop hooks called", SECTION, Level::Must, |fixture| {
        poststop_follows_create(fixture, "createContainer")
    }),
    Case::new(
        "a startContainer hook that fails fails start, and the program is not run",
        SECTION,
        Level::Must,
        |fixture| fails_start(fixture, "startContainer"),
    ),
    Case::new("a startContainer hook that fails stops the container", SECTION, Level::Must, |fixture| {
        stops(fixture, "startContainer")
    }),
    Case::new(
        "a startContainer hook that fails has the container destroyed, and poststop hooks called",
        SECTION,
        Level::Must,
        |fixture| destroys(fixture, "startContainer"),
    ),
    Case::new("a poststart hook that fails fails start", SECTION, Level::Must, |fixture| {
        fails_start(fixture, "poststart")
    }),
    Case::new("a poststart hook that fails stops the container", SECTION, Level::Must, |fixture| {
        stops(fixture, "poststart")
    }),
    Case::new(
        "a poststart hook that fails has the container destroyed, and poststop hooks called",
        SECTION,
        Level::Must,
        |fixture| destroys(fixture, "poststart"),
    ),
    Case::new("a poststop hook that fails does not fail delete", SECTION, Level::Must, |fixture| {
        poststop(fixture).map(drop)
    }),
    Case::new("poststop hooks are called after one that failed", "runtime.md#warnings", Level::Must, |fixture| {
        let found = poststop(fixture)?;
        ensure!(found == ["failing", "next"], "expected the hook that fails and the next, found {found:?}");
        Ok(())
    }),
];

/// Two hooks of this kind, of which the first fails; and a poststop hook.
fn bundle(fixture: &Fixture, kind: &str) -> anyhow::Result<Bundle> {
    let mut bundle = fixture.bundle()?;
    bundle.hook(kind, "failing", &["exit", "3"]).hook(kind, "next", &[]).hook("poststop", "poststop", &[]);
    bundle.args(&["/probe", "wait"]);
    Ok(bundle)
}

fn fails_create(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let bundle = bundle(fixture, kind)?;
    fixture.refused(&bundle)?;
    let found = bundle.called()?;
    ensure!(found.first().is_some_and(|name| name == "failing"), "expected the hook to be called, found {found:?}");
    ensure!(!found.contains(&"next".to_owned()), "expected no {kind} hook after the one that failed, found {found:?}");
    Ok(())
}

fn poststop_follows_create(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let bundle = bundle(fixture, kind)?;
    fixture.refused(&bundle)?;
    let found = bundle.called()?;
    ensure!(found == ["failing", "poststop"], "expected the hook that fails, then poststop; found {found:?}");
    Ok(())
}

/// A container whose start has just failed.
fn failed<'a>(fixture: &'a Fixture, bundle: &Bundle) -> anyhow::Result<Container<'a>> {
    let container = fixture.create(bundle)?;
    container.call("start", &[])?.refused().context("start")?;
    Ok(container)
}

fn fails_start(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = bundle(fixture, kind)?;
    if kind == "startContainer" {
        bundle.args(&["/probe", "record", "/log"]);
    }
    failed(fixture, &bundle)?;
    let found = bundle.called()?;
    ensure!(found.first().is_some_and(|name| name == "failing"), "expected the hook to be called, found {found:?}");
    ensure!(!found.contains(&"/probe".to_owned()), "expected that the program does not run, found {found:?}");
    Ok(())
}

fn stops(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let bundle = bundle(fixture, kind)?;
    let container = fixture.create(&bundle)?;
    // Another case checks whether start fails.
    container.call("start", &[])?;
    if kind == "startContainer" {
        // Start may be over before the hook is.
        return container.wait().map(drop);
    }
    let state = container.call("state", &[])?;
    let stopped = state.code != 0 || state.stdout.contains("\"stopped\"");
    ensure!(stopped, "when start has returned: expected the container stopped, found {}", state.stdout);
    Ok(())
}

fn destroys(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let bundle = bundle(fixture, kind)?;
    let container = failed(fixture, &bundle)?;
    let state = container.call("state", &[])?;
    ensure!(state.code != 0, "the container after start has failed: expected none, found {}", state.stdout);
    let found = bundle.called()?;
    ensure!(found.last().is_some_and(|name| name == "poststop"), "expected poststop hooks at the end, found {found:?}");
    Ok(())
}

/// Deletes a container whose first poststop hook fails; which hooks were called.
fn poststop(fixture: &Fixture) -> anyhow::Result<Vec<String>> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("poststop", "failing", &["exit", "3"]).hook("poststop", "next", &[]);
    bundle.args(&["/probe", "exit", "0"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    container.call("state", &[])?.refused().context("state after delete")?;
    bundle.called()
}
