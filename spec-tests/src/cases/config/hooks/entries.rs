//! The fields of a hook's entry (path, args, env, timeout), and the input of every hook.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Fixture, KINDS, Level, wait_until};

const SECTION: &str = "config.md#posix-platform-hooks";
const VALID: &str = "config.md#valid-values";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a hook's path that is not absolute is refused", SECTION, Level::Must, relative_path),
    Case::new("a hook's path that is not there is an error", SECTION, Level::Must, missing_path),
    Case::new("a hook's args are its whole argv", SECTION, Level::Must, args),
    Case::new("a hook's env is its whole environment", SECTION, Level::Must, env),
    Case::new("a hook that exits before its timeout succeeds", SECTION, Level::Must, in_time),
    Case::new("a hook is aborted at its timeout, and has failed", SECTION, Level::Must, timeout),
    Case::new("a hook's timeout that is not above zero is refused", SECTION, Level::Must, no_timeout),
    Case::new("a hook that is no object is refused", VALID, Level::Must, no_object),
    Case::new("hooks may be left out, or be empty", SECTION, Level::Must, none),
    Case::new("hooks of a list are called in the listed order", SECTION, Level::Must, order),
    Case::new("every hook is given the state on stdin", SECTION, Level::Must, state),
    Case::new("the state that a hook is given has the annotations", SECTION, Level::Must, annotations),
    Case::new("the state that a hook is given has the current status", "runtime.md#state", Level::Must, status),
    Case::new(
        "a hook of the runtime namespace is given the pid as the caller sees it",
        "runtime.md#state",
        Level::Must,
        pids,
    ),
    Case::new(
        "a hook of the container namespace is given the pid as the container sees it",
        "runtime.md#state",
        Level::Must,
        inner_pids,
    ),
    Case::new("a hook that does not read its stdin is no failure", "runc: hooks", Level::Runc, deaf),
    Case::new("a hook of the runtime without env has the runtime's environment", "runc: hooks", Level::Runc, no_env),
    Case::new("a startContainer hook without env has the program's environment", "runc: hooks", Level::Runc, inner_env),
    Case::new("a hook's env may hold entries that are no assignments", "runc: hooks", Level::Runc, words_in_env),
    Case::new("a hook runs in the bundle, and a createContainer hook in the root", "runc: hooks", Level::Runc, places),
    Case::new("a poststop hook of run runs in the bundle", "runc: hooks", Level::Runc, place_after_run),
    Case::new(
        "a poststop hook after a create that failed runs in the bundle",
        "runc: hooks",
        Level::Runc,
        place_after_failure,
    ),
];

/// Creates, starts, waits for the end and deletes; the hooks have written their log then.
pub(super) fn life(fixture: &Fixture, bundle: &mut Bundle) -> anyhow::Result<()> {
    bundle.args(&["/probe", "exit", "0"]);
    let container = fixture.create(bundle)?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()
}

fn relative_path(fixture: &Fixture) -> anyhow::Result<()> {
    for kind in KINDS {
        let mut bundle = fixture.bundle()?;
        let mut entry = bundle.hook_entry(kind, kind, &[]);
        entry["path"] = json!("probe");
        bundle.push(&format!("/hooks/{kind}"), entry).args(&["/probe", "wait"]);
        let path = bundle.path().to_string_lossy().into_owned();
        bundle.write()?;
        let id = fixture.id();
        let created = fixture.call(&["create", "--bundle", &path, &id])?;
        let refused = created.code != 0 || fixture.call(&["start", &id])?.code != 0;
        ensure!(refused, "{kind} with the path \"probe\": expected an error from create or start, found none");
    }
    Ok(())
}

fn missing_path(fixture: &Fixture) -> anyhow::Result<()> {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = fixture.bundle()?;
        bundle.push(&format!("/hooks/{kind}"), json!({ "path": "/nowhere/at/all" }));
        fixture.refused(&bundle).context(kind)?;
    }
    Ok(())
}

