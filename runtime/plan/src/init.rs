//! What the init stage is told: everything between its birth and the exec of the container's program.
//!
//! It travels to the child in one memory file. File descriptors in it are numbers that the child inherits.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::hooks::Hook;
use super::mounts::RootfsPlan;
use super::network::NetDevice;
use super::process::ProcessPlan;

/// Bit 21 (linux/capability.h).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// A file descriptor that the child inherits; it takes ownership of each one once.
pub type Inherited = i32;

/// The plan of the init stage. `create` and `exec` fill in the same fields; what one of them does not need is
/// empty, and the step table skips the step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InitPlan {
    /// The channel to the parent.
    pub channel: Inherited,
    /// Namespaces to join, in order: an fd, and the CLONE_NEW* flags that it stands for. A pidfd may stand for many.
    pub join: Vec<(Inherited, u64)>,
    /// The directory that an exec enters as its root; `None` where the container's mount namespace brings the root.
    pub container_root: Option<Inherited>,
    /// After joining, a sibling is made in these new namespaces, and it becomes the container's process: needed
    /// where a pid namespace is joined, and where others are to be owned by a user namespace that is joined.
    pub sibling: Option<u64>,
    /// A pid namespace is joined, and the process that starts stays outside of it, where no process of that namespace can
    /// look into it. Its last act is the clone of the process that becomes the container's: that one is inside from its
    /// first moment on, in the container's root, with the container's capabilities.
    pub second_stage: bool,
    /// The pid namespace that a create joins by [`InitPlan::second_stage`]. An exec enters it together with the others.
    pub pid_namespace: Option<Inherited>,
    /// A new cgroup namespace. It is unshared late: its root is the cgroup that the process is in at that moment.
    pub unshare_cgroup: bool,
    /// A new time namespace, with the text of its offsets.
    pub time_offsets: Option<String>,
    /// This process is in a user namespace of the container's.
    pub user_namespace: bool,
    /// Name of a new session keyring.
    pub keyring: Option<String>,
    /// A new network namespace's loopback device comes up.
    pub loopback_up: bool,
    /// Network devices that the parent moves into this process's network namespace.
    pub net_devices: Vec<NetDevice>,
    /// Host name to set.
    pub hostname: Option<String>,
    /// NIS domain name to set.
    pub domainname: Option<String>,
    /// The root to set up; `None` on exec, whose root came with the mount namespace.
    pub rootfs: Option<RootfsPlan>,
    /// Kernel parameters, with dots or slashes.
    pub sysctl: Vec<(String, String)>,
    /// The parent runs hooks once the mounts stand.
    pub runtime_hooks: bool,
    /// Run by init before pivot_root.
    pub create_container: Vec<Hook>,
    /// Run by init just before the program.
    pub start_container: Vec<Hook>,
    /// The state that hooks read on standard input, as JSON, with the pid left out: init puts in its own.
    pub hook_state: HookState,
    /// The process.
    pub process: ProcessPlan,
    /// Where the terminal's master goes.
    pub console: Option<Inherited>,
    /// The terminal is shown on another one, which translates its newlines.
    pub proxied_terminal: bool,
    /// The gate: init reads one byte from it before it executes the program.
    pub gate: Option<Inherited>,
    /// This many fds from 3 on stay open in the program.
    pub preserve_fds: u32,
    /// The parent sends a seccomp filter at the end.
    pub seccomp: bool,
    /// Test builds only: the step at which the process stops for ever.
    pub stop_at: Option<String>,
    /// The file that the process's phases are appended to.
    pub trace: Option<Inherited>,
    /// The parent's log shows each step.
    pub debug: bool,
}

/// The container state that hooks read (runtime.md, State).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookState {
    /// The spec version of the configuration.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The status at that moment.
    pub status: String,
    /// Init's pid in the pid namespace where the hook runs.
    pub pid: i32,
    /// The bundle.
    pub bundle: PathBuf,
    /// The configuration's annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl InitPlan {
    /// The process that starts is replaced by one that it clones.
    pub fn has_two_stages(&self) -> bool {
        self.sibling.is_some() || self.second_stage
    }

    /// The first of two stages may install the seccomp filter, and so spare the second one the capability that this takes.
    /// With no_new_privs no capability is needed, and the last step installs it. Hooks of the container need what they
    /// may need, and are no reason for a filter to allow it.
    pub fn confines_first_stage(&self) -> bool {
        let may_stay_last = self.process.no_new_privileges || self.process.capabilities.permitted & CAP_SYS_ADMIN != 0;
        self.second_stage && self.seccomp && !may_stay_last && self.start_container.is_empty()
    }
}

impl HookState {
    /// The JSON text for one hook.
    pub fn json(&self, status: &str, pid: i32) -> Vec<u8> {
        let state = HookState { status: status.to_owned(), pid, ..self.clone() };
        // A struct of strings and integers always serialises.
        serde_json::to_vec(&state).unwrap_or_default()
    }
}
