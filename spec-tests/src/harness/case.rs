//! A case: one rule, and how to see whether a runtime keeps it.

use serde::{Deserialize, Serialize};

use super::{Ground, Host};

/// How strong the rule is that a case judges by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The specification says MUST, SHALL or REQUIRED.
    Must,
    /// The specification says SHOULD or RECOMMENDED.
    Should,
    /// Behaviour that callers of runc rely on, beyond the specification.
    Runc,
    /// A rule of isolation, after a published attack.
    Security,
}

/// A property of the host without which a case is meaningless there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// /sys/fs/cgroup is a pure cgroup v2 mount.
    CgroupV2,
    /// The controllers (at least `memory`, `cpu`, `pids`) are on v1.
    CgroupV1,
    /// This controller, on v1 or v2, by its name on v2.
    Controller(&'static str),
    /// Not this controller, on v1 or v2: it would hold back what the case looks at.
    NoController(&'static str),
    /// This kind of namespace, by its name in /proc/self/ns.
    Namespace(&'static str),
    /// A kernel of at least this version.
    Kernel(u32, u32),
    /// AppArmor is enabled.
    AppArmor,
    /// SELinux is enabled.
    Selinux,
    /// systemd is PID 1 and can be asked over D-Bus.
    Systemd,
    /// CAP_SYS_RESOURCE, which not every test machine gives to root.
    SysResource,
    /// As many CPUs that we may run on.
    Cpus(usize),
    /// This program is in PATH.
    Program(&'static str),
    /// This file is there.
    File(&'static str),
    /// This file is not there.
    NoFile(&'static str),
    /// A virtual machine of the beds, whose kernel no other work uses.
    OwnMachine,
    /// A block device, whose numbers can stand in limits.
    BlockDevice,
    /// One of these files, in a new cgroup of this controller.
    CgroupFile(&'static str, &'static [&'static str]),
    /// Pairs of network devices (veth) can be made.
    Links,
}

/// One rule and its judge.
#[derive(Clone, Copy)]
pub struct Case {
    /// Unique; words, as they stand in a report.
    pub name: &'static str,
    /// The rule's place: `config.md#mounts`, or `runc: kill`.
    pub section: &'static str,
    /// How strong the rule is.
    pub level: Level,
    /// Without these the case says nothing.
    pub needs: &'static [Need],
    /// The judge. An error is a failure, its text says what was expected and what was found.
    pub run: fn(&Ground) -> anyhow::Result<()>,
}

impl Case {
    /// A case with these words for a name.
    pub const fn new(
        name: &'static str,
        section: &'static str,
        level: Level,
        run: fn(&Ground) -> anyhow::Result<()>,
    ) -> Case {
        Case { name, section, level, needs: &[], run }
    }

    /// The same, where the host has all of these.
    pub const fn on(self, needs: &'static [Need]) -> Case {
        Case { needs, ..self }
    }

    /// The first thing that this host lacks for it.
    pub fn lacks(&self, host: &Host) -> Option<String> {
        self.needs.iter().find(|need| !host.has(**need)).map(|need| format!("{need:?}"))
    }
}

/// The result of a case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The rule is kept.
    Passed,
    /// The rule is broken, in this way.
    Failed(String),
    /// The host lacks what the case needs; says what. Another bed has to have it.
    Absent(String),
}

/// A line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The case's name.
    pub case: String,
    /// The part of the specification that the case judges by.
    pub section: String,
    /// The kind of rule that the case checks.
    pub level: Level,
    /// The case's result.
    pub verdict: Verdict,
    /// How long it took.
    pub milliseconds: u64,
}
