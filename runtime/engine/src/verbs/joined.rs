//! The namespaces that linux.namespaces gives by path: opened once, compared with the caller's and the host's by device
//! and inode, and joined by the same descriptors. One namespace has many paths: /proc/PID/ns of each process in it, a
//! bind mount of that file, and links to both.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use oci_spec::runtime::Spec;

use crate::error::{Context, Result};
use brig_plan::Host;
use brig_plan::init::InitPlan;
use brig_plan::namespaces::{NamespaceKind, NamespacePlan};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, ns};

/// Namespaces that are open. What cannot be opened is an error of [`Joined::into_plan`], so that the faults of the
/// configuration are reported first.
pub(super) struct Joined(Vec<(NamespaceKind, PathBuf, SysResult<OwnedFd>)>);

impl Joined {
    /// Opens them, and notes in `host` which of them are the caller's own or those of process 1.
    ///
    /// # Errors
    /// The caller's own namespaces cannot be looked at.
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
            // Without the right to look at process 1 there is none to change what is in its namespaces either.
            if proc.open_namespace_of(1, kind.proc_name()).is_ok_and(|first| identity(first) == Ok(namespace)) {
                host.host_namespaces.push(*kind);
            }
        }
        Ok(joined)
    }

    /// Puts the numbers of the descriptors into the plan of init, which inherits them. A namespace that is the caller's
    /// own is not joined. Those that a joined user namespace does not own come before it, because its root has no right to
    /// enter them, and the caller may have.
    ///
    /// # Errors
    /// One could not be opened.
    pub(super) fn into_plan(self, namespaces: &NamespacePlan, init: &mut InitPlan) -> Result<Vec<OwnedFd>> {
        let (mut foreign, mut others, mut user) = (Vec::new(), Vec::new(), None);
        for (kind, path, opened) in self.0 {
            let unable =
                || format!("unable to join the {} namespace {} of linux.namespaces", kind.as_str(), path.display());
            let fd = opened.with_context(unable)?;
            match &user {
                _ if !namespaces.is_private(kind) => {}
                // The kind comes first of all.
                None if kind == NamespaceKind::User => user = Some((kind, fd)),
                Some((_, user)) if !ns::is_owned_by(fd.as_fd(), user.as_fd()).with_context(unable)? => foreign.push((kind, fd)),
                _ => others.push((kind, fd)),
            }
        }
        let ordered = || foreign.iter().chain(&user).chain(&others);
        init.join = ordered().map(|(kind, fd)| (fd.as_raw_fd(), kind.clone_flag())).collect();
        Ok(foreign.into_iter().chain(user).chain(others).map(|(_, fd)| fd).collect())
    }
}

/// Notes in `host` which namespaces that were joined by path are the caller's own: those of `init` that it is in too.
/// The paths may lead elsewhere by now.
///
/// # Errors
/// The namespaces of one of the two cannot be looked at.
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
    fn the_callers_own_namespace_is_known_by_each_of_its_paths() {
        let pid = std::process::id();
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/proc/self/ns/net", &link).unwrap();
        for path in ["/proc/self/ns/net", "/proc/thread-self/ns/net", &format!("/proc/{pid}/ns/net"),
            &format!("//proc/./{pid}/task/{pid}/ns/net"), link.to_str().unwrap()] {
            assert_eq!(found(path), [NamespaceKind::Network], "{path}");
        }
    }

    #[test]
    fn a_path_that_cannot_be_opened_or_is_of_another_kind_is_an_error_of_the_join() {
        for path in ["/nonexistent", "/proc/self/ns/uts"] {
            assert_eq!(found(path), []);
        }
    }
}
