//! Device rules: from the configuration, to a list, to a device program, to v1's lists, to systemd's DeviceAllow.
//!
//! A request names a device and one or more of read, write and mknod. Each of these is decided by the last rule that
//! covers it; what no rule covers is denied; and a request is granted when everything that it names is.

mod list;
mod program;

pub use list::{Mode, Policy, simplify};
pub use program::program;

use oci_spec::runtime::{Linux, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use serde::{Deserialize, Serialize};

use super::Findings;

/// The type of the device nodes that a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeviceKind {
    /// Block and character devices.
    All,
    /// Block devices alone (`b`).
    Block,
    /// Character devices alone (`c`).
    Char,
}

/// Bits of [`DeviceRule::access`], as the kernel numbers them (linux/bpf.h, BPF_DEVCG_ACC_*).
pub const MKNOD: u8 = 1;
pub(crate) const READ: u8 = 2;
/// The right to write (BPF_DEVCG_ACC_WRITE).
pub const WRITE: u8 = 4;
pub(crate) const EVERYTHING: u8 = MKNOD | READ | WRITE;

/// An entry of linux.resources.devices, or one that the runtime adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// Whether the rule grants or denies access.
    pub allow: bool,
    /// The kind of node.
    pub kind: DeviceKind,
    /// The major number; `None` is all.
    pub major: Option<u32>,
    /// The minor number; `None` is all.
    pub minor: Option<u32>,
    /// A set of [`MKNOD`], `READ` and [`WRITE`], never empty.
    pub access: u8,
}

impl DeviceRule {
    /// `c 1:3 rwm`, as v1's files and runtimes' messages write it.
    pub fn text(&self) -> String {
        let number = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        let kind = match self.kind {
            DeviceKind::All => 'a',
            DeviceKind::Block => 'b',
            DeviceKind::Char => 'c',
        };
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), self.access_text())
    }

    /// `rwm`, or what of it applies.
    pub(crate) fn access_text(&self) -> String {
        [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.access & bit != 0)
            .map(|(_, letter)| letter)
            .collect()
    }
}

const fn grant(major: Option<u32>, minor: Option<u32>, kind: DeviceKind, access: u8) -> DeviceRule {
    DeviceRule { allow: true, kind, major, minor, access }
}

/// The rules of every container, after those of its configuration: make any node (using it is another matter), and
/// use the devices that the runtime itself puts into /dev (config-linux.md, Default Devices) and pseudo terminals.
/// The path is that of a default device, which a configured device of the same path replaces.
const DEFAULTS: [(&str, DeviceRule); 10] = [
    ("", grant(None, None, DeviceKind::Char, MKNOD)),
    ("", grant(None, None, DeviceKind::Block, MKNOD)),
    ("/dev/null", grant(Some(1), Some(3), DeviceKind::Char, EVERYTHING)),
    ("/dev/random", grant(Some(1), Some(8), DeviceKind::Char, EVERYTHING)),
    ("/dev/full", grant(Some(1), Some(7), DeviceKind::Char, EVERYTHING)),
    ("/dev/tty", grant(Some(5), Some(0), DeviceKind::Char, EVERYTHING)),
    ("/dev/zero", grant(Some(1), Some(5), DeviceKind::Char, EVERYTHING)),
    ("/dev/urandom", grant(Some(1), Some(9), DeviceKind::Char, EVERYTHING)),
    // Slaves of devpts, and its ptmx.
    ("", grant(Some(136), None, DeviceKind::Char, EVERYTHING)),
    ("", grant(Some(5), Some(2), DeviceKind::Char, EVERYTHING)),
];

/// The rules of a configuration with the defaults after them.
pub fn rules(linux: Option<&Linux>, resources: &LinuxResources, findings: &mut Findings) -> Vec<DeviceRule> {
    let asked = resources.devices().iter().flatten().enumerate();
    let mut rules: Vec<DeviceRule> = asked.filter_map(|(index, device)| rule(device, index, findings)).collect();
    let nodes = || linux.and_then(|linux| linux.devices().as_ref()).into_iter().flatten();
    rules.extend(
        DEFAULTS
            .iter()
            .filter(|(path, _)| path.is_empty() || !nodes().any(|node| node.path().as_os_str() == *path))
            .map(|(_, rule)| *rule),
    );
    rules
}

fn rule(device: &LinuxDeviceCgroup, index: usize, findings: &mut Findings) -> Option<DeviceRule> {
    let path = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let before = findings.violations.len();
    let kind = match device.typ() {
        None | Some(LinuxDeviceType::A) => DeviceKind::All,
        Some(LinuxDeviceType::B) => DeviceKind::Block,
        Some(LinuxDeviceType::C) => DeviceKind::Char,
        Some(other) => {
            findings.deny(path("type"), format!("{:?} is no type of a device rule", other.as_str()), "use a, b or c");
            DeviceKind::All
        }
    };
    let mut number = |name: &str, value: Option<i64>| match value {
        None | Some(-1) => None,
        Some(value) => u32::try_from(value).ok().or_else(|| {
            findings.deny(path(name), format!("{value} is no device number"), "leave it out, or write -1, for all");
            None
        }),
    };
    let (major, minor) = (number("major", device.major()), number("minor", device.minor()));
    let mut access = 0;
    for letter in device.access().as_deref().unwrap_or_default().chars() {
        match letter {
            'r' => access |= READ,
            'w' => access |= WRITE,
            'm' => access |= MKNOD,
            // Callers write it for "all" where it has no meaning (config-linux.md, Device allowlist).
            'a' => findings.warn(format!("{}: 'a' is no access, and is ignored", path("access"))),
            other => findings.deny(path("access"), format!("unknown letter {other:?}"), "expected some of r, w, m"),
        }
    }
    if access == 0 && findings.violations.len() == before {
        findings.deny(path("access"), "device access cannot be empty", "use r, w and m");
    }
    (findings.violations.len() == before).then_some(DeviceRule { allow: device.allow(), kind, major, minor, access })
}

#[cfg(test)]
mod tests;
