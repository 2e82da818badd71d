//! The process (config.md, Process): identity, privileges and program. The same for create and for exec.

use std::path::PathBuf;

use oci_spec::runtime::{
    Capabilities, Capability, IOPriorityClass, LinuxPersonality, LinuxPersonalityDomain, LinuxSchedulerFlag,
    LinuxSchedulerPolicy, PosixRlimitType, Process, Scheduler,
};
use serde::{Deserialize, Serialize};

use super::memory_policy::MemoryPolicy;
use super::{Findings, Host};
use brig_sys::cred::{CapabilitySets, SchedulerAttributes};

/// A resource limit (prlimit(2)).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rlimit {
    /// The RLIMIT_* number (getrlimit(2)).
    pub resource: u32,
    /// The limit in force.
    pub soft: u64,
    /// The ceiling of the soft limit.
    pub hard: u64,
}

/// The attributes of a process to start.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProcessPlan {
    /// Whether the process has a terminal.
    pub terminal: bool,
    /// Initial size of the terminal: rows, columns.
    pub console_size: Option<(u16, u16)>,
    /// User id in the process's user namespace, as are all ids here.
    pub uid: u32,
    /// The primary group, in the container's user namespace.
    pub gid: u32,
    /// A `user[:group]` still to be looked up in the container's own files; overrides the ids.
    pub user: Option<String>,
    /// The supplementary groups.
    pub groups: Vec<u32>,
    /// Keep the caller's groups instead.
    pub keep_groups: bool,
    /// File mode creation mask (umask(2)).
    pub umask: u32,
    /// Working directory, absolute inside the container.
    pub cwd: PathBuf,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` entries, one for each name.
    pub env: Vec<String>,
    /// The sets that the program starts with.
    pub capabilities: CapabilitySets,
    /// The resource limits to set.
    pub rlimits: Vec<Rlimit>,
    /// Set PR_SET_NO_NEW_PRIVS (prctl(2)).
    pub no_new_privileges: bool,
    /// Value for /proc/PID/oom_score_adj.
    pub oom_score_adj: Option<i32>,
    /// AppArmor profile to change to on exec.
    pub apparmor: Option<String>,
    /// SELinux label to change to on exec.
    pub selinux: Option<String>,
    /// I/O priority, class and level.
    pub io_priority: Option<(u16, u16)>,
    /// The scheduling policy to set; `None` keeps the caller's.
    pub scheduler: Option<SchedulerAttributes>,
    /// Persona for personality(2).
    pub personality: Option<u64>,
    /// Arguments of set_mempolicy(2).
    pub memory_policy: Option<MemoryPolicy>,
    /// CPUs before the cgroup is entered; exec only. Without these and the final ones, the process has all CPUs of
    /// its cpuset, whatever the caller's affinity is.
    pub initial_affinity: Vec<u32>,
    /// CPUs after the cgroup is entered; exec only.
    pub final_affinity: Vec<u32>,
}

/// Limit of CPU numbers (NR_CPUS, arch/x86/Kconfig).
pub(crate) const MAX_CPUS: u32 = 8192;

/// Plans a process object.
pub(crate) fn build(process: &Process, own_user_ns: bool, host: &Host, findings: &mut Findings) -> ProcessPlan {
    let user = process.user();
    let (initial_affinity, final_affinity) = exec_affinity(process);
    ProcessPlan {
        terminal: process.terminal().unwrap_or_default(),
        console_size: process.console_size().and_then(|size| {
            let clamp = |cells: u64| u16::try_from(cells).unwrap_or(u16::MAX);
            (size.height() > 0 && size.width() > 0).then(|| (clamp(size.height()), clamp(size.width())))
        }),
        uid: user.uid(),
        gid: user.gid(),
        user: None,
        groups: user.additional_gids().clone().unwrap_or_default(),
        keep_groups: false,
        umask: user.umask().unwrap_or(0o022),
        cwd: process.cwd().clone(),
        args: process.args().clone().unwrap_or_default(),
        env: dedup_env(process.env().as_deref().unwrap_or_default()),
        capabilities: capabilities(process, own_user_ns, host, findings),
        rlimits: rlimits(process),
        no_new_privileges: process.no_new_privileges().unwrap_or_default(),
        oom_score_adj: process.oom_score_adj(),
        apparmor: label(process.apparmor_profile().as_ref()),
        selinux: label(process.selinux_label().as_ref()),
        io_priority: process.io_priority().as_ref().map(|priority| {
            let class = match priority.class() {
                IOPriorityClass::IoprioClassRt => 1,
                IOPriorityClass::IoprioClassBe => 2,
                IOPriorityClass::IoprioClassIdle => 3,
            };
            (class, u16::try_from(priority.priority()).unwrap_or_default())
        }),
        scheduler: process.scheduler().as_ref().map(scheduler),
        personality: None,
        memory_policy: None,
        initial_affinity,
        final_affinity,
    }
}

/// The CPUs of execCPUAffinity, before and after the cgroup is entered.
pub(crate) fn exec_affinity(process: &Process) -> (Vec<u32>, Vec<u32>) {
    let affinity = process.exec_cpu_affinity().as_ref();
    let cpus = |list: Option<&String>| list.map(|list| parse_cpus(list)).unwrap_or_default();
    (
        cpus(affinity.and_then(|affinity| affinity.initial().as_ref())),
        cpus(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref())),
    )
}

/// Fills in the fields that an exec's process file leaves out and runc takes from the container's own process:
/// confinement and scheduling. Program, user, working directory and resource limits come from the file alone. Taking
/// the AppArmor profile goes beyond runc, whose exec would be unconfined.
pub fn with_defaults(mut process: Process, container: &Process) -> Process {
    if process.capabilities().is_none() {
        process.set_capabilities(container.capabilities().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(container.oom_score_adj());
    }
    if label(process.apparmor_profile().as_ref()).is_none() {
        process.set_apparmor_profile(container.apparmor_profile().clone());
    }
    if label(process.selinux_label().as_ref()).is_none() {
        process.set_selinux_label(container.selinux_label().clone());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(container.scheduler().clone());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*container.io_priority());
    }
    if process.exec_cpu_affinity().is_none() {
        process.set_exec_cpu_affinity(container.exec_cpu_affinity().clone());
    }
    if process.user().umask().is_none() {
        process.user_mut().set_umask(container.user().umask());
    }
    process
}

fn label(label: Option<&String>) -> Option<String> {
    label.filter(|label| !label.is_empty()).cloned()
}

/// Keeps one entry for each name: the last one, at the position of the first. As runc does; libc's getenv would find
/// any of them.
pub fn dedup_env(env: &[String]) -> Vec<String> {
    let name = |entry: &str| entry.split_once('=').map_or(entry.len(), |(name, _)| name.len());
    let mut positions = std::collections::HashMap::with_capacity(env.len());
    let mut kept: Vec<String> = Vec::with_capacity(env.len());
    for entry in env {
        match positions.entry(&entry[..name(entry)]) {
            std::collections::hash_map::Entry::Occupied(at) => kept[*at.get()] = entry.clone(),
            std::collections::hash_map::Entry::Vacant(at) => {
                at.insert(kept.len());
                kept.push(entry.clone());
            }
        }
    }
    kept
}

/// The five capability sets without those that the caller lacks; a new user namespace starts with all of them.
fn capabilities(process: &Process, own_user_ns: bool, host: &Host, findings: &mut Findings) -> CapabilitySets {
    let Some(wanted) = process.capabilities() else { return CapabilitySets::default() };
    let mut set = |capabilities: &Option<Capabilities>| {
        let mut bits = 0;
        for capability in capabilities.iter().flatten() {
            let number = capability_number(*capability);
            if number > host.last_capability {
                // The check of the process has already warned about it.
            } else if !own_user_ns && host.effective_capabilities & 1 << number == 0 {
                // config.md, Linux Process: a capability that cannot be granted is a warning, not an error.
                let reason = format!("CAP_{capability} cannot be given: the caller does not have it; ignored");
                findings.warn(format!("process.capabilities: {reason}"));
            } else {
                bits |= 1 << number;
            }
        }
        bits
    };
    let mut sets = CapabilitySets {
        bounding: set(wanted.bounding()),
        effective: set(wanted.effective()),
        permitted: set(wanted.permitted()),
        inheritable: set(wanted.inheritable()),
        ambient: set(wanted.ambient()),
    };
    // capabilities(7): a capability can be ambient only while it is permitted and inheritable.
    let possible = sets.permitted & sets.inheritable;
    let mut beyond: Vec<String> = wanted
        .ambient()
        .iter()
        .flatten()
        .filter(|one| (sets.ambient & !possible) & 1 << capability_number(**one) != 0)
        .map(|one| format!("CAP_{one}"))
        .collect();
    if !beyond.is_empty() {
        beyond.sort();
        let list = beyond.join(", ");
        findings.warn(format!("process.capabilities.ambient: {list} not permitted and inheritable at once; ignored"));
    }
    sets.ambient &= possible;
    sets
}

/// Looks a capability up by its full name in capitals, `CAP_CHOWN`, the only spelling that runc accepts.
pub(crate) fn capability_named(name: &str) -> Option<Capability> {
    name.strip_prefix("CAP_")?.parse().ok()
}

/// The bit set of the named capabilities, and the unknown names.
pub(crate) fn parse_capabilities(names: &[String]) -> (u64, Vec<String>) {
    let (mut bits, mut unknown) = (0, Vec::new());
    for name in names {
        match capability_named(name) {
            Some(capability) => bits |= 1 << capability_number(capability),
            None => unknown.push(name.clone()),
        }
    }
    (bits, unknown)
}

/// The capability's number in linux/capability.h.
pub(crate) fn capability_number(capability: Capability) -> u8 {
    match capability {
        Capability::Chown => 0,
        Capability::DacOverride => 1,
        Capability::DacReadSearch => 2,
        Capability::Fowner => 3,
        Capability::Fsetid => 4,
        Capability::Kill => 5,
        Capability::Setgid => 6,
        Capability::Setuid => 7,
        Capability::Setpcap => 8,
        Capability::LinuxImmutable => 9,
        Capability::NetBindService => 10,
        Capability::NetBroadcast => 11,
        Capability::NetAdmin => 12,
        Capability::NetRaw => 13,
        Capability::IpcLock => 14,
        Capability::IpcOwner => 15,
        Capability::SysModule => 16,
        Capability::SysRawio => 17,
        Capability::SysChroot => 18,
        Capability::SysPtrace => 19,
        Capability::SysPacct => 20,
        Capability::SysAdmin => 21,
        Capability::SysBoot => 22,
        Capability::SysNice => 23,
        Capability::SysResource => 24,
        Capability::SysTime => 25,
        Capability::SysTtyConfig => 26,
        Capability::Mknod => 27,
        Capability::Lease => 28,
        Capability::AuditWrite => 29,
        Capability::AuditControl => 30,
        Capability::Setfcap => 31,
        Capability::MacOverride => 32,
        Capability::MacAdmin => 33,
        Capability::Syslog => 34,
        Capability::WakeAlarm => 35,
        Capability::BlockSuspend => 36,
        Capability::AuditRead => 37,
        Capability::Perfmon => 38,
        Capability::Bpf => 39,
        Capability::CheckpointRestore => 40,
    }
}

fn rlimits(process: &Process) -> Vec<Rlimit> {
    // include/uapi/asm-generic/resource.h; the type of the C libraries' constants differs.
    let number = |typ| match typ {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    };
    let limits = process.rlimits().iter().flatten();
    limits.map(|limit| Rlimit { resource: number(limit.typ()), soft: limit.soft(), hard: limit.hard() }).collect()
}

fn scheduler(scheduler: &Scheduler) -> SchedulerAttributes {
    let flag = |flag: &LinuxSchedulerFlag| match flag {
        LinuxSchedulerFlag::SchedResetOnFork => 0x01,
        LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
        LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
        LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
        LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
        LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
        LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
    };
    SchedulerAttributes {
        size: 0,
        policy: match scheduler.policy() {
            LinuxSchedulerPolicy::SchedOther => 0,
            LinuxSchedulerPolicy::SchedFifo => 1,
            LinuxSchedulerPolicy::SchedRr => 2,
            LinuxSchedulerPolicy::SchedBatch => 3,
            LinuxSchedulerPolicy::SchedIso => 4,
            LinuxSchedulerPolicy::SchedIdle => 5,
            LinuxSchedulerPolicy::SchedDeadline => 6,
        },
        flags: scheduler.flags().iter().flatten().map(flag).sum(),
        nice: scheduler.nice().unwrap_or_default(),
        priority: scheduler.priority().unwrap_or_default().try_into().unwrap_or_default(),
        runtime: scheduler.runtime().unwrap_or_default(),
        deadline: scheduler.deadline().unwrap_or_default(),
        period: scheduler.period().unwrap_or_default(),
    }
}

/// The persona of linux.personality. The specification defines no flags yet; a check warns about any.
pub(crate) fn personality(personality: &LinuxPersonality) -> u64 {
    match personality.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    }
}

/// Parses CPU numbers from a list such as `0-3,7`; malformed parts, which a check refuses, give none.
fn parse_cpus(list: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number < MAX_CPUS);
        Some(number(first)?..=number(last)?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_variable_replaces_the_first() {
        let env = ["A=1", "B=2", "A=3", "C"].map(str::to_owned);
        assert_eq!(dedup_env(&env), ["A=3", "B=2", "C"]);
    }

    #[test]
    fn cpu_lists_are_parsed() {
        assert_eq!(parse_cpus("0-3,7"), [0, 1, 2, 3, 7]);
    }

    #[test]
    fn only_full_capability_names_in_capitals_are_known() {
        let names = ["CAP_CHOWN", "CAP_KILL", "KILL", "kill", "cap_kill", "CAP_CAP_KILL", "CAP_X"].map(str::to_owned);
        assert_eq!(parse_capabilities(&names), (1 | 1 << 5, names[2..].to_vec()));
    }
}
