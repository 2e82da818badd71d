//! A case: one rule, and the function that checks it.

use serde::{Deserialize, Serialize};

use super::{Fixture, Host};

/// The strength of a case's rule.
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
    /// No such controller, on v1 or v2: it would limit the observed resource.
    NoController(&'static str),
    /// This kind of namespace, by its name in /proc/self/ns.
    Namespace(&'static str),
    /// A kernel of at least this version.
    Kernel(u32, u32),
    /// AppArmor is enabled.
    AppArmor,
    /// SELinux is enabled.
    Selinux,
    /// systemd is PID 1 and answers on D-Bus.
    Systemd,
    /// CAP_SYS_RESOURCE, which not every test machine gives to root.
    SysResource,
    /// At least this many CPUs in this process's affinity mask.
    Cpus(usize),
    /// This program is in PATH.
    Program(&'static str),
    /// This file is there.
    File(&'static str),
    /// This file is not there.
    NoFile(&'static str),
    /// A virtual machine of the beds, whose kernel runs no other work.
    OwnMachine,
    /// A block device, for limits by device number.
    BlockDevice,
    /// One of these files, in a new cgroup of this controller.
    CgroupFile(&'static str, &'static [&'static str]),
    /// Pairs of network devices (veth) can be created.
    Links,
}

/// One rule and its check.
#[derive(Clone, Copy)]
pub struct Case {
    /// A unique sentence, which reports and data files use as the key.
    pub name: &'static str,
    /// The section of the specification that has the rule: `config.md#mounts`, or `runc: kill`.
    pub section: &'static str,
    /// How strong the rule is.
    pub level: Level,
    /// The properties of the host without which the case is meaningless.
    pub needs: &'static [Need],
    /// The check. An error is a failure; its text gives the expected and the found value.
    pub run: fn(&Fixture) -> anyhow::Result<()>,
}

impl Case {
    /// A case that every host can run.
    pub const fn new(
        name: &'static str,
        section: &'static str,
        level: Level,
        run: fn(&Fixture) -> anyhow::Result<()>,
    ) -> Case {
        Case { name, section, level, needs: &[], run }
    }

    /// The case, restricted to hosts that have all of these.
    pub const fn on(self, needs: &'static [Need]) -> Case {
        Case { needs, ..self }
    }

    /// The first need that this host does not meet.
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
    /// The rule is broken; the text says how.
    Failed(String),
    /// The host lacks the named need; another bed must have it.
    Absent(String),
}

/// A line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The case's name.
    pub case: String,
    /// The section of the specification that has the rule.
    pub section: String,
    /// The kind of rule that the case checks.
    pub level: Level,
    /// The case's result.
    pub verdict: Verdict,
    /// The duration of the case.
    pub milliseconds: u64,
}
