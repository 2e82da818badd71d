//! run: exit statuses, and its own flags.

use super::{RUNC, facts};
use crate::harness::{Case, Fixture, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: run", Level::Runc, run).on(RUNC)
}

/// A container's whole life in one command.
pub const CASES: &[Case] = &[
    case("run exits with its program's status", statuses),
    case("a program that a signal kills gives 128 and the signal's number", signals),
    case("run leaves no state", nothing_left),
    case("run --keep leaves the stopped container", keep),
    case("run --detach leaves a running container", detach),
    case("run shows its program what runc shows it", sight),
    case("run's flags are runc's", flags),
    case("run passes its standard streams on", streams),
];

fn statuses(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    for code in ["0", "1", "2", "126", "127", "128", "137", "255"] {
        both.bundle(|bundle| {
            bundle.args(&["/probe", "exit", code]);
        })?;
        both.line("run -b {bundle} {id}")?;
    }
    both.equal()
}

fn signals(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    for number in ["1", "9", "11", "15"] {
        both.bundle(|bundle| {
            // The first process of a pid namespace ignores its own signals.
            bundle.without_namespace("pid").args(&["/probe", "raise", number]);
        })?;
        both.line("run -b {bundle} {id}")?;
    }
    both.equal()
}

fn nothing_left(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "exit", "3"]);
    })?;
    both.lines(&[
        "run -b {bundle} {id}",
        "state {id}",
        "list",
        "run -b {bundle} --pid-file {dir}/pid {id}",
        "list -q",
    ])?;
    both.see("the pid file after run", |side| Ok(side.directory().join("pid").exists().to_string()))?.equal()
}

fn keep(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "exit", "3"]);
    })?;
    both.lines(&["run --keep -b {bundle} {id}", "state {id}", "run -b {bundle} {id}", "delete {id}", "state {id}"])?
        .equal()
}

fn detach(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    both.lines(&["run -d -b {bundle} --pid-file {dir}/pid {id}", "state {id}", "delete {id}"])?.stopped()?;
    both.lines(&["state {id}", "delete {id}", "run --detach=true --keep -b {bundle} --pid-file {dir}/pid {id}"])?;
    both.lines(&["kill {id} KILL"])?.wait()?.lines(&["state {id}", "delete {id}"])?.equal()
}

fn sight(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    facts(&both, "run -b {bundle} {id}")?;
    both.equal()
}

fn flags(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "exit", "7"]);
    })?;
    for flags in [
        "--no-subreaper",
        "-no-subreaper",
        "--no-pivot",
        "--no-new-keyring",
        "--keep=false",
        "--detach=false",
        "--preserve-fds 0",
    ] {
        both.line(&format!("run {flags} -b {{bundle}} {{id}}"))?;
    }
    both.line("run {id} --bundle {bundle}")?.equal()
}

fn streams(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "try", "read", "/proc/self/fd/0", ",", "bogus"]);
    })?;
    both.call_with(&["run", "-b", "{bundle}", "{id}"], "said on stdin")?.line("run -b {bundle} {id}")?.equal()
}
