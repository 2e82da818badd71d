//! When each kind of hook is called.

use anyhow::{Context, ensure};

use crate::harness::{Case, Fixture, Level, wait_until};

const PRESTART: &str = "config.md#prestart";
const CREATE_RUNTIME: &str = "config.md#createruntime-hooks";
const CREATE_CONTAINER: &str = "config.md#createcontainer-hooks";
const START_CONTAINER: &str = "config.md#startcontainer-hooks";
const POSTSTART: &str = "config.md#poststart";
const POSTSTOP: &str = "config.md#poststop";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("prestart hooks are called by create", PRESTART, Level::Must, |fixture| by_create(fixture, "prestart")),
    Case::new("prestart hooks are called once the namespaces and mounts are made", PRESTART, Level::Must, |fixture| {
        after_environment(fixture, "prestart")
    }),
    Case::new("prestart hooks are called before the root is changed", PRESTART, Level::Must, |fixture| {
        before_pivot(fixture, "prestart")
    }),
    Case::new("prestart hooks are called before createRuntime hooks", PRESTART, Level::Must, |fixture| {
        before(fixture, "prestart", "createRuntime")
    }),
    Case::new("createRuntime hooks are called by create", CREATE_RUNTIME, Level::Must, |fixture| {
        by_create(fixture, "createRuntime")
    }),
    Case::new(
        "createRuntime hooks are called once the namespaces and mounts are made",
        CREATE_RUNTIME,
        Level::Must,
        |fixture| after_environment(fixture, "createRuntime"),
    ),
    Case::new("createRuntime hooks are called before the root is changed", CREATE_RUNTIME, Level::Must, |fixture| {
        before_pivot(fixture, "createRuntime")
    }),
    Case::new("createContainer hooks are called by create", CREATE_CONTAINER, Level::Must, |fixture| {
        by_create(fixture, "createContainer")
    }),
    Case::new("createContainer hooks are called after createRuntime hooks", CREATE_CONTAINER, Level::Must, |fixture| {
        before(fixture, "createRuntime", "createContainer")
    }),
    Case::new("createContainer hooks are called once the mounts are made", CREATE_CONTAINER, Level::Must, mounts_made),
    Case::new(
        "createContainer hooks are called before the root is changed",
        CREATE_CONTAINER,
        Level::Must,
        before_own_pivot,
    ),
    Case::new("startContainer hooks are called by start", START_CONTAINER, Level::Must, |fixture| {
        by_start(fixture, "startContainer")
    }),
    Case::new(
        "startContainer hooks are called before the program is run",
        START_CONTAINER,
        Level::Must,
        before_program,
    ),
    Case::new("poststart hooks are called by start", POSTSTART, Level::Must, |fixture| by_start(fixture, "poststart")),
    Case::new("poststart hooks are called once the program runs", POSTSTART, Level::Must, after_program),
    Case::new("poststop hooks are called by delete", POSTSTOP, Level::Must, by_delete),
    Case::new("poststop hooks are called once the container is gone", POSTSTOP, Level::Must, after_deletion),
];

fn by_create(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook(kind, kind, &[]).args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let found = bundle.called()?;
    ensure!(found == [kind], "after create: expected {kind} to have been called, found {found:?}");
    container.start()?;
    let found = bundle.called()?;
    ensure!(found == [kind], "after start: expected one call of {kind}, found {found:?}");
    Ok(())
}

fn after_environment(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "tmpfs", "tmpfs", &[]).hook(kind, kind, &[]).args(&["/probe", "wait"]);
    let _container = fixture.create(&bundle)?;
    let record = bundle.record(kind)?;
    let process = record.process.with_context(|| format!("{kind} sees no process of the state's pid"))?;
    for name in ["pid", "net", "ipc", "uts", "mnt"] {
        let (own, found) = (&record.namespaces[name], &process.namespaces[name]);
        ensure!(
            own != found,
            "the container's {name} namespace for {kind}: expected a new one, found the runtime's own"
        );
    }
    let rootfs = bundle.rootfs("/").display().to_string();
    for inside in ["proc", "tmp"] {
        let wanted = format!("{rootfs}{inside}");
        ensure!(
            process.mounts.contains(&wanted),
            "the container's mounts for {kind}: expected {wanted}, found {:?}",
            process.mounts
        );
    }
    Ok(())
}

