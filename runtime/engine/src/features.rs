//! The features of this build on this host (features.md of the OCI runtime specification).

use std::path::Path;

use brig_plan::host::CgroupLayout;
use brig_plan::mounts::options;
use brig_plan::namespaces::NamespaceKind;
use brig_plan::{annotations, memory_policy};
use serde_json::{Value, json};

use crate::{probe, seccomp};

/// The version of the OCI runtime specification that brig follows.
pub const SPEC_VERSION: &str = "1.3.0";

/// Capabilities by number (linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

fn names(table: &[(&'static str, u32)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

/// Whether the systemd cgroup manager works here: for the system's systemd, and for those of other users than root.
fn has_systemd() -> (bool, bool) {
    let layout = probe::cgroup_layout();
    // sd_booted(3).
    let booted = layout != CgroupLayout::None && Path::new("/run/systemd/system").is_dir();
    (booted, booted && layout == CgroupLayout::V2)
}

/// Returns the features document of this build on this host.
pub fn features() -> Value {
    let (systemd, systemd_user) = has_systemd();
    let mut namespaces = NamespaceKind::ALL.map(NamespaceKind::as_str);
    namespaces.sort_unstable();
    json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": options::names().collect::<Vec<_>>(),
        "linux": {
            "namespaces": namespaces,
            "capabilities": CAPABILITIES.as_slice(),
            "cgroup": { "v1": true, "v2": true, "systemd": systemd, "systemdUser": systemd_user, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS,
                "operators": seccomp::OPERATORS,
                "archs": seccomp::ARCHITECTURES,
                "knownFlags": seccomp::KNOWN_FLAGS,
                "supportedFlags": seccomp::supported_flags(),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": true, "schemata": true, "monitoring": true },
            "memoryPolicy": { "modes": names(&memory_policy::MODES), "flags": names(&memory_policy::FLAGS) },
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": true },
        },
        "annotations": {
            "org.opencontainers.runc.checkpoint.enabled": "true",
            "run.brig.version": env!("CARGO_PKG_VERSION"),
        },
        "potentiallyUnsafeConfigAnnotations": annotations::UNSAFE,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_annotation_that_is_honoured_is_in_features() {
        let document = features();
        let listed = document["potentiallyUnsafeConfigAnnotations"].as_array().unwrap();
        for annotation in annotations::HONOURED {
            let covers = |entry: &str| {
                entry == annotation.name() || entry.ends_with('.') && annotation.name().starts_with(entry)
            };
            assert!(listed.iter().filter_map(Value::as_str).any(covers), "{}", annotation.name());
        }
    }
}
