//! run: exit statuses, and its own flags.

use super::{RUNC, facts};
use crate::harness::{Case, Ground, Level};

const fn case(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: run", Level::Runc, run).on(RUNC)
}

/// A container's whole life in one command.
pub const CASES: &[Case] = &[
    case("run ends with its program's status", statuses),
    case("a program that a signal ends gives 128 and the signal's number", signals),
    case("run leaves nothing on record", nothing_left),
    case("run --keep leaves the stopped container", keep),
    case("run --detach leaves a running container", detach),
    case("run shows its program what runc shows it", sight),
    case("run's flags are runc's", flags),
    case("run passes its standard streams on", streams),
];

fn statuses(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for code in ["0", "1", "2", "126", "127", "128", "137", "255"] {
        twins.bundle(|bundle| {
            bundle.args(&["/probe", "exit", code]);
        })?;
        twins.line("run -b {bundle} {id}")?;
    }
    twins.equal()
}

fn signals(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for number in ["1", "9", "11", "15"] {
        twins.bundle(|bundle| {
            // The first process of a pid namespace is not ended by its own signals.
            bundle.without_namespace("pid").args(&["/probe", "raise", number]);
        })?;
        twins.line("run -b {bundle} {id}")?;
    }
    twins.equal()
}

fn nothing_left(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.args(&["/probe", "exit", "3"]);
    })?;
    twins.lines(&[
        "run -b {bundle} {id}",
        "state {id}",
        "list",
        "run -b {bundle} --pid-file {dir}/pid {id}",
        "list -q",
    ])?;
    twins.see("the pid file after run", |twin| Ok(twin.directory().join("pid").exists().to_string()))?.equal()
}

fn keep(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.args(&["/probe", "exit", "3"]);
    })?;
    twins
        .lines(&["run --keep -b {bundle} {id}", "state {id}", "run -b {bundle} {id}", "delete {id}", "state {id}"])?
        .equal()
}

fn detach(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    twins.lines(&["run -d -b {bundle} --pid-file {dir}/pid {id}", "state {id}", "delete {id}"])?.stopped()?;
    twins.lines(&["state {id}", "delete {id}", "run --detach=true --keep -b {bundle} --pid-file {dir}/pid {id}"])?;
    twins.lines(&["kill {id} KILL"])?.wait()?.lines(&["state {id}", "delete {id}"])?.equal()
}

fn sight(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?;
    facts(&twins, "run -b {bundle} {id}")?;
    twins.equal()
}

fn flags(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
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
        twins.line(&format!("run {flags} -b {{bundle}} {{id}}"))?;
    }
    twins.line("run {id} --bundle {bundle}")?.equal()
}

fn streams(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.args(&["/probe", "try", "read", "/proc/self/fd/0", ",", "bogus"]);
    })?;
    twins.call_with(&["run", "-b", "{bundle}", "{id}"], "said on stdin")?.line("run -b {bundle} {id}")?.equal()
}
