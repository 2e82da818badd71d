//! Checks of one process object: config.json's `process`, or the one of an exec.

use oci_spec::runtime::{Capabilities, LinuxSchedulerPolicy, Process};

use crate::host::SecurityModules;
use crate::process::MAX_CPUS;
use crate::{Findings, Host};

/// The JSON path of the process object; empty for a process.json.
#[derive(Clone, Copy)]
pub(super) struct ProcessPath<'a>(pub &'a str);

impl ProcessPath<'_> {
    fn field(self, field: &str) -> String {
        if self.0.is_empty() { field.to_owned() } else { format!("{}.{field}", self.0) }
    }
}

type Check = fn(&Process, ProcessPath<'_>, &Host, &mut Findings);

/// Checks whose violations refuse the process.
pub(super) const DENIALS: &[Check] = &[
    cwd_is_absolute,
    args_name_a_program,
    environment_is_made_of_assignments,
    rlimits_are_sound,
    oom_score_is_in_range,
    scheduler_is_sound,
    io_priority_is_in_range,
    affinity_is_a_list,
    capabilities_are_sound,
    labels_have_their_module,
];

/// Checks that only warn.
pub(super) const WARNINGS: &[Check] = &[capabilities_are_known_to_the_kernel, user_has_no_name];

fn cwd_is_absolute(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    let cwd = process.cwd();
    if cwd.as_os_str().is_empty() {
        findings.deny(at.field("cwd"), "Cwd property must not be empty", "\"/\" is always there");
    } else if !cwd.is_absolute() {
        findings.deny(at.field("cwd"), format!("Cwd must be an absolute path, not {cwd:?}"), "");
    } else if cwd.as_os_str().as_encoded_bytes().contains(&0) {
        findings.deny(at.field("cwd"), "contains a NUL byte", "");
    }
}

fn args_name_a_program(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    let args = process.args().as_deref();
    match args.and_then(|args| args.first()) {
        None => findings.deny(at.field("args"), "args must not be empty", "name the program to run"),
        Some(program) if program.is_empty() => {
            findings.deny(at.field("args[0]"), "is empty", "name the program to run");
        }
        Some(_) => {}
    }
    check_no_nul(args, &at.field("args"), findings);
}

fn environment_is_made_of_assignments(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    let (env, path) = (process.env().as_deref(), at.field("env"));
    for (index, entry) in env.unwrap_or_default().iter().enumerate() {
        match entry.find('=') {
            None => findings.deny(format!("{path}[{index}]"), format!("{entry:?} has no \"=\""), "write NAME=value"),
            Some(0) => findings.deny(format!("{path}[{index}]"), format!("{entry:?} has no name"), "write NAME=value"),
            Some(_) => {}
        }
    }
    check_no_nul(env, &path, findings);
}

/// The kernel ends a string at its first NUL, so the rest would be lost silently.
pub(crate) fn check_no_nul(strings: Option<&[String]>, path: &str, findings: &mut Findings) {
    for (index, text) in strings.unwrap_or_default().iter().enumerate() {
        if text.contains('\0') {
            findings.deny(format!("{path}[{index}]"), "contains a NUL byte", "");
        }
    }
}

/// config.md: a type given twice is an error. getrlimit(2): soft must not be above hard.
fn rlimits_are_sound(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    for (index, limit) in limits.iter().enumerate() {
        let path = at.field(&format!("rlimits[{index}]"));
        if limits[..index].iter().any(|earlier| earlier.typ() == limit.typ()) {
            findings.deny(&path, format!("{} is given twice", limit.typ()), "");
        }
        if limit.soft() > limit.hard() {
            findings.deny(&path, format!("soft limit {} is above hard limit {}", limit.soft(), limit.hard()), "");
        }
    }
}

/// Range of /proc/PID/oom_score_adj (proc(5)).
fn oom_score_is_in_range(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
        findings.deny(at.field("oomScoreAdj"), format!("{score} is out of range: expected -1000 to 1000"), "");
    }
}

/// sched_setattr(2): which fields are valid for which policy.
fn scheduler_is_sound(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedIso, SchedOther, SchedRr};
    let Some(scheduler) = process.scheduler() else { return };
    let policy = *scheduler.policy();
    if policy == SchedIso {
        findings.deny(at.field("scheduler.policy"), "SCHED_ISO is not implemented by Linux", "use SCHED_RR");
    }
    if let Some(nice) = scheduler.nice().filter(|nice| *nice != 0) {
        let path = at.field("scheduler.nice");
        if policy != SchedOther && policy != SchedBatch {
            // The kernel stores the value for a later change of policy (kernel/sched/syscalls.c,
            // __setscheduler_params).
            findings.warn(format!("{path} goes with SCHED_OTHER and SCHED_BATCH alone, and has no effect"));
        } else if !(-20..=19).contains(&nice) {
            findings.deny(path, format!("{nice} is out of range: expected -20 to 19"), "");
        }
    }
    let realtime = policy == SchedFifo || policy == SchedRr;
    match scheduler.priority().unwrap_or(0) {
        1..=99 if realtime => {}
        0 if !realtime => {}
        0 => findings.deny(at.field("scheduler.priority"), "missing", "SCHED_FIFO and SCHED_RR need 1 to 99"),
        _ if !realtime => {
            findings.deny(at.field("scheduler.priority"), "goes with SCHED_FIFO and SCHED_RR alone", "");
        }
        other => {
            findings.deny(at.field("scheduler.priority"), format!("{other} is out of range: expected 1 to 99"), "")
        }
    }
    let times = [("runtime", scheduler.runtime()), ("deadline", scheduler.deadline()), ("period", scheduler.period())];
    for (name, time) in times {
        if policy != SchedDeadline && time.is_some_and(|time| time != 0) {
            findings.deny(at.field(&format!("scheduler.{name}")), "goes with SCHED_DEADLINE alone", "");
        }
    }
}

