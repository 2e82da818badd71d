//! kill and delete.

use super::RUNC;
use crate::harness::{Case, Ground, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Runc, run).on(RUNC)
}

/// How containers end.
pub const CASES: &[Case] = &[
    case("signals have runc's names and numbers", "runc: kill", names),
    case("words that are no signal are refused as by runc", "runc: kill", no_signals),
    case("kill sends the signal that it names", "runc: kill", sends),
    case("kill without a signal is SIGTERM", "runc: kill", default),
    case("kill in each state ends as runc's", "runc: kill", states),
    case("kill --all is swallowed when nobody is left", "runc: kill", all),
    case("kill of a container without a pid namespace reaches all of it", "runc: kill", whole_cgroup),
    case("delete in each state ends as runc's", "runc: delete", delete),
    case("delete --force ends what runs", "runc: delete", force),
    case("delete --force of nobody is silent success", "runc: delete", nobody),
];

fn names(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    // Its first process has no handlers: the kernel keeps such signals from it.
    twins.started()?;
    let names = [
        "HUP", "SIGHUP", "sighup", "hup", "Int", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CHLD", "CLD", "CONT",
        "WINCH", "IO", "POLL", "PWR", "SYS", "IOT", "ABRT", "URG", "PIPE", "0", "1", "15", "28", "34", "64", "+1",
        "007", "RTMIN+3",
    ];
    for name in names {
        twins.line(&format!("kill {{id}} {name}"))?;
    }
    twins.line("state {id}")?.equal()
}

fn no_signals(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.started()?;
    for name in
        ["FOO", "SIG", "SIGSIGTERM", "65", "999", "99999999999", "1.5", "TERM,KILL", "0x9", "KILL\n", "--", "-9", ""]
    {
        twins.call(&["kill", "{id}", name])?;
    }
    twins.call(&["kill", "{id}", "--", "-1"])?.line("state {id}")?.equal()
}

fn sends(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    for signal in ["SIGUSR1", "hup", "10", "SigTerm"] {
        twins.bundle(|bundle| {
            bundle.without_namespace("pid");
        })?;
        twins.started()?.line(&format!("kill {{id}} {signal}"))?;
        twins.wait()?.line("delete {id}")?;
    }
    twins.equal()
}

fn default(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.without_namespace("pid");
    })?;
    twins.started()?.line("kill {id}")?.wait()?.lines(&["state {id}", "delete {id}"])?.equal()
}

fn states(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?.lines(&["kill {id} 0", "state {id}", "kill {id} KILL"])?.wait()?;
    twins.lines(&["state {id}", "kill {id}", "kill {id} KILL", "kill {id} 0", "kill {id} FOO", "delete {id}"])?;
    twins.started()?.lines(&["pause {id}", "kill {id} HUP", "state {id}", "kill {id} KILL", "resume {id}"])?;
    twins.wait()?.lines(&["state {id}", "delete {id}"])?.equal()
}

fn all(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.started()?.lines(&["exec -d --pid-file {dir}/pid2 {id} /probe wait", "kill --all {id} KILL"])?;
    twins.see("the second process's end", |twin| Ok(twin.wait_for("pid2")?.to_string()))?.wait()?;
    twins
        .lines(&["kill -a {id} KILL", "kill --all {id}", "kill {id} KILL", "delete {id}", "kill -a {id} KILL"])?
        .equal()
}

fn whole_cgroup(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.without_namespace("pid");
    })?;
    twins.started()?.line("exec -d --pid-file {dir}/pid2 {id} /probe wait")?.line("kill --all {id} KILL")?;
    twins.see("the second process's end", |twin| Ok(twin.wait_for("pid2")?.to_string()))?;
    twins.wait()?.line("delete {id}")?.equal()
}

fn delete(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?.lines(&["delete {id}", "state {id}"])?;
    // A created container may be deleted by runc; it is made again either way.
    twins.line("delete -f {id}")?;
    twins.started()?.lines(&["delete {id}", "state {id}", "pause {id}", "delete {id}", "resume {id}"])?;
    twins.stopped()?.lines(&["delete {id}", "delete {id}", "state {id}"])?.equal()
}

fn force(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?.lines(&["delete --force {id}", "state {id}"])?;
    twins.started()?.lines(&["delete -f {id}", "state {id}"])?.wait()?;
    twins.started()?.lines(&["pause {id}", "delete -f {id}", "state {id}"])?.wait()?;
    twins.started()?.stopped()?.lines(&["delete -f {id}", "state {id}"])?.equal()
}

fn nobody(ground: &Ground) -> anyhow::Result<()> {
    let lines = ["delete -f x", "delete --force=true x", "delete -f a/b", "delete --force=false x", "delete -f .."];
    ground.twins()?.lines(&lines)?.equal()
}
