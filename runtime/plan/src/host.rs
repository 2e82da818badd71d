//! Facts about a host that a plan depends on; the engine's `probe` collects them, and tests construct them.

use serde::Serialize;

use super::namespaces::NamespaceKind;

/// Layout of the host's cgroup hierarchies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum CgroupLayout {
    /// v2: /sys/fs/cgroup is cgroup2.
    V2,
    /// v1 hierarchies below /sys/fs/cgroup, with cgroup2 at /sys/fs/cgroup/unified.
    Hybrid,
    /// v1 hierarchies without any cgroup2 mount.
    V1,
    /// No cgroup file system at /sys/fs/cgroup.
    None,
}

impl CgroupLayout {
    /// Whether there are v1 hierarchies.
    pub fn has_v1(self) -> bool {
        matches!(self, CgroupLayout::Hybrid | CgroupLayout::V1)
    }

    /// Whether there is a cgroup2 hierarchy.
    pub(crate) fn has_v2(self) -> bool {
        matches!(self, CgroupLayout::Hybrid | CgroupLayout::V2)
    }
}

bitflags::bitflags! {
    /// Security modules of the kernel for which a configuration can name a label.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SecurityModules: u8 {
        /// AppArmor (/sys/module/apparmor/parameters/enabled is Y).
        const APPARMOR = 1;
        /// SELinux (/sys/fs/selinux is mounted).
        const SELINUX = 1 << 1;
    }
}

/// Facts about the host and about the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Effective user id of the caller.
    pub euid: u32,
    /// Effective capabilities of the caller, as a bit set by capability number (linux/capability.h).
    pub effective_capabilities: u64,
    /// Highest capability number that the kernel knows (/proc/sys/kernel/cap_last_cap).
    pub last_capability: u8,
    /// The hierarchies below /sys/fs/cgroup.
    pub cgroup: CgroupLayout,
    /// The security modules that are enabled.
    pub security_modules: SecurityModules,
    /// Whether the caller runs in a user namespace other than the initial one.
    pub in_user_namespace: bool,
    /// Kernel release: major and minor number.
    pub kernel: (u32, u32),
    /// Kinds whose path in linux.namespaces refers to the caller's own namespace, so that nothing is joined.
    pub own_namespaces: Vec<NamespaceKind>,
    /// Kinds whose path in linux.namespaces refers to the namespace of process 1, the host's.
    pub host_namespaces: Vec<NamespaceKind>,
    /// Whether a process outside of the pid namespace that is joined can mount a procfs of it. Before Linux 6.18 a
    /// procfs shows the pid namespace of the process that mounts it.
    pub procfs_shows_joined_pids: bool,
}

impl Host {
    /// Root with every capability, on Linux 6.12 without a security module: for planning without a host.
    pub fn of_root(cgroup: CgroupLayout) -> Host {
        Host {
            euid: 0,
            effective_capabilities: u64::MAX,
            last_capability: 40,
            cgroup,
            security_modules: SecurityModules::empty(),
            in_user_namespace: false,
            kernel: (6, 12),
            own_namespaces: Vec::new(),
            host_namespaces: Vec::new(),
            procfs_shows_joined_pids: false,
        }
    }
}
