//! The namespaces of a container: new, joined, or shared with the caller (config-linux.md).

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use serde::{Deserialize, Serialize};

use super::Host;

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NamespaceKind {
    /// Ids and capabilities. First, because it owns the namespaces created with it.
    User,
    /// The view of the cgroup tree.
    Cgroup,
    /// System V IPC and POSIX message queues.
    Ipc,
    /// Host name and domain name.
    Uts,
    /// Network devices, addresses, ports.
    Network,
    /// Process ids (pid_namespaces(7)).
    Pid,
    /// Mounts (mount_namespaces(7)).
    Mount,
    /// Offsets of the boot and monotonic clocks.
    Time,
}

impl NamespaceKind {
    /// Every kind, in the order in which they are joined: user first, for the privilege over the others.
    pub const ALL: [NamespaceKind; 8] = [
        NamespaceKind::User,
        NamespaceKind::Cgroup,
        NamespaceKind::Ipc,
        NamespaceKind::Uts,
        NamespaceKind::Network,
        NamespaceKind::Pid,
        NamespaceKind::Mount,
        NamespaceKind::Time,
    ];

    /// The specification's name, as in config.json.
    pub const fn as_str(self) -> &'static str {
        match self {
            NamespaceKind::User => "user",
            NamespaceKind::Cgroup => "cgroup",
            NamespaceKind::Ipc => "ipc",
            NamespaceKind::Uts => "uts",
            NamespaceKind::Network => "network",
            NamespaceKind::Pid => "pid",
            NamespaceKind::Mount => "mount",
            NamespaceKind::Time => "time",
        }
    }

    /// The file name in /proc/PID/ns (namespaces(7)).
    pub const fn proc_name(self) -> &'static str {
        match self {
            NamespaceKind::Network => "net",
            NamespaceKind::Mount => "mnt",
            kind => kind.as_str(),
        }
    }

    /// The CLONE_NEW* flag (linux/sched.h).
    pub const fn clone_flag(self) -> u64 {
        match self {
            NamespaceKind::User => 0x1000_0000,
            NamespaceKind::Cgroup => 0x0200_0000,
            NamespaceKind::Ipc => 0x0800_0000,
            NamespaceKind::Uts => 0x0400_0000,
            NamespaceKind::Network => 0x4000_0000,
            NamespaceKind::Pid => 0x2000_0000,
            NamespaceKind::Mount => 0x0002_0000,
            NamespaceKind::Time => 0x0000_0080,
        }
    }
}

impl From<LinuxNamespaceType> for NamespaceKind {
    fn from(ty: LinuxNamespaceType) -> NamespaceKind {
        match ty {
            LinuxNamespaceType::User => NamespaceKind::User,
            LinuxNamespaceType::Cgroup => NamespaceKind::Cgroup,
            LinuxNamespaceType::Ipc => NamespaceKind::Ipc,
            LinuxNamespaceType::Uts => NamespaceKind::Uts,
            LinuxNamespaceType::Network => NamespaceKind::Network,
            LinuxNamespaceType::Pid => NamespaceKind::Pid,
            LinuxNamespaceType::Mount => NamespaceKind::Mount,
            LinuxNamespaceType::Time => NamespaceKind::Time,
        }
    }
}

/// The origin of a process's namespace of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Namespace {
    /// The caller's namespace.
    #[default]
    Inherited,
    /// A new namespace.
    New,
    /// The namespace that this file refers to.
    Joined(PathBuf),
}

/// The namespaces of one process.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespacePlan {
    /// Indexed by kind, in the order of [`NamespaceKind::ALL`].
    kinds: [Namespace; 8],
}