fn args(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut wanted = BTreeMap::new();
    for kind in KINDS {
        // The paths are irrelevant, and need not exist.
        let words = [kind, "record", "LOG", "look", "two words", "look", ""];
        bundle.hook(kind, kind, &words[3..]);
        let log = if kind == "startContainer" { "/log".to_owned() } else { bundle.log().display().to_string() };
        wanted.insert(kind, words.map(|word| word.replace("LOG", &log)));
    }
    life(fixture, &mut bundle)?;
    for (kind, wanted) in wanted {
        let found = bundle.record(kind)?.args;
        ensure!(found == wanted, "argv of {kind}: expected {wanted:?}, found {found:?}");
    }
    Ok(())
}

fn env(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for kind in KINDS {
        let mut entry = bundle.hook_entry(kind, kind, &[]);
        entry["env"] = json!(["KIND=hook", "EMPTY=", "SIGN=a=b"]);
        bundle.push(&format!("/hooks/{kind}"), entry);
    }
    life(fixture, &mut bundle)?;
    let wanted = [("KIND", "hook"), ("EMPTY", ""), ("SIGN", "a=b")];
    let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for kind in KINDS {
        let found = bundle.record(kind)?.env;
        ensure!(found == wanted, "the environment of {kind}: expected {wanted:?}, found {found:?}");
    }
    Ok(())
}

fn in_time(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for kind in KINDS {
        let mut entry = bundle.hook_entry(kind, kind, &[]);
        entry["timeout"] = json!(50);
        bundle.push(&format!("/hooks/{kind}"), entry);
    }
    life(fixture, &mut bundle)?;
    let found = bundle.called()?;
    ensure!(found.len() == KINDS.len(), "expected a call of every hook, found {found:?}");
    Ok(())
}

fn timeout(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let program = bundle.rootfs("/probe");
    bundle.push("/hooks/createRuntime", json!({ "path": program, "args": ["hook", "wait"], "timeout": 1 }));
    bundle.hook("createContainer", "later", &[]);
    fixture.refused(&bundle)?;
    let found = bundle.called()?;
    ensure!(found.is_empty(), "expected no hook after the one that failed, found {found:?}");
    Ok(())
}

fn no_timeout(fixture: &Fixture) -> anyhow::Result<()> {
    for timeout in [0, -1] {
        let mut bundle = fixture.bundle()?;
        let mut entry = bundle.hook_entry("createRuntime", "hook", &[]);
        entry["timeout"] = json!(timeout);
        fixture.refused(bundle.push("/hooks/createRuntime", entry)).with_context(|| format!("timeout {timeout}"))?;
    }
    Ok(())
}

fn no_object(fixture: &Fixture) -> anyhow::Result<()> {
    for value in [json!(["/bin/true"]), json!({ "path": "/bin/true" }), json!([{ "path": 5 }])] {
        let mut bundle = fixture.bundle()?;
        fixture.refused(bundle.set("/hooks/createRuntime", value.clone())).with_context(|| value.to_string())?;
    }
    Ok(())
}

fn none(fixture: &Fixture) -> anyhow::Result<()> {
    for value in [json!({}), json!({ "prestart": [], "createRuntime": [], "poststop": [] })] {
        let mut bundle = fixture.bundle()?;
        life(fixture, bundle.set("/hooks", value))?;
    }
    Ok(())
}

fn order(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for kind in KINDS {
        for number in 1..=3 {
            bundle.hook(kind, &format!("{kind}{number}"), &[]);
        }
    }
    life(fixture, &mut bundle)?;
    let called = bundle.called()?;
    for kind in KINDS {
        let found: Vec<_> = called.iter().filter(|name| name.trim_end_matches(['1', '2', '3']) == kind).collect();
        let wanted: Vec<_> = (1..=3).map(|number| format!("{kind}{number}")).collect();
        ensure!(found.iter().copied().eq(&wanted), "expected {wanted:?}, found {found:?}");
    }
    Ok(())
}

