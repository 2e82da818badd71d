//! The plan of the init process: everything between its start and the exec of the container's program.
//!
//! The plan is passed to the child in one memory file. File descriptors in it are numbers that the child inherits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hooks::Hook;
use super::mounts::RootfsPlan;
use super::network::NetDevice;
use super::process::ProcessPlan;

/// CAP_SYS_ADMIN is bit 21 (linux/capability.h).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Number of a file descriptor that the child inherits; the child takes ownership of each one once.
pub type Inherited = i32;

/// The plan of the init process. `create` and `exec` fill in the same fields; a field that one of them does not need
/// is empty, and the step table skips the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InitPlan {
    /// Descriptor of the channel to the parent.
    pub channel: Inherited,
    /// Namespaces to join, in order: a descriptor, and the CLONE_NEW* flags to join with it. A pidfd serves several
    /// flags at once.
    pub join: Vec<(Inherited, u64)>,
    /// The directory that an exec enters as its root; `None` where joining the mount namespace sets the root.
    pub container_root: Option<Inherited>,
    /// CLONE_NEW* flags with which the first-stage init clones the second-stage init after joining; that one becomes
    /// the container's process. Needed where a user namespace is joined, which is to own the new namespaces, and
    /// where a new one is created after others are joined.
    pub sibling: Option<u64>,
    /// A pid namespace is joined, and the first-stage init stays outside of it, where no process of that namespace
    /// can inspect it. Its last step is to clone the second-stage init, which is inside from its start on, in the
    /// container's root, with the container's capabilities.
    pub second_stage: bool,
    /// The pid namespace that a create joins by [`InitPlan::second_stage`]. An exec joins it together with the
    /// others.
    pub pid_namespace: Option<Inherited>,
    /// A new cgroup namespace. It is unshared late, because its root is the cgroup that the process is in at that
    /// moment.
    pub unshare_cgroup: bool,
    /// The offsets of a new time namespace, in the form of /proc/PID/timens_offsets.
    pub time_offsets: Option<String>,
    /// The process is in a user namespace of the container's.
    pub user_namespace: bool,
    /// Name of a new session keyring.
    pub keyring: Option<String>,
    /// Sets up the loopback device of a new network namespace.
    pub loopback_up: bool,
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
    /// Hooks that init runs before pivot_root.
    pub create_container: Vec<Hook>,
    /// Hooks that init runs just before the program.
    pub start_container: Vec<Hook>,
    /// The state that hooks read on standard input; init puts in its own pid.
    pub hook_state: HookState,
    /// The attributes of the process.
    pub process: ProcessPlan,
    /// Descriptor of the socket that receives the terminal's master.
    pub console: Option<Inherited>,
    /// The terminal's output is shown on another terminal, which translates newlines.
    pub proxied_terminal: bool,
    /// The gate (exec.fifo in runc): init reads one byte from it before it executes the program.
    pub gate: Option<Inherited>,
    /// Number of descriptors from 3 on that stay open in the program.
    pub preserve_fds: u32,
    /// The parent sends a seccomp filter as the last step.
    pub seccomp: bool,
    /// Test builds only: the step at which the process stops.
    pub stop_at: Option<String>,
    /// Descriptor of the trace file to which the process appends its phases.
    pub trace: Option<Inherited>,
    /// The parent logs each step.
    pub debug: bool,
}

/// The container state that hooks read (runtime.md, State).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// The configuration's ociVersion.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    pub id: String,
    /// The container's status when the hook runs.
    pub status: String,
    /// Init's pid in the pid namespace in which the hook runs.
    pub pid: i32,
    pub bundle: PathBuf,
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl InitPlan {
    /// Whether a first-stage init is replaced by a second-stage init that it clones.
    pub fn has_two_stages(&self) -> bool {
        self.sibling.is_some() || self.second_stage
    }

    /// Whether the first-stage init installs the seccomp filter, and so spares the second stage the capability that
    /// installing takes. With no_new_privs no capability is needed, and the last step installs the filter. Hooks of
    /// the container may need other system calls than the program, so a filter must not constrain them.
    pub fn confines_first_stage(&self) -> bool {
        let may_stay_last = self.process.no_new_privileges || self.process.capabilities.permitted & CAP_SYS_ADMIN != 0;
        self.second_stage && self.seccomp && !may_stay_last && self.start_container.is_empty()
    }
}

impl HookState {
    /// The state as JSON for one hook.
    pub fn json(&self, status: &str, pid: i32) -> Vec<u8> {
        let state = HookState { status: status.to_owned(), pid, ..self.clone() };
        // A struct of strings and integers always serialises.
        serde_json::to_vec(&state).unwrap_or_default()
    }
}
