//! The namespaces that linux.namespaces gives by path: opened once, compared with the caller's and the host's by
//! device and inode, and joined by the same descriptors. One namespace has many paths: /proc/PID/ns of each process
//! in it, a bind mount of that file, and links to both.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::error::{Context, Result};
use brig_plan::Host;
use brig_plan::init::InitPlan;
use brig_plan::namespaces::{NamespaceKind, NamespacePlan};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, ns};

/// Open namespaces. A failure to open one is reported by [`Joined::into_plan`], so that violations of the
/// configuration are reported first.
pub(super) struct Joined(Vec<(NamespaceKind, PathBuf, SysResult<OwnedFd>)>);

impl Joined {
    /// Opens the namespaces, and records in `host` which of them are the caller's own or those of process 1.
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
        Ok(joined)
    }

    /// Puts the descriptor numbers into the plan of init, which inherits them. The caller's own namespace is not
    /// joined. Namespaces that a joined user namespace does not own come before it, because its root has no right to
    /// enter them, and the caller may have it.
    ///
    /// # Errors
    /// When a namespace could not be opened.
    pub(super) fn into_plan(self, namespaces: &NamespacePlan, init: &mut InitPlan) -> Result<Vec<OwnedFd>> {
        let (mut foreign, mut others, mut user) = (Vec::new(), Vec::new(), None);
        for (kind, path, opened) in self.0 {
            let unable =
                || format!("unable to join the {} namespace {} of linux.namespaces", kind.as_str(), path.display());
            let fd = opened.with_context(unable)?;
            match &user {
                _ if !namespaces.is_private(kind) => {}
                // The user namespace comes first in the list of kinds.
                None if kind == NamespaceKind::User => user = Some((kind, fd)),
                Some((_, user)) if !ns::is_owned_by(fd.as_fd(), user.as_fd()).with_context(unable)? => {
                    foreign.push((kind, fd))
                }
                _ => others.push((kind, fd)),
            }
        }
        let ordered = || foreign.iter().chain(&user).chain(&others);
        init.join = ordered().map(|(kind, fd)| (fd.as_raw_fd(), kind.clone_flag())).collect();
        Ok(foreign.into_iter().chain(user).chain(others).map(|(_, fd)| fd).collect())
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
    let stat = rustix::fs::fstat(namespace).map_err(|error| SysError::from_rustix("fstat", "a namespace", error))?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_plan::host::CgroupLayout;

    fn found(path: &str) -> Vec<NamespaceKind> {
        let config = format!(r#"{{"linux":{{"namespaces":[{{"type":"network","path":"{path}"}},{{"type":"pid"}}]}}}}"#);
        let (spec, _) = brig_plan::config::parse(config.as_bytes()).unwrap();
        let mut host = Host::of_root(CgroupLayout::Unified);
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
