//! runtime.md, Operations: kill.

use anyhow::ensure;

use crate::harness::{Case, Container, Fixture, Level, wait_until};

const SECTION: &str = "runtime.md#kill";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("kill without an id is an error", SECTION, Level::Must, |fixture| {
        fixture.call(&["kill"])?.refused().map(drop)
    }),
    Case::new("kill of a container that is not there is an error", SECTION, Level::Must, |fixture| {
        fixture.call(&["kill", "of-nobody", "KILL"])?.refused().map(drop)
    }),
    Case::new("kill of a stopped container is an error, and it stays stopped", SECTION, Level::Must, stopped),
    Case::new("kill of a created container sends the signal", SECTION, Level::Must, created),
    Case::new("kill sends the signal that it is given", SECTION, Level::Must, given),
    Case::new("kill sends the signal to the container's process alone", SECTION, Level::Must, alone),
    Case::new("kill with an unknown signal is an error, and sends none", SECTION, Level::Must, unknown),
    Case::new("TERM, INT and HUP terminate a created container", "runc: kill", Level::Runc, ended),
    Case::new("a signal that runc's init ignores leaves a created container", "runc: kill", Level::Runc, left),
    Case::new("kill sends TERM by default", "runc: kill", Level::Runc, default),
];

fn stopped(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.wait()?;
    container.wait_status("stopped")?;
    container.call("kill", &["KILL"])?.refused()?;
    let status = container.status()?;
    ensure!(status == "stopped", "the status: expected stopped, found {status}");
    Ok(())
}

fn created(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    container.kill("KILL")?;
    let code = container.wait()?;
    ensure!(code == 128 + 9, "the end of the container's process: expected signal 9, found {code}");
    Ok(())
}

/// A created container, with a pid namespace of its own and without.
fn with_and_without_pids(
    fixture: &Fixture,
    check: impl Fn(&Container<'_>, bool) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for own_pids in [true, false] {
        let mut bundle = fixture.bundle()?;
        if !own_pids {
            bundle.without_namespace("pid");
        }
        bundle.args(&["/probe", "wait"]);
        let container = fixture.create(&bundle)?;
        check(&container, own_pids)?;
        container.call_with_flags("delete", &["--force"])?.ok()?;
    }
    Ok(())
}

fn ended(fixture: &Fixture) -> anyhow::Result<()> {
    for (name, number) in [("TERM", 15), ("INT", 2), ("HUP", 1)] {
        with_and_without_pids(fixture, |container, own_pids| {
            container.kill(name)?;
            let code = container.wait()?;
            // The kernel drops a signal of default action for the first process of a pid namespace, where Go's
            // runtime exits with 2.
            let expected = if own_pids { 2 } else { 128 + number };
            ensure!(code == expected, "the end by {name} (own pids: {own_pids}): expected {expected}, found {code}");
            container.wait_status("stopped")
        })?;
    }
    Ok(())
}

fn left(fixture: &Fixture) -> anyhow::Result<()> {
    with_and_without_pids(fixture, |container, _| {
        for name in ["USR1", "USR2", "WINCH"] {
            container.kill(name)?;
        }
        container.start()?;
        container.wait_status("running")?;
        container.kill("KILL")?;
        container.wait().map(drop)
    })
}

/// Sends these signals by `kill`, one after the other, to a program that says what it receives; the last one ends it.
fn received(fixture: &Fixture, signals: &[&[&str]], names: &[&str]) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "signals", names[names.len() - 1]]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    wait_until("the program to be ready", || Ok(container.stdout()?.contains("ready").then_some(())))?;
    for (words, name) in signals.iter().zip(names) {
        container.call("kill", words)?.ok()?;
        wait_until(&format!("the program to receive {name}"), || {
            Ok(container.stdout()?.lines().any(|line| line == *name).then_some(()))
        })?;
    }
    container.wait()?;
    let output = container.stdout()?;
    let found: Vec<_> = output.lines().skip(1).collect();
    ensure!(found == names, "received: expected {names:?}, found {found:?}");
    Ok(())
}

fn given(fixture: &Fixture) -> anyhow::Result<()> {
    let words: [&[&str]; 6] = [&["USR1"], &["SIGUSR2"], &["1"], &["INT"], &["WINCH"], &["TERM"]];
    received(fixture, &words, &["SIGUSR1", "SIGUSR2", "SIGHUP", "SIGINT", "SIGWINCH", "SIGTERM"])
}

fn default(fixture: &Fixture) -> anyhow::Result<()> {
    received(fixture, &[&[]], &["SIGTERM"])
}

fn alone(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    // The other process ends at any signal; the first one, being 1 of its pid namespace, at KILL alone.
    let container = fixture.start(&mut bundle)?;
    let pid_file = fixture.directory().join("exec.pid");
    container.exec_with(&["--detach", "--pid-file", &pid_file.to_string_lossy()], &["/probe", "wait"])?.ok()?;
    let pid: i32 = std::fs::read_to_string(&pid_file)?.trim().parse()?;
    container.kill("USR1")?;
    let status = container.status()?;
    let status_of_other = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let state = status_of_other.lines().find(|line| line.starts_with("State:")).unwrap_or("").to_owned();
    container.kill("KILL")?;
    // Nobody else reaps it, and its pid namespace lasts as long as it does.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None)?;
    ensure!(status == "running", "the status after USR1: expected running, found {status}");
    ensure!(!state.contains('Z'), "another process of the container after USR1: expected it alive, found {state:?}");
    Ok(())
}

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    for signal in ["NOSUCH", "SIGNOSUCH", "1000", "-9x"] {
        container.call("kill", &[signal])?.refused()?;
    }
    let status = container.status()?;
    ensure!(status == "running", "the status: expected running, found {status}");
    Ok(())
}
