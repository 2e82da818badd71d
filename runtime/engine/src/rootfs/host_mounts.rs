//! The host's mounts, for a process whose own mount namespace is not a copy of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::cached_namespace::ROOTFS;
use brig_plan::mounts::RootfsPlan;
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, mount, ns};

const MOUNT: u64 = libc::CLONE_NEWNS as u64;

/// The mount namespace in which the host's paths are reached.
#[derive(Debug)]
pub(super) enum HostMounts {
    /// This process's mount namespace, which is a copy of the host's.
    Copied,
    /// The host's mount namespace, which this process has left.
    Left {
        /// The host's mount namespace.
        host: OwnedFd,
        /// The caller's root there, which need not be the namespace's (O_PATH).
        root: OwnedFd,
        /// This process's mount namespace.
        own: OwnedFd,
        /// The propagation of a copied mount: MS_SLAVE or MS_PRIVATE, with MS_REC.
        propagation: u64,
    },
}

impl HostMounts {
    /// Leaves the host's mount namespace, in which this process is, for a copy of `cached`, and takes along `tree`, a
    /// detached copy of the root. Returns `None` if the cached namespace cannot be entered, which a policy may forbid:
    /// the process is then in a copy of the host's mount namespace, as without a cached one.
    pub(super) fn leave(
        plan: &RootfsPlan,
        proc: &Proc,
        cached: &OwnedFd,
        tree: &OwnedFd,
    ) -> SysResult<Option<HostMounts>> {
        let host = proc.open_namespace("mnt")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, "/", flags, Mode::empty())
            .map_err(|e| SysError::new("open", "\"/\", O_PATH", e))?;
        let propagation = plan.spread();
        mount::set_propagation(tree, propagation)?;
        if ns::join(cached.as_fd(), MOUNT).is_err() {
            ns::unshare(MOUNT)?;
            return Ok(None);
        }
        ns::unshare(MOUNT)?;
        mount::attach_host(tree, Path::new(ROOTFS))?;
        let own = proc.open_namespace("mnt")?;
        Ok(Some(HostMounts::Left { host, root, own, propagation }))
    }

    /// Runs `work` in the host's mount namespace and root. Afterwards the working directory is the root of this
    /// process.
    pub(super) fn run_on_host<T>(&self, work: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
        let HostMounts::Left { host, root, own, .. } = self else { return work() };
        ns::join(host.as_fd(), MOUNT)?;
        rustix::process::fchdir(root).map_err(|e| SysError::new("fchdir", "the host's root", e))?;
        rustix::process::chroot(".").map_err(|e| SysError::new("chroot", "\".\"", e))?;
        let done = work();
        ns::join(own.as_fd(), MOUNT)?;
        done
    }

    /// Copies the host's mount at `path` as a detached tree, with the mounts below it when `recursive`. A copy from
    /// another namespace has the propagation that it would have in this one: it is the host's slave, or private.
    pub(super) fn copy(&self, path: &Path, recursive: bool, follow: bool) -> SysResult<OwnedFd> {
        let tree = self.run_on_host(|| mount::clone_host_tree(path, recursive, follow))?;
        if let HostMounts::Left { propagation, .. } = self {
            mount::set_propagation(&tree, *propagation)?;
        }
        Ok(tree)
    }
}
