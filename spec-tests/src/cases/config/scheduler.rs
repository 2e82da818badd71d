//! config.md, Linux Process: the scheduler.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::harness::{Case, Fixture, Level, Need};

const fn must(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-process", Level::Must, run)
}

/// In the order of the text; policies by their numbers in linux/sched.h.
pub const CASES: &[Case] = &[
    must("the scheduling policy SCHED_OTHER with a nice value is set", |fixture| {
        scheduled(
            fixture,
            json!({ "policy": "SCHED_OTHER", "nice": 7 }),
            Found { policy: 0, nice: Some(7), priority: 0 },
        )
    }),
    must("a scheduler without a nice value means 0", |fixture| {
        scheduled(fixture, json!({ "policy": "SCHED_OTHER" }), Found { policy: 0, nice: Some(0), priority: 0 })
    }),
    must("the scheduling policy SCHED_BATCH is set", |fixture| {
        scheduled(
            fixture,
            json!({ "policy": "SCHED_BATCH", "nice": 3 }),
            Found { policy: 3, nice: Some(3), priority: 0 },
        )
    }),
    must("the scheduling policy SCHED_IDLE is set", |fixture| {
        scheduled(fixture, json!({ "policy": "SCHED_IDLE" }), Found { policy: 5, nice: None, priority: 0 })
    }),
    must("the scheduling policy SCHED_FIFO is set with its priority", |fixture| {
        scheduled(
            fixture,
            json!({ "policy": "SCHED_FIFO", "priority": 11 }),
            Found { policy: 1, nice: None, priority: 11 },
        )
    })
    // A cgroup has no realtime until all above it were given some, where the kernel shares it out by group.
    .on(&[Need::NoController("cpu")]),
    must("the scheduling policy SCHED_RR is set with its priority", |fixture| {
        scheduled(
            fixture,
            json!({ "policy": "SCHED_RR", "priority": 12 }),
            Found { policy: 2, nice: None, priority: 12 },
        )
    })
    .on(&[Need::NoController("cpu")]),
    must("the scheduling policy SCHED_DEADLINE is set with its times", deadline),
    must("the scheduling flag RESET_ON_FORK is set", reset_on_fork),
    Case::new("a scheduler that the kernel does not have is refused", "config.md#valid-values", Level::Must, bad),
];

/// Fields 41, 19 and 40 of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    policy: i64,
    /// None is any: it means nothing to this policy.
    nice: Option<i64>,
    priority: i64,
}

fn scheduled(fixture: &Fixture, settings: Value, wanted: Found) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts_after("renice -n 2 $$ >/dev/null", bundle.set("/process/scheduler", settings.clone()))?;
    let field = |number: usize| -> anyhow::Result<i64> {
        Ok(facts.stat.get(number - 1).context("/proc/self/stat is short")?.parse()?)
    };
    let nice = wanted.nice.map(|_| field(19)).transpose()?;
    let found = Found { policy: field(41)?, nice, priority: field(40)? };
    ensure!(found == wanted, "with {settings}: expected {wanted:?}, found {found:?}");
    Ok(())
}

/// The output of chrt(1) for a container's process with these settings.
fn chrt(fixture: &Fixture, settings: Value) -> anyhow::Result<String> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/scheduler", settings);
    let container = fixture.start(&mut bundle)?;
    Ok(fixture.tool("chrt", &["--pid", &container.pid().to_string()])?.ok()?.stdout)
}

fn deadline(fixture: &Fixture) -> anyhow::Result<()> {
    let times =
        json!({ "policy": "SCHED_DEADLINE", "runtime": 2_000_000, "deadline": 30_000_000, "period": 40_000_000 });
    let found = chrt(fixture, times)?;
    ensure!(
        found.contains("SCHED_DEADLINE") && found.contains("2000000/30000000/40000000"),
        "chrt: expected SCHED_DEADLINE with 2000000/30000000/40000000, found {found:?}"
    );
    Ok(())
}

fn reset_on_fork(fixture: &Fixture) -> anyhow::Result<()> {
    let found = chrt(fixture, json!({ "policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_RESET_ON_FORK"] }))?;
    ensure!(found.contains("SCHED_RESET_ON_FORK"), "chrt: expected SCHED_RESET_ON_FORK, found {found:?}");
    Ok(())
}

fn bad(fixture: &Fixture) -> anyhow::Result<()> {
    for settings in [
        json!({ "policy": "SCHED_NEVER" }),
        json!({ "policy": "SCHED_OTHER", "nice": 99 }),
        json!({ "policy": "SCHED_FIFO", "priority": 100 }),
        json!({ "policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_OF_NOBODY"] }),
    ] {
        // The kernel, which may be the one to refuse it, is asked by start in some runtimes.
        fixture.run(fixture.bundle()?.set("/process/scheduler", settings))?.refused()?;
    }
    Ok(())
}
