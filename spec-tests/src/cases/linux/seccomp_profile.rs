//! config-linux.md, Seccomp: the result of every system call under a real profile, that of Docker.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::harness::{Case, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#seccomp";
/// Names and numbers of the native calls, as libc's headers for programs have them.
const HEADER: &str = "/usr/include/x86_64-linux-gnu/asm/unistd_64.h";
const COMPAT_HEADER: &str = "/usr/include/x86_64-linux-gnu/asm/unistd_32.h";

/// Kernels that have the i386 entry have this.
const I386: Need = Need::File("/proc/sys/abi/vsyscall32");

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("every native call has the result that a real profile specifies", SECTION, Level::Must, |fixture| {
        sweep(fixture, "native", HEADER)
    })
    .on(&[Need::File(HEADER)]),
    Case::new("every call of i386 has the result that a real profile specifies", SECTION, Level::Must, |fixture| {
        sweep(fixture, "compat", COMPAT_HEADER)
    })
    .on(&[Need::File(COMPAT_HEADER), I386]),
    Case::new("a call that is newer than its profile is not there", SECTION, Level::Runc, newer),
];

/// The profile that Docker gives a container by default.
pub fn profile() -> anyhow::Result<Value> {
    serde_json::from_str(include_str!("../../../data/docker-default-seccomp.json")).context("the profile")
}

fn names(header: &str) -> anyhow::Result<BTreeMap<u32, String>> {
    let text = std::fs::read_to_string(header)?;
    let pair = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((number.trim().parse().ok()?, name.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// The profile's action, and its error, for a call whose arguments are all -1.
fn verdict(profile: &Value, name: &str, ones: u64) -> anyhow::Result<(String, u64)> {
    for rule in profile["syscalls"].as_array().context("the profile has rules")? {
        let is_named = rule["names"].as_array().is_some_and(|names| names.iter().any(|one| one == name));
        if is_named && matches(rule, ones)? {
            let action = rule["action"].as_str().context("a rule has an action")?;
            return Ok((action.to_owned(), rule["errnoRet"].as_u64().unwrap_or(1)));
        }
    }
    let action = profile["defaultAction"].as_str().context("a profile has a default")?;
    Ok((action.to_owned(), profile["defaultErrnoRet"].as_u64().unwrap_or(1)))
}

/// Whether a rule's conditions hold for arguments that are all -1.
fn matches(rule: &Value, ones: u64) -> anyhow::Result<bool> {
    for argument in rule["args"].as_array().into_iter().flatten() {
        let value = argument["value"].as_u64().context("an argument has a value")?;
        let two = argument["valueTwo"].as_u64().unwrap_or(0);
        let holds = match argument["op"].as_str().unwrap_or_default() {
            "SCMP_CMP_EQ" => value == ones,
            "SCMP_CMP_NE" => value != ones,
            "SCMP_CMP_LT" | "SCMP_CMP_GE" => (value == ones) == (argument["op"] == "SCMP_CMP_GE"),
            "SCMP_CMP_LE" => value == ones,
            "SCMP_CMP_GT" => value != ones,
            "SCMP_CMP_MASKED_EQ" => value == two,
            other => bail!("the profile has the operator {other}"),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The results of the calls up to `last`, by number.
fn results(fixture: &Fixture, profile: Option<Value>, entry: &str, last: u32) -> anyhow::Result<BTreeMap<u32, String>> {
    let mut bundle = fixture.bundle()?;
    fixture.install(&bundle, "syscalls")?;
    if let Some(profile) = profile {
        bundle.set("/linux/seccomp", profile);
    }
    let text = fixture.run(bundle.args(&["/syscalls", entry, "0", &last.to_string()]))?.ok()?.stdout;
    let pair = |line: &str| {
        let (number, result) = line.split_once(' ')?;
        Some((number.parse().ok()?, result.to_owned()))
    };
    Ok(text.lines().filter_map(pair).collect())
}

/// Each call: one that the profile denies fails with its error or, where it is newer, with ENOSYS; one that it allows
/// ends as it does without a filter, or at least not as if it had been denied.
fn sweep(fixture: &Fixture, entry: &str, header: &str) -> anyhow::Result<()> {
    let (profile, names) = (profile()?, names(header)?);
    let last = *names.keys().next_back().context("the header has no numbers")?;
    let free = results(fixture, None, entry, last)?;
    let filtered = results(fixture, Some(profile.clone()), entry, last)?;
    ensure!(filtered.len() == free.len(), "with the profile {} calls ended, without it {}", filtered.len(), free.len());
    // The value of -1 in a filter: the arguments of i386 have 32 bits.
    let ones = if entry == "compat" { u64::from(u32::MAX) } else { u64::MAX };
    let (mut wrong, mut denied, mut allowed) = (Vec::new(), 0, 0);
    for (number, found) in &filtered {
        let Some(name) = names.get(number) else {
            continue;
        };
        let (action, error) = verdict(&profile, name, ones)?;
        let without = free.get(number).map_or("", String::as_str);
        let is_right = if action == "SCMP_ACT_ALLOW" {
            allowed += 1;
            found == without || !matches!(found.as_str(), "1" | "38" | "signal 31")
        } else {
            denied += 1;
            *found == error.to_string() || found == "38"
        };
        if !is_right {
            wrong.push(format!("{name}: {action} {error}, found {found}, without a filter {without}"));
        }
    }
    ensure!(denied > 50 && allowed > 200, "the sweep is too small: {denied} denied and {allowed} allowed");
    ensure!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), filtered.len(), wrong.join("\n"));
    Ok(())
}

/// Programs fall back to older calls on ENOSYS, and give up on EPERM.
fn newer(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.install(&bundle, "syscalls")?;
    bundle.set("/linux/seccomp", profile()?).args(&["/syscalls", "one", "900"]);
    let found = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(found.trim() == "38", "call 900: expected error 38 (ENOSYS), found {found}");
    Ok(())
}
