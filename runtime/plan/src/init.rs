//! The plan of the init process: everything between its start and the exec of the container's program.
//!
//! The plan is passed to the child in one memory file. Descriptors, and settings that are not the configuration's, travel
//! beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::hooks::ContainerHooks;
use super::mounts::RootfsPlan;
use super::network::NetDevice;
use super::process::ProcessPlan;

/// CAP_SYS_ADMIN is bit 21 (linux/capability.h).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// The plan of the init process. `create` and `exec` fill in the same fields; a field that one of them does not need
/// is empty, and the step table skips the step.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct InitPlan {
    /// The stages of init.
    pub stages: Stages,
    /// The namespaces for which init does something, or does it differently.
    pub namespaces: InitNamespaces,
    /// The offsets of a new time namespace, in the form of /proc/PID/timens_offsets.
    pub time_offsets: Option<String>,
    /// Name of a new session keyring.
    pub keyring: Option<String>,
    /// Network devices that the parent moves into this process's network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Host name to set.
    pub hostname: Option<String>,
    /// NIS domain name to set.
    pub domainname: Option<String>,
    /// The root to set up; `None` on exec, where joining the mount namespace brings it.
    pub rootfs: Option<RootfsPlan>,
    /// Sysctls and their values; names have dots or slashes.
    pub sysctl: Vec<(String, String)>,
    /// The parent runs hooks once the mounts are in place.
    pub runtime_hooks: bool,
    /// The hooks that init runs.
    pub hooks: ContainerHooks,
    /// The state that hooks read on standard input.
    pub hook_state: HookState,
    /// The attributes of the process.
    pub process: ProcessPlan,
    /// Number of descriptors from 3 on that stay open in the program.
    pub preserve_fds: u32,
    /// The parent sends a seccomp filter as the last step.
    pub seccomp: bool,
}

/// The stages of init: the first-stage init may clone a second-stage init, which becomes the container's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stages {
    /// The first-stage init becomes the container's process itself.
    #[default]
    One,
    /// The second-stage init is cloned after joining, with these CLONE_NEW* flags. Needed where a user namespace is joined, which is to own the new
    /// namespaces, and where a new one is created after others are joined.
    TwoEarly(u64),
    /// The second-stage init is cloned as the last step. A pid namespace is joined, and the first-stage init stays outside of it, where no process of
    /// that namespace can inspect it. The second-stage init is inside from its start on, in the container's root, with
    /// the container's capabilities. A create joins that pid namespace in this step alone, an exec together with the
    /// others.
    TwoLate,
}

bitflags::bitflags! {
    /// Namespaces for which init does something, or does it differently.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct InitNamespaces: u8 {
        /// A new cgroup namespace. It is unshared late, because its root is the cgroup that the process is in at that
        /// moment.
        const NEW_CGROUP = 1;
        /// A new network namespace, whose loopback device is set up.
        const NEW_NETWORK = 1 << 1;
        /// A user namespace of the container's, new or joined.
        const USER = 1 << 2;
    }
}

/// The lasting part of the container state that hooks read (runtime.md, State).
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HookState {
    /// The configuration's ociVersion.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The configuration's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The container state at one moment (runtime.md, State). The fields are serialised in this order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateNow<'a> {
    oci_version: &'a str,
    id: &'a str,
    /// The container's status when the hook runs.
    status: &'a str,
    /// Init's pid in the pid namespace in which the hook runs.
    pid: i32,
    bundle: &'a Path,
    annotations: &'a BTreeMap<String, String>,
}

impl InitPlan {
    /// Whether a first-stage init is replaced by a second-stage init that it clones.
    pub fn has_two_stages(&self) -> bool {
        self.stages != Stages::One
    }

    /// CLONE_NEW* flags with which the first-stage init clones the second-stage init after joining, if it does.
    pub fn early_second_stage(&self) -> Option<u64> {
        match self.stages {
            Stages::TwoEarly(flags) => Some(flags),
            Stages::One | Stages::TwoLate => None,
        }
    }

    /// Whether the first-stage init clones the second-stage init as its last step.
    pub fn has_late_second_stage(&self) -> bool {
        self.stages == Stages::TwoLate
    }

    /// Whether the process is in a user namespace of the container's.
    pub fn has_user_namespace(&self) -> bool {
        self.namespaces.contains(InitNamespaces::USER)
    }

    /// Whether the first-stage init installs the seccomp filter, and so spares the second stage the capability that
    /// installing takes. With no_new_privs no capability is needed, and the last step installs the filter. Hooks of
    /// the container may need other system calls than the program, so a filter must not constrain them.
    pub fn confines_first_stage(&self) -> bool {
        let may_stay_last = self.process.no_new_privileges || self.process.capabilities.permitted & CAP_SYS_ADMIN != 0;
        self.has_late_second_stage() && self.seccomp && !may_stay_last && self.hooks.start_container.is_empty()
    }
}

impl HookState {
    /// The state of a container with this status, whose init has this pid.
    pub fn now<'a>(&'a self, status: &'a str, pid: i32) -> StateNow<'a> {
        StateNow {
            oci_version: &self.oci_version,
            id: &self.id,
            status,
            pid,
            bundle: &self.bundle,
            annotations: &self.annotations,
        }
    }

    /// The state as JSON for one hook.
    pub fn json(&self, status: &str, pid: i32) -> Vec<u8> {
        // A struct of strings and integers always serialises.
        serde_json::to_vec(&self.now(status, pid)).unwrap_or_default()
    }
}
