//! pause and resume.

use super::RUNC;
use crate::harness::{Case, Ground, Level};

const fn case(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: pause and resume", Level::Runc, run).on(RUNC)
}

/// The freezer, as callers see it.
pub const CASES: &[Case] = &[
    case("pause freezes and resume thaws", both),
    case("pause and resume in the wrong state end as runc's", wrong),
    case("exec into a paused container is refused unless told", exec),
];

fn both(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.started()?.lines(&["pause {id}", "state {id}"])?;
    twins.see("the freezer's file", |twin| Ok(frozen(twin)))?;
    twins
        .lines(&["list -f json", "resume {id}", "state {id}"])?
        .see("the freezer's file again", |twin| Ok(frozen(twin)))?;
    twins.equal()
}

fn frozen(twin: &crate::harness::Twin) -> String {
    let one = twin.cgroup_file("freezer", "freezer.state").unwrap_or_default();
    let other = twin.cgroup_file("", "cgroup.freeze").unwrap_or_default();
    format!("{one} {other}")
}

fn wrong(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?.lines(&[
        "resume {id}",
        "pause {id}",
        "state {id}",
        "resume {id}",
        "state {id}",
        "delete -f {id}",
    ])?;
    twins.started()?.lines(&["resume {id}", "pause {id}", "pause {id}", "state {id}", "resume {id}", "resume {id}"])?;
    twins.stopped()?.lines(&["pause {id}", "resume {id}", "state {id}"])?.equal()
}

fn exec(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.started()?.lines(&["pause {id}", "exec {id} /probe exit 3", "exec -d {id} /probe exit 3", "state {id}"])?;
    twins
        .lines(&[
            "exec --ignore-paused=false {id} /probe exit 3",
            "resume {id}",
            "exec --ignore-paused {id} /probe exit 3",
        ])?
        .equal()
}