fn state(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook_of_every_kind().args(&["/probe", "exit", "0"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    for kind in KINDS {
        let state = bundle.record(kind)?.state()?;
        let text = |name: &str| state[name].as_str().unwrap_or_default().to_owned();
        ensure!(text("id") == container.id(), "id for {kind}: expected {}, found {state}", container.id());
        let path = bundle.path().to_string_lossy();
        ensure!(text("bundle") == path, "bundle for {kind}: expected {path}, found {state}");
        ensure!(text("ociVersion").starts_with("1."), "ociVersion for {kind}: expected 1.x.y, found {state}");
        ensure!(!text("status").is_empty(), "status for {kind}: expected one, found {state}");
    }
    Ok(())
}

fn annotations(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let wanted = json!({ "org.example.key": "value", "org.example.empty": "" });
    bundle.hook_of_every_kind().set("/annotations", wanted.clone());
    life(fixture, &mut bundle)?;
    for kind in KINDS {
        let found = bundle.record(kind)?.state()?["annotations"].clone();
        ensure!(found == wanted, "annotations for {kind}: expected {wanted}, found {found}");
    }
    Ok(())
}

fn status(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook_of_every_kind().args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.kill("KILL")?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.delete()?;
    for (kind, wanted) in KINDS.into_iter().zip(["creating", "creating", "creating", "created", "running", "stopped"]) {
        let found = bundle.record(kind)?.state()?["status"].clone();
        ensure!(found == wanted, "status for {kind}: expected {wanted}, found {found}");
    }
    Ok(())
}

/// The pid that each kind of hook is given, and init's own.
fn given_pids(fixture: &Fixture) -> anyhow::Result<(BTreeMap<&'static str, Value>, i32)> {
    let mut bundle = fixture.bundle()?;
    bundle.hook_of_every_kind().args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    let pid = container.pid();
    let mut found = BTreeMap::new();
    for kind in &KINDS[..5] {
        found.insert(*kind, bundle.record(kind)?.state()?["pid"].clone());
    }
    Ok((found, pid))
}

fn pids(fixture: &Fixture) -> anyhow::Result<()> {
    let (found, pid) = given_pids(fixture)?;
    for kind in ["prestart", "createRuntime", "poststart"] {
        ensure!(found[kind] == pid, "pid for {kind}: expected {pid}, found {}", found[kind]);
    }
    Ok(())
}

fn inner_pids(fixture: &Fixture) -> anyhow::Result<()> {
    let (found, _) = given_pids(fixture)?;
    for kind in ["createContainer", "startContainer"] {
        ensure!(found[kind] == 1, "pid for {kind}, in a new pid namespace: expected 1, found {}", found[kind]);
    }
    Ok(())
}

fn deaf(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let program = bundle.rootfs("/probe");
    // More than a pipe holds.
    bundle.set("/annotations", json!({ "org.example.long": "x".repeat(100_000) }));
    bundle.push("/hooks/createRuntime", json!({ "path": program, "args": ["deaf", "exit", "0"] }));
    life(fixture, &mut bundle)
}

/// Creates, starts, waits and deletes as [`life`] does, with NAME=value in the environment of each call.
fn life_of_caller(fixture: &Fixture, bundle: &mut Bundle) -> anyhow::Result<()> {
    bundle.args(&["/probe", "exit", "0"]).write()?;
    let (id, path) = (fixture.id(), bundle.path().to_string_lossy().into_owned());
    for words in [&["create", "--bundle", &path, &id][..], &["start", &id]] {
        fixture.call_after("export NAME=of-the-caller; exec </dev/null >/dev/null 2>&1", words)?.ok()?;
    }
    wait_until("the status stopped", || {
        let stopped = fixture.call(&["state", &id])?.ok()?.stdout.contains("\"stopped\"");
        Ok(stopped.then_some(()))
    })?;
    fixture.call_after("export NAME=of-the-caller", &["delete", &id])?.ok().map(drop)
}

fn no_env(fixture: &Fixture) -> anyhow::Result<()> {
    for (env, wanted) in
        [(None, Some("of-the-caller")), (Some(Value::Null), Some("of-the-caller")), (Some(json!([])), None)]
    {
        let mut bundle = fixture.bundle()?;
        for kind in KINDS {
            let mut entry = bundle.hook_entry(kind, kind, &[]);
            if let Some(env) = &env {
                entry["env"] = env.clone();
            }
            bundle.push(&format!("/hooks/{kind}"), entry);
        }
        life_of_caller(fixture, &mut bundle)?;
        for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
            let found = bundle.record(kind)?.env;
            let name = found.get("NAME").map(String::as_str);
            ensure!(
                name == wanted,
                "{kind} with the env {env:?}: expected NAME={wanted:?} of the caller, found {found:?}"
            );
            ensure!(wanted.is_some() || found.is_empty(), "{kind} with an empty env: found {found:?}");
        }
    }
    Ok(())
}

fn inner_env(fixture: &Fixture) -> anyhow::Result<()> {
    for env in [None, Some(Value::Null), Some(json!([]))] {
        let mut bundle = fixture.bundle()?;
        bundle.set("/process/env", json!(["PATH=/bin", "NAME=of-the-container"]));
        let mut entry = bundle.hook_entry("startContainer", "hook", &[]);
        if let Some(env) = &env {
            entry["env"] = env.clone();
        }
        bundle.push("/hooks/startContainer", entry);
        life_of_caller(fixture, &mut bundle)?;
        let mut found = bundle.record("hook")?.env;
        // HOME comes from /etc/passwd, or is a default.
        found.remove("HOME");
        let wanted = [("NAME", "of-the-container"), ("PATH", "/bin")];
        let is_wanted = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(wanted);
        ensure!(is_wanted, "startContainer with the env {env:?}: expected {wanted:?}, found {found:?}");
    }
    Ok(())
}

fn places(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook_of_every_kind().set("/process/cwd", json!("/tmp"));
    life_of_caller(fixture, &mut bundle)?;
    let (bundle_path, root) = (bundle.path().to_owned(), bundle.rootfs("/"));
    for (kind, wanted) in [
        ("prestart", bundle_path.as_path()),
        ("createRuntime", &bundle_path),
        ("createContainer", &root),
        ("startContainer", Path::new("/tmp")),
        ("poststart", &bundle_path),
    ] {
        let found = bundle.record(kind)?.directory;
        ensure!(Path::new(&found) == wanted, "the working directory of {kind}: expected {wanted:?}, found {found}");
    }
    Ok(())
}

fn words_in_env(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let file = bundle.path().join("environ");
    // The shell would pass on assignments alone: the kernel's copy shows what the hook was executed with.
    let script = format!("cat </proc/$$/environ >>{}", file.display());
    for kind in ["prestart", "createRuntime", "poststart", "poststop"] {
        let env = json!(["word", "NAME=value", "=x"]);
        let entry = json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": env });
        bundle.push(&format!("/hooks/{kind}"), entry);
    }
    life(fixture, &mut bundle)?;
    let found = std::fs::read_to_string(file)?;
    let mut entries: Vec<&str> = found.split_terminator('\0').collect();
    ensure!(entries.len() == 12, "expected three entries for each of four hooks, found {found:?}");
    entries.sort_unstable();
    entries.dedup();
    ensure!(entries == ["=x", "NAME=value", "word"], "expected =x, NAME=value and word, found {entries:?}");
    Ok(())
}

fn poststop_in_bundle(bundle: &Bundle) -> anyhow::Result<()> {
    let found = bundle.record("poststop")?.directory;
    ensure!(Path::new(&found) == bundle.path(), "expected the bundle {:?}, found {found}", bundle.path());
    Ok(())
}

fn place_after_run(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("poststop", "poststop", &[]).args(&["/probe", "exit", "0"]).write()?;
    fixture.call(&["run", "--bundle", &bundle.path().to_string_lossy(), &fixture.id()])?.ok()?;
    poststop_in_bundle(&bundle)
}

fn place_after_failure(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("createRuntime", "failing", &["exit", "3"]).hook("poststop", "poststop", &[]);
    fixture.refused(&bundle)?;
    poststop_in_bundle(&bundle)
}