impl NamespacePlan {
    /// Converts `linux.namespaces`. Of a kind that is listed twice, which `checks` refuses, the last entry counts.
    pub fn new(spec: &Spec) -> NamespacePlan {
        let mut plan = NamespacePlan::default();
        let listed = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        for namespace in listed {
            let source = match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => Namespace::Joined(path.clone()),
                _ => Namespace::New,
            };
            plan.set(namespace.typ().into(), source);
        }
        plan
    }

    /// Like [`NamespacePlan::new`], on `host`: a path that refers to the caller's own namespace joins nothing.
    pub fn on_host(spec: &Spec, host: &Host) -> NamespacePlan {
        let mut plan = NamespacePlan::new(spec);
        for kind in &host.own_namespaces {
            if matches!(plan.get(*kind), Namespace::Joined(_)) {
                plan.set(*kind, Namespace::Inherited);
            }
        }
        plan
    }

    /// The origin of the namespace of `kind`.
    pub fn get(&self, kind: NamespaceKind) -> &Namespace {
        &self.kinds[kind as usize]
    }

    fn set(&mut self, kind: NamespaceKind, namespace: Namespace) {
        self.kinds[kind as usize] = namespace;
    }

    /// Whether the namespace is created for the process.
    pub fn is_new(&self, kind: NamespaceKind) -> bool {
        *self.get(kind) == Namespace::New
    }

    /// Whether the namespace is not the caller's: new, or joined by path.
    pub fn is_private(&self, kind: NamespaceKind) -> bool {
        *self.get(kind) != Namespace::Inherited
    }

    /// CLONE_NEW* of every new namespace except time. A time namespace is unshared, given its offsets, and then
    /// entered: with clone3 the process would be in it before the offsets could be written (time_namespaces(7)).
    pub fn clone_flags(&self) -> u64 {
        let clone = |kind: &NamespaceKind| *kind != NamespaceKind::Time && self.is_new(*kind);
        NamespaceKind::ALL.into_iter().filter(clone).fold(0, |flags, kind| flags | kind.clone_flag())
    }

    /// The namespaces to join, in order.
    pub fn joined(&self) -> impl Iterator<Item = (NamespaceKind, &Path)> {
        NamespaceKind::ALL.into_iter().filter_map(|kind| match self.get(kind) {
            Namespace::Joined(path) => Some((kind, path.as_path())),
            Namespace::Inherited | Namespace::New => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(namespaces: &str) -> NamespacePlan {
        let config = format!(r#"{{"linux":{{"namespaces":{namespaces}}}}}"#);
        NamespacePlan::new(&crate::config::parse(config.as_bytes()).unwrap().0)
    }

    #[test]
    fn each_kinds_discriminant_is_its_index() {
        for (index, kind) in NamespaceKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index);
        }
    }

    #[test]
    fn flags_are_those_of_sched_h() {
        let flags = [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWCGROUP,
            libc::CLONE_NEWIPC,
            libc::CLONE_NEWUTS,
            libc::CLONE_NEWNET,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWTIME,
        ];
        assert_eq!(NamespaceKind::ALL.map(NamespaceKind::clone_flag), flags.map(|flag| u64::try_from(flag).unwrap()));
    }

    #[test]
    fn new_joined_and_inherited_namespaces_are_distinguished() {
        let plan = plan(
            r#"[{"type":"pid"},{"type":"time"},{"type":"mount","path":""},
            {"type":"network","path":"/run/netns/a"},{"type":"user","path":"/proc/7/ns/user"}]"#,
        );
        assert_eq!(plan.clone_flags(), (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64);
        assert!(plan.is_new(NamespaceKind::Time) && plan.is_private(NamespaceKind::Network));
        assert!(!plan.is_private(NamespaceKind::Ipc));
        let joined: Vec<_> = plan.joined().collect();
        assert_eq!(
            joined,
            [(NamespaceKind::User, Path::new("/proc/7/ns/user")), (NamespaceKind::Network, Path::new("/run/netns/a"))]
        );
    }

    #[test]
    fn a_plan_is_serialised_without_loss() {
        let plan = plan(r#"[{"type":"pid"},{"type":"network","path":"/run/netns/a"}]"#);
        let bytes = postcard::to_stdvec(&plan).unwrap();
        assert_eq!(postcard::from_bytes::<NamespacePlan>(&bytes).unwrap(), plan);
    }
}
