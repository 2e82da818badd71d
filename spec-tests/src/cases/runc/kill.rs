//! kill and delete.

use super::RUNC;
use crate::harness::{Case, Fixture, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Runc, run).on(RUNC)
}

/// How containers end.
pub const CASES: &[Case] = &[
    case("signals have runc's names and numbers", "runc: kill", names),
    case("invalid names of signals are refused as by runc", "runc: kill", no_signals),
    case("kill sends the signal that it names", "runc: kill", sends),
    case("kill without a signal is SIGTERM", "runc: kill", default),
    case("kill in each state has the same outcome as runc's", "runc: kill", states),
    case("kill --all of a container without processes succeeds", "runc: kill", all),
    case("kill of a container without a pid namespace reaches all its processes", "runc: kill", whole_cgroup),
    case("delete in each state has the same outcome as runc's", "runc: delete", delete),
    case("delete --force kills a running container", "runc: delete", force),
    case("delete --force of a missing container succeeds silently", "runc: delete", nobody),
];

fn names(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    // Its first process has no handlers: the kernel keeps such signals from it.
    both.started()?;
    let names = [
        "HUP", "SIGHUP", "sighup", "hup", "Int", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CHLD", "CLD", "CONT",
        "WINCH", "IO", "POLL", "PWR", "SYS", "IOT", "ABRT", "URG", "PIPE", "0", "1", "15", "28", "34", "64", "+1",
        "007", "RTMIN+3",
    ];
    for name in names {
        both.line(&format!("kill {{id}} {name}"))?;
    }
    both.line("state {id}")?.equal()
}

fn no_signals(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for name in
        ["FOO", "SIG", "SIGSIGTERM", "65", "999", "99999999999", "1.5", "TERM,KILL", "0x9", "KILL\n", "--", "-9", ""]
    {
        both.call(&["kill", "{id}", name])?;
    }
    both.call(&["kill", "{id}", "--", "-1"])?.line("state {id}")?.equal()
}

fn sends(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    for signal in ["SIGUSR1", "hup", "10", "SigTerm"] {
        both.bundle(|bundle| {
            bundle.without_namespace("pid");
        })?;
        both.started()?.line(&format!("kill {{id}} {signal}"))?;
        both.wait()?.line("delete {id}")?;
    }
    both.equal()
}

fn default(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.without_namespace("pid");
    })?;
    both.started()?.line("kill {id}")?.wait()?.lines(&["state {id}", "delete {id}"])?.equal()
}

fn states(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?.lines(&["kill {id} 0", "state {id}", "kill {id} KILL"])?.wait()?;
    both.lines(&["state {id}", "kill {id}", "kill {id} KILL", "kill {id} 0", "kill {id} FOO", "delete {id}"])?;
    both.started()?.lines(&["pause {id}", "kill {id} HUP", "state {id}", "kill {id} KILL", "resume {id}"])?;
    both.wait()?.lines(&["state {id}", "delete {id}"])?.equal()
}

fn all(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.lines(&["exec -d --pid-file {dir}/pid2 {id} /probe wait", "kill --all {id} KILL"])?;
    both.see("the second process's end", |side| Ok(side.wait_for("pid2")?.to_string()))?.wait()?;
    both.lines(&["kill -a {id} KILL", "kill --all {id}", "kill {id} KILL", "delete {id}", "kill -a {id} KILL"])?.equal()
}

fn whole_cgroup(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.without_namespace("pid");
    })?;
    both.started()?.line("exec -d --pid-file {dir}/pid2 {id} /probe wait")?.line("kill --all {id} KILL")?;
    both.see("the second process's end", |side| Ok(side.wait_for("pid2")?.to_string()))?;
    both.wait()?.line("delete {id}")?.equal()
}

fn delete(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?.lines(&["delete {id}", "state {id}"])?;
    // A created container may be deleted by runc; it is made again either way.
    both.line("delete -f {id}")?;
    both.started()?.lines(&["delete {id}", "state {id}", "pause {id}", "delete {id}", "resume {id}"])?;
    both.stopped()?.lines(&["delete {id}", "delete {id}", "state {id}"])?.equal()
}

fn force(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?.lines(&["delete --force {id}", "state {id}"])?;
    both.started()?.lines(&["delete -f {id}", "state {id}"])?.wait()?;
    both.started()?.lines(&["pause {id}", "delete -f {id}", "state {id}"])?.wait()?;
    both.started()?.stopped()?.lines(&["delete -f {id}", "state {id}"])?.equal()
}

fn nobody(fixture: &Fixture) -> anyhow::Result<()> {
    let lines = ["delete -f x", "delete --force=true x", "delete -f a/b", "delete --force=false x", "delete -f .."];
    fixture.differential()?.lines(&lines)?.equal()
}