/// ioprio_set(2) has eight levels, 0 to 7.
fn io_priority_is_in_range(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    if let Some(priority) = process.io_priority().map(|io| io.priority()).filter(|level| !(0..=7).contains(level)) {
        findings.deny(at.field("ioPriority.priority"), format!("{priority} is out of range: expected 0 to 7"), "");
    }
}

/// config.md, execCPUAffinity: CPU numbers and ascending ranges.
fn affinity_is_a_list(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    let Some(affinity) = process.exec_cpu_affinity() else { return };
    for (name, list) in [("initial", affinity.initial()), ("final", affinity.cpu_affinity_final())] {
        let path = at.field(&format!("execCPUAffinity.{name}"));
        let parts = list.as_deref().unwrap_or_default().split(',');
        for part in parts.filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(first), Ok(last)) if first > last => {
                    findings.deny(&path, format!("the range {part:?} descends"), "write the lower number first");
                }
                (Ok(_), Ok(last)) if last < MAX_CPUS => {}
                _ => findings.deny(
                    &path,
                    format!("{part:?} is no cpu"),
                    "write numbers below 8192, and ranges such as 0-3,7",
                ),
            }
        }
    }
}

/// capset(2) refuses an effective capability that is not permitted.
fn capabilities_are_sound(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    let Some(sets) = process.capabilities() else { return };
    let none = Capabilities::new();
    let permitted = sets.permitted().as_ref().unwrap_or(&none);
    let mut beyond: Vec<String> = sets
        .effective()
        .iter()
        .flatten()
        .filter(|one| !permitted.contains(one))
        .map(|one| format!("CAP_{one}"))
        .collect();
    beyond.sort();
    if !beyond.is_empty() {
        let reason = format!("{} not in capabilities.permitted", beyond.join(", "));
        findings.deny(at.field("capabilities.effective"), reason, "permit them, or leave them out");
    }
}

/// Capabilities that this kernel or this caller lacks are dropped with a warning, as by runc.
fn capabilities_are_known_to_the_kernel(process: &Process, at: ProcessPath<'_>, host: &Host, findings: &mut Findings) {
    use oci_spec::runtime::Capability::{Bpf, CheckpointRestore, Perfmon};
    let Some(sets) = process.capabilities() else { return };
    // All other capabilities of the model are older than these three (linux/capability.h).
    let newest = [(Perfmon, 38), (Bpf, 39), (CheckpointRestore, 40)];
    for (capability, number) in newest {
        let sets = [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()];
        if host.last_capability < number && sets.into_iter().flatten().any(|set| set.contains(&capability)) {
            let path = at.field("capabilities");
            findings.warn(format!("{path}: ignoring unknown or unavailable capability CAP_{capability}"));
        }
    }
}

/// config.md, User: username is for Windows. Callers resolve names themselves, or use exec's --user.
fn user_has_no_name(process: &Process, at: ProcessPath<'_>, _: &Host, findings: &mut Findings) {
    if let Some(name) = process.user().username().as_ref().filter(|name| !name.is_empty()) {
        let reason = format!("{name:?} is ignored on Linux; the process runs as uid {}", process.user().uid());
        findings.warn(format!("{}: {reason}", at.field("user.username")));
    }
}

/// A label without an enabled security module would be silently unenforced, so it is refused.
fn labels_have_their_module(process: &Process, at: ProcessPath<'_>, host: &Host, findings: &mut Findings) {
    let (profile, label) = (process.apparmor_profile().as_deref(), process.selinux_label().as_deref());
    labels_have_their_module_at(
        (profile, at.field("apparmorProfile")),
        (label, at.field("selinuxLabel")),
        host,
        findings,
    );
}

/// Like [`labels_have_their_module`], for a profile and a label given separately, each with the path to report.
pub(super) fn labels_have_their_module_at(
    (profile, profile_place): (Option<&str>, String),
    (label, label_place): (Option<&str>, String),
    host: &Host,
    findings: &mut Findings,
) {
    if !host.security_modules.contains(SecurityModules::APPARMOR)
        && profile.is_some_and(|profile| !profile.is_empty() && profile != "unconfined")
    {
        let reason = "apparmor: config provided but apparmor not supported";
        findings.deny(profile_place, reason, "enable AppArmor on the host, or leave it out");
    }
    if !host.security_modules.contains(SecurityModules::SELINUX) && label.is_some_and(|label| !label.is_empty()) {
        let reason = "selinux label is specified in config, but selinux is disabled or not supported";
        findings.deny(label_place, reason, "enable SELinux on the host, or leave it out");
    }
}
