//! The device nodes of a container: the default ones (config-linux.md, Default Devices) and linux.devices.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use serde::{Deserialize, Serialize};

use super::Findings;
use super::mounts::clean;

/// Type of a device node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceKind {
    /// A character device (`c`, `u`).
    Char,
    /// A block device (`b`).
    Block,
    /// A FIFO, which has no device number.
    Fifo,
}

/// A device node to create.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceOp {
    /// Path in the container, absolute and without `..`.
    pub path: PathBuf,
    /// The type of the node.
    pub kind: DeviceKind,
    /// The driver's number.
    pub major: u32,
    /// The number of the device with its driver.
    pub minor: u32,
    /// Permission bits, without the file type.
    pub mode: u32,
    /// Owner, as an id of the container's user namespace.
    pub uid: u32,
    /// Group, as an id of the container's user namespace.
    pub gid: u32,
}

/// The default nodes of every container: path, major number, minor number.
const DEFAULTS: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Plans the default nodes and those of linux.devices; a configured node replaces the default one of the same path.
pub(crate) fn build(devices: &[LinuxDevice], findings: &mut Findings) -> Vec<DeviceOp> {
    let configured: Vec<DeviceOp> =
        devices.iter().enumerate().filter_map(|(index, device)| plan_node(index, device, findings)).collect();
    let overridden = |path: &str| configured.iter().any(|op| op.path == Path::new(path));
    let defaults: Vec<_> = DEFAULTS.iter().filter(|(path, ..)| !overridden(path)).collect();
    defaults
        .into_iter()
        .map(|&(path, major, minor)| DeviceOp {
            path: path.into(),
            kind: DeviceKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .chain(configured)
        .collect()
}

fn plan_node(index: usize, device: &LinuxDevice, findings: &mut Findings) -> Option<DeviceOp> {
    let at = |field: &str| format!("linux.devices[{index}].{field}");
    if !device.path().is_absolute() {
        findings.deny(at("path"), format!("{:?} is not absolute", device.path()), "");
    }
    let path = clean(device.path());
    if path == Path::new("/") {
        findings.deny(at("path"), format!("{:?} names no file", device.path()), "give the node's absolute path");
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => DeviceKind::Char,
        LinuxDeviceType::B => DeviceKind::Block,
        LinuxDeviceType::P => DeviceKind::Fifo,
        LinuxDeviceType::A => {
            findings.deny(at("type"), "\"a\" is no device", "expected c, b, u or p");
            return None;
        }
    };
    let mut number = |field: &str, value: i64| {
        if kind == DeviceKind::Fifo {
            return Some(0);
        }
        let valid = u32::try_from(value).ok();
        if valid.is_none() {
            findings.deny(at(field), format!("{value} is no device number"), "expected 0 to 4294967295");
        }
        valid
    };
    let major = number("major", device.major());
    let minor = number("minor", device.minor());
    Some(DeviceOp {
        path,
        kind,
        major: major?,
        minor: minor?,
        // Docker and containerd send st_mode, so the file type bits may be set.
        mode: device.file_mode().map_or(0o666, |mode| mode & 0o7777),
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(json: &str) -> LinuxDevice {
        serde_json::from_str(json).expect("a device")
    }

    #[test]
    fn a_configured_node_replaces_the_default_one() {
        let mut findings = Findings::default();
        let list = [device(r#"{"path":"/dev/../dev/null","type":"c","major":1,"minor":3,"fileMode":8630,"uid":7}"#)];
        let ops = build(&list, &mut findings);
        assert!(findings.violations.is_empty());
        assert_eq!(ops.len(), DEFAULTS.len());
        let null = ops.iter().find(|op| op.path == Path::new("/dev/null")).expect("null");
        assert_eq!((null.mode, null.uid), (0o666, 7));
    }

    #[test]
    fn faults_name_the_field() {
        let mut findings = Findings::default();
        let list = [
            device(r#"{"path":"/dev/x","type":"a"}"#),
            device(r#"{"path":"/","type":"p"}"#),
            device(r#"{"path":"/dev/y","type":"b","major":-1,"minor":-1}"#),
            device(r#"{"path":"/dev/fifo","type":"p","major":-1}"#),
        ];
        let ops = build(&list, &mut findings);
        let paths: Vec<&str> = findings.violations.iter().map(|v| v.path.as_str()).collect();
        assert_eq!(
            paths,
            ["linux.devices[0].type", "linux.devices[1].path", "linux.devices[2].major", "linux.devices[2].minor"]
        );
        assert_eq!(ops.last().map(|op| op.kind), Some(DeviceKind::Fifo));
    }
}
