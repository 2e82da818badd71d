//! pause and resume.

use super::RUNC;
use crate::harness::{Case, Fixture, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: pause and resume", Level::Runc, run).on(RUNC)
}

/// The freezer, as callers see it.
pub const CASES: &[Case] = &[
    case("pause freezes and resume thaws", pause_and_resume),
    case("pause and resume in the wrong state have the same outcome as runc's", wrong),
    case("exec into a paused container is refused without --ignore-paused", exec),
];

fn pause_and_resume(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.lines(&["pause {id}", "state {id}"])?;
    both.see("the freezer's file", |side| Ok(frozen(side)))?;
    both.lines(&["list -f json", "resume {id}", "state {id}"])?
        .see("the freezer's file again", |side| Ok(frozen(side)))?;
    both.equal()
}

fn frozen(side: &crate::harness::Side) -> String {
    let one = side.cgroup_file("freezer", "freezer.state").unwrap_or_default();
    let other = side.cgroup_file("", "cgroup.freeze").unwrap_or_default();
    format!("{one} {other}")
}

fn wrong(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?.lines(&[
        "resume {id}",
        "pause {id}",
        "state {id}",
        "resume {id}",
        "state {id}",
        "delete -f {id}",
    ])?;
    both.started()?.lines(&["resume {id}", "pause {id}", "pause {id}", "state {id}", "resume {id}", "resume {id}"])?;
    both.stopped()?.lines(&["pause {id}", "resume {id}", "state {id}"])?.equal()
}

fn exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.lines(&["pause {id}", "exec {id} /probe exit 3", "exec -d {id} /probe exit 3", "state {id}"])?;
    both.lines(&[
        "exec --ignore-paused=false {id} /probe exit 3",
        "resume {id}",
        "exec --ignore-paused {id} /probe exit 3",
    ])?
    .equal()
}
