//! runtime.md, Operations: create, start and delete.

use anyhow::{Context, ensure};

use crate::harness::{Bundle, Case, Container, Fixture, Level};

const CREATE: &str = "runtime.md#create";
const START: &str = "runtime.md#start";
const DELETE: &str = "runtime.md#delete";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("create without an id is an error", CREATE, Level::Must, create_without_id),
    Case::new("create without a bundle is an error", CREATE, Level::Must, create_without_bundle),
    Case::new(
        "create with an id that is in use is an error, and the container is as before",
        CREATE,
        Level::Must,
        used_id,
    ),
    Case::new("create with an invalid id is an error", CREATE, Level::Must, |fixture| {
        bad_id(fixture, &["", ".", "..", "a/b"])
    }),
    Case::new("an id does not lead out of the runtime's root", CREATE, Level::Security, |fixture| {
        bad_id(fixture, &["../escape", "/absolute"])
    }),
    Case::new("an id is made of letters, digits, and _ + - . alone", "runc: create", Level::Runc, |fixture| {
        bad_id(fixture, &["a b", "ümlaut", "a\nb"])
    }),
    Case::new("create makes a new container", CREATE, Level::Must, creates),
    Case::new("create that cannot apply a property is an error", CREATE, Level::Must, inapplicable),
    Case::new("start without an id is an error", START, Level::Must, |fixture| {
        fixture.call(&["start"])?.refused().map(drop)
    }),
    Case::new("start of a container that is not there is an error", START, Level::Must, |fixture| {
        fixture.call(&["start", "of-nobody"])?.refused().map(drop)
    }),
    Case::new(
        "start of a running container is an error, and the container continues",
        START,
        Level::Must,
        start_running,
    ),
    Case::new("start of a stopped container is an error, and it stays stopped", START, Level::Must, start_stopped),
    Case::new("a container without a process is not started", START, Level::Must, without_process),
    Case::new("delete without an id is an error", DELETE, Level::Must, |fixture| {
        fixture.call(&["delete"])?.refused().map(drop)
    }),
    Case::new("delete of a container that is not there is an error", DELETE, Level::Must, |fixture| {
        fixture.call(&["delete", "of-nobody"])?.refused().map(drop)
    }),
    Case::new(
        "delete of a running container is an error, and the container continues",
        DELETE,
        Level::Must,
        delete_running,
    ),
    Case::new("delete removes the container's state", DELETE, Level::Must, deletes),
    Case::new("delete leaves resources that the container did not make", DELETE, Level::Must, leaves),
    Case::new("an id can be used again after delete", DELETE, Level::Must, id_again),
];

fn create_without_id(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy()])?.refused().map(drop)
}

/// The current directory, which the command line falls back to, is no bundle.
fn create_without_bundle(fixture: &Fixture) -> anyhow::Result<()> {
    let id = fixture.id();
    fixture.call(&["create", &id])?.refused()?;
    fixture.call(&["create", "--bundle", "/nowhere/at/all", &id])?.refused()?;
    fixture.call(&["state", &id])?.refused().context("state").map(drop)
}

fn waiting(fixture: &Fixture) -> anyhow::Result<(Bundle, Container<'_>)> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    Ok((bundle, container))
}

fn used_id(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, container) = waiting(fixture)?;
    let before = container.state()?;
    let other = fixture.bundle()?;
    other.write()?;
    fixture.call(&["create", "--bundle", &other.path().to_string_lossy(), container.id()])?.refused()?;
    let after = container.state()?;
    ensure!(before == after, "the state of the first: expected {before}, found {after}");
    container.exec(&["/probe", "exit", "0"])?.ok().context("a program in the first").map(drop)
}

fn bad_id(fixture: &Fixture, ids: &[&str]) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    for id in ids {
        let done = fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy(), id])?;
        if done.code == 0 {
            fixture.call(&["delete", "--force", id])?;
        }
        done.refused().with_context(|| format!("the id {id:?}"))?;
    }
    let outside = fixture.root().parent().map(|parent| parent.join("escape"));
    ensure!(
        !outside.is_some_and(|path| path.exists()),
        "the id ../escape: found a directory beside the runtime's root"
    );
    Ok(())
}

fn creates(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]);
    let (first, second) = (fixture.create(&bundle)?, fixture.create(&fixture.bundle()?)?);
    ensure!(first.pid() != second.pid(), "two containers: expected two processes, found {}", first.pid());
    Ok(())
}

fn inapplicable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/sysctl", serde_json::json!({ "net.no.such.thing": "1" }))).map(drop)
}

fn start_running(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, container) = waiting(fixture)?;
    let before = container.state()?;
    container.call("start", &[])?.refused()?;
    let after = container.state()?;
    ensure!(before == after, "the state: expected {before} as before, found {after}");
    Ok(())
}

fn stopped<'a>(fixture: &'a Fixture, bundle: &mut Bundle) -> anyhow::Result<Container<'a>> {
    bundle.args(&["/probe", "record", "/log"]);
    let container = fixture.create(bundle)?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    Ok(container)
}

fn start_stopped(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = stopped(fixture, &mut bundle)?;
    container.call("start", &[])?.refused()?;
    let status = container.status()?;
    ensure!(status == "stopped", "the status: expected stopped still, found {status}");
    let runs = bundle.called()?.len();
    ensure!(runs == 1, "the program: expected that it ran once, found {runs} records of it");
    Ok(())
}

fn without_process(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.remove("/process").write()?;
    let id = fixture.id();
    let created = fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id])?;
    // The specification allows create to make such a container, but it cannot be started.
    let started = (created.code == 0).then(|| fixture.call(&["start", &id])).transpose()?;
    started.map_or(Ok(()), |done| done.refused().map(drop))
}

fn delete_running(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, container) = waiting(fixture)?;
    let before = container.state()?;
    container.call("delete", &[])?.refused()?;
    let after = container.state()?;
    ensure!(before == after, "the state: expected {before} as before, found {after}");
    container.exec(&["/probe", "exit", "0"])?.ok().context("a program in it").map(drop)
}

fn deletes(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = stopped(fixture, &mut bundle)?;
    container.delete()?;
    container.call("state", &[])?.refused()?;
    container.call("delete", &[])?.refused().context("a second delete").map(drop)
}

fn leaves(fixture: &Fixture) -> anyhow::Result<()> {
    let (_, first) = waiting(fixture)?;
    let mut bundle = fixture.bundle()?;
    let shared = bundle.path().join("shared");
    std::fs::create_dir(&shared)?;
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        bundle.namespace(kind, Some(&first.proc(&format!("ns/{file}"))));
    }
    bundle.remove("/hostname").mount("/tmp", "bind", &shared.to_string_lossy(), &["bind"]);
    let second = stopped(fixture, &mut bundle)?;
    std::fs::write(shared.join("mark"), "")?;
    second.delete()?;
    let status = first.status()?;
    ensure!(status == "running", "the container whose namespaces were joined: expected it running, found it {status}");
    first.exec(&["/probe", "facts"])?.ok().context("a program in it")?;
    ensure!(
        shared.join("mark").exists() && bundle.rootfs("/probe").exists(),
        "the bundle's files: expected them there"
    );
    Ok(())
}

fn id_again(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = stopped(fixture, &mut bundle)?;
    container.delete()?;
    let path = bundle.path().to_string_lossy().into_owned();
    fixture.call(&["run", "--bundle", &path, container.id()])?.ok().map(drop)
}