fn before_pivot(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook(kind, kind, &[]).args(&["/probe", "wait"]);
    let _container = fixture.create(&bundle)?;
    let record = bundle.record(kind)?;
    let process = record.process.with_context(|| format!("{kind} sees no process of the state's pid"))?;
    ensure!(
        !process.root.contains(&"probe".to_owned()),
        "the root of the container's process for {kind}: expected the runtime's still, found {:?}",
        process.root
    );
    Ok(())
}

fn before(fixture: &Fixture, first: &str, second: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    // Listed the other way round, since the order of the kinds is not the configuration's.
    bundle.hook(second, second, &[]).hook(second, second, &[]).hook(first, first, &[]).hook(first, first, &[]);
    bundle.args(&["/probe", "wait"]);
    let _container = fixture.create(&bundle)?;
    let found = bundle.called()?;
    ensure!(found == [first, first, second, second], "expected {first} hooks before {second} hooks, found {found:?}");
    Ok(())
}

fn mounts_made(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mounted = bundle.rootfs("/tmp/mark").display().to_string();
    let source = bundle.path().join("data");
    std::fs::create_dir(&source)?;
    std::fs::write(source.join("mark"), "")?;
    bundle.mount("/tmp", "bind", &source.to_string_lossy(), &["bind"]);
    bundle.hook("createContainer", "hook", &["look", &mounted]).args(&["/probe", "wait"]);
    let _container = fixture.create(&bundle)?;
    let found = bundle.record("hook")?.present;
    ensure!(
        found[&mounted],
        "a file of a bind mount, by the root file system's path: expected it there, found {found:?}"
    );
    Ok(())
}

fn before_own_pivot(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("createContainer", "hook", &[]).args(&["/probe", "wait"]);
    let _container = fixture.create(&bundle)?;
    let found = bundle.record("hook")?.root;
    ensure!(!found.contains(&"probe".to_owned()), "the hook's root: expected the runtime's still, found {found:?}");
    Ok(())
}

fn by_start(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook(kind, kind, &[]).args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    let found = bundle.called()?;
    ensure!(found.is_empty(), "after create: expected no call yet, found {found:?}");
    container.start()?;
    if kind == "startContainer" {
        // The program comes after it, and start may be over before the program runs.
        wait_until("the hook's record", || Ok((!bundle.called()?.is_empty()).then_some(())))?;
    }
    let found = bundle.called()?;
    ensure!(found == [kind], "when start has returned: expected {kind} to have been called, found {found:?}");
    Ok(())
}

fn before_program(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("startContainer", "hook", &[]).args(&["/probe", "record", "/log"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.wait()?;
    let found = bundle.called()?;
    ensure!(found == ["hook", "/probe"], "expected the hook before the program, found {found:?}");
    Ok(())
}

fn after_program(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("poststart", "hook", &[]).args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    let process = bundle.record("hook")?.process.context("the hook sees no process of the state's pid")?;
    ensure!(
        process.args == ["/probe", "wait"],
        "the process for poststart: expected the program, found {:?}",
        process.args
    );
    Ok(())
}

fn by_delete(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("poststop", "hook", &[]).args(&["/probe", "exit", "0"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    let found = bundle.called()?;
    ensure!(found.is_empty(), "when the container has stopped: expected no call yet, found {found:?}");
    container.delete()?;
    let found = bundle.called()?;
    ensure!(found == ["hook"], "when delete has returned: expected one call, found {found:?}");
    Ok(())
}

fn after_deletion(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let plain = fixture.bundle()?;
    // The cgroup that this container will have: its name is in the configuration.
    let container = fixture.create(&plain)?;
    let other = container.cgroup("memory")?;
    fixture.call(&["delete", "--force", container.id()])?.ok()?;
    let name =
        |bundle: &crate::harness::Bundle| bundle.path().file_name().map(|name| name.to_string_lossy().into_owned());
    let (from, to) = (name(&plain).context("a bundle's name")?, name(&bundle).context("a bundle's name")?);
    let cgroup = other.display().to_string().replace(&from, &to);
    bundle.hook("createRuntime", "before", &["look", &cgroup]).hook("poststop", "after", &["look", &cgroup]);
    bundle.args(&["/probe", "exit", "0"]);
    let container = fixture.create(&bundle)?;
    ensure!(std::path::Path::new(&cgroup).exists(), "the container's cgroup: expected it at {cgroup}");
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    let found = bundle.record("after")?;
    ensure!(!found.present[&cgroup], "the container's cgroup for poststop: expected none, found it at {cgroup}");
    ensure!(found.process.is_none(), "the container's process for poststop: expected none, found {:?}", found.process);
    Ok(())
}
