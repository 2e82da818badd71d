//! Behaviour that runc's callers rely on beyond the specification: the same command to the runtime under test and to
//! runc, and the same answer from both, but for data/differences.json.

pub mod bundles;
pub mod create;
pub mod crun;
pub mod exec;
pub mod freeze;
pub mod inherited;
pub mod kill;
pub mod limits;
pub mod look;
pub mod mounts;
pub mod run;
pub mod spec;
pub mod usage;

use serde_json::{Value, json};

use crate::facts::Facts;
use crate::harness::{Differential, Done, Need};

/// All of these cases need the runtime that they compare with.
const RUNC: &[Need] = &[Need::Program("runc")];

/// A command whose program is the probe's `facts`: compared by what a program can see and rely on.
fn facts(both: &Differential, line: &str) -> anyhow::Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    both.done(line, |side| {
        let done = side.call(&words)?;
        Ok(Done { stdout: digest(&done.stdout), ..done })
    })?;
    Ok(())
}

/// The facts that are the same in every run; other output as it is.
fn digest(printed: &str) -> String {
    let Ok(facts) = Facts::parse(printed) else { return printed.to_owned() };
    let words = [
        "Uid",
        "Gid",
        "Groups",
        "Umask",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "SigBlk",
        "SigIgn",
        "SigCgt",
    ];
    let value = |name: &str| {
        let value = facts.status.get(name)?;
        // The C library of runc's init ignores a signal of its own (32).
        let mask = u64::from_str_radix(value, 16).ok().filter(|_| name == "SigIgn");
        Some(mask.map_or_else(|| value.clone(), |mask| format!("{:x}", mask & !(1 << 31))))
    };
    let mut rlimits = facts.rlimits.clone();
    // Go raises its own soft limit of open files, and hands that on.
    rlimits.entry("RLIMIT_NOFILE".to_owned()).and_modify(|limit| limit.0 = None);
    let status: serde_json::Map<_, _> = words.iter().map(|name| ((*name).to_owned(), json!(value(name)))).collect();
    let mounts: Vec<Value> = facts
        .mounts
        .iter()
        // Cases of config-linux.md cover these mounts.
        .filter(|mount| !mount.point.starts_with("/sys/fs/cgroup") && !mount.point.starts_with("/proc/"))
        .map(|mount| {
            let mut options = mount.options.clone();
            options.sort();
            json!([mount.point, mount.kind, options.join(",")])
        })
        .collect();
    json!({
        "args": facts.args, "env": facts.env, "cwd": facts.cwd, "status": status, "rlimits": rlimits,
        "fds": facts.fds.keys().collect::<Vec<_>>(), "hostname": facts.hostname, "mounts": mounts,
        "oom_score_adj": facts.files.get("/proc/self/oom_score_adj"), "terminal": facts.terminal,
        "devices": facts.devices.keys().collect::<Vec<_>>(),
    })
    .to_string()
}
