//! The namespaces that linux.namespaces gives by path: opened once, compared with the caller's and the host's by
//! device and inode, and joined by the same descriptors. One namespace has many paths: /proc/PID/ns of each process
//! in it, a bind mount of that file, and links to both.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::error::{Context, Result};
use crate::launch::handles::ContainerHandles;
use brig_plan::Host;
use brig_plan::container::ContainerPlan;
use brig_plan::namespaces::{NamespaceKind, NamespacePlan};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, mount, ns};

/// Open namespaces. A failure to open one is reported by [`Joined::handles`], so that violations of the configuration are
/// reported first.
pub(super) struct Joined(Vec<(NamespaceKind, PathBuf, SysResult<OwnedFd>)>);

impl Joined {
    /// Opens the namespaces, and records in `host` which of them are the caller's own or those of process 1, and
    /// whether a procfs of a joined pid namespace can be mounted from outside of it.
    ///
    /// # Errors
    /// When the caller's own namespaces cannot be read.
    pub(super) fn open(spec: &Spec, host: &mut Host) -> Result<Joined> {
        let open = |(kind, path): (NamespaceKind, &std::path::Path)| {
            (kind, path.to_owned(), ns::open(path, kind.clone_flag()))
        };
        let joined = Joined(NamespacePlan::new(spec).joined().map(open).collect());
        if joined.0.is_empty() {
            return Ok(joined);
        }
        let proc = Proc::open()?;
        for (kind, _, opened) in &joined.0 {
            let Ok(namespace) = opened else { continue };
            let namespace = identity(namespace)?;
            if namespace == identity(proc.open_namespace(kind.proc_name())?)? {
                host.own_namespaces.push(*kind);
            }
            // A caller that may not read process 1's namespaces has no right to change them either.
            if proc.open_namespace_of(1, kind.proc_name()).is_ok_and(|first| identity(first) == Ok(namespace)) {
                host.host_namespaces.push(*kind);
            }
        }
        host.procfs_shows_joined_pids = joined.shows_pids(spec, host);
        Ok(joined)
    }

    /// Tries whether the kernel has a parameter of procfs for the joined pid namespace, if the plan depends on it: with
    /// a user namespace the process is inside before it builds its root.
    fn shows_pids(&self, spec: &Spec, host: &Host) -> bool {
        let namespaces = NamespacePlan::on_host(spec, host);
        let has_procfs = spec.mounts().iter().flatten().any(|mount| mount.typ().as_deref() == Some("proc"));
        if !namespaces.is_private(NamespaceKind::Pid) || namespaces.is_private(NamespaceKind::User) || !has_procfs {
            return false;
        }
        let joined = self.0.iter().find(|(kind, ..)| *kind == NamespaceKind::Pid);
        let Some((_, _, Ok(pid_namespace))) = joined else { return false };
        match mount::Filesystem::new("proc").descriptor("pidns", pid_namespace.as_fd()).check_parameters() {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!("the root is built inside of the pid namespace that is joined: {error}");
                false
            }
        }
    }

    /// The handles of the namespaces for init: those that it joins, in order, and the pid namespace, if that comes last. The caller's
    /// own namespace is not joined. Namespaces that a joined user namespace does not own come before it, because its
    /// root has no right to enter them, and the caller may have it.
    ///
    /// # Errors
    /// When a namespace could not be opened.
    pub(super) fn handles(self, plan: &ContainerPlan) -> Result<ContainerHandles<OwnedFd>> {
        let mut pid_namespace = None;
        let (mut foreign, mut others, mut user) = (Vec::new(), Vec::new(), None);
        for (kind, path, opened) in self.0 {
            let unable =
                || format!("unable to join the {} namespace {} of linux.namespaces", kind.as_str(), path.display());
            let fd = opened.with_context(unable)?;
            match &user {
                _ if !plan.namespaces.is_private(kind) => {}
                _ if kind == NamespaceKind::Pid && plan.init.has_late_second_stage() => pid_namespace = Some(fd),
                // The user namespace comes first in the list of kinds.
                None if kind == NamespaceKind::User => user = Some((kind, fd)),
                Some((_, user)) if !ns::is_owned_by(fd.as_fd(), user.as_fd()).with_context(unable)? => {
                    foreign.push((kind, fd))
                }
                _ => others.push((kind, fd)),
            }
        }
        let ordered = foreign.into_iter().chain(user).chain(others);
        let join = ordered.map(|(kind, fd)| (fd, kind.clone_flag())).collect();
        Ok(ContainerHandles { join, pid_namespace, ..ContainerHandles::default() })
    }
}

/// Records in `host` which namespaces joined by path are the caller's own: those that `init` shares with it. The
/// paths may lead elsewhere by now.
///
/// # Errors
/// When the namespaces of either process cannot be read.
pub(super) fn compare_with_init(spec: &Spec, init: i32, host: &mut Host) -> Result<()> {
    let plan = NamespacePlan::new(spec);
    if plan.joined().next().is_none() {
        return Ok(());
    }
    let proc = Proc::open()?;
    for (kind, _) in plan.joined() {
        let name = kind.proc_name();
        if identity(proc.open_namespace(name)?)? == identity(proc.open_namespace_of(init, name)?)? {
            host.own_namespaces.push(kind);
        }
    }
    Ok(())
}

/// The device and the inode of a namespace, which identify it (ioctl_ns(2)).
fn identity(namespace: impl AsFd) -> SysResult<(u64, u64)> {
    let stat = rustix::fs::fstat(namespace).map_err(|error| SysError::new("fstat", "a namespace", error))?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_plan::host::CgroupLayout;

    fn found(path: &str) -> Vec<NamespaceKind> {
        let config = format!(r#"{{"linux":{{"namespaces":[{{"type":"network","path":"{path}"}},{{"type":"pid"}}]}}}}"#);
        let (spec, _) = brig_plan::config::parse(config.as_bytes()).unwrap();
        let mut host = Host::of_root(CgroupLayout::V2);
        Joined::open(&spec, &mut host).unwrap();
        host.own_namespaces
    }

    #[test]
    fn the_callers_own_namespace_is_recognised_by_each_of_its_paths() {
        let pid = std::process::id();
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
        for path in [
            "/proc/self/ns/net",
            "/proc/thread-self/ns/net",
            &format!("/proc/{pid}/ns/net"),
            &format!("//proc/./{pid}/task/{pid}/ns/net"),
            link.to_str().unwrap(),
        ] {
            assert_eq!(found(path), [NamespaceKind::Network], "{path}");
        }
    }

    #[test]
    fn a_bad_namespace_path_is_reported_only_when_joining() {
        for path in ["/nonexistent", "/proc/self/ns/uts"] {
            assert_eq!(found(path), []);
        }
    }
}
