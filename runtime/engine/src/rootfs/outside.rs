//! The host's mounts, for a process whose own mount namespace is not a copy of them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use super::seed::ROOTFS;
use brig_plan::mounts::RootfsPlan;
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, mount, ns};

const MOUNT: u64 = libc::CLONE_NEWNS as u64;

/// Where the host's paths are.
#[derive(Debug)]
pub(super) enum Outside {
    /// In this process's mount namespace, which is a copy of the host's.
    Here,
    /// In another one, which this process came from.
    There {
        /// That one.
        host: OwnedFd,
        /// What was the root there: the caller's, which need not be the namespace's (O_PATH).
        root: OwnedFd,
        /// This process's own.
        own: OwnedFd,
        /// How a copy of a mount gets its events: MS_SLAVE or MS_PRIVATE, with MS_REC.
        propagation: u64,
    },
}

impl Outside {
    /// Leaves the host's mount namespace, in which this process is, for a copy of `seed`, and takes along `tree`, a
    /// detached copy of the root. `None` where the seed cannot be entered, which a policy may forbid: the process is in a
    /// copy of the host's mount namespace then, as it would be without a seed.
    pub(super) fn leave(plan: &RootfsPlan, proc: &Proc, seed: &OwnedFd, tree: &OwnedFd) -> SysResult<Option<Outside>> {
        let host = proc.open_namespace("mnt")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, "/", flags, Mode::empty())
            .map_err(|e| SysError::from_rustix("open", "\"/\", O_PATH", e))?;
        let propagation = plan.spread();
        mount::set_propagation(tree, propagation)?;
        if ns::join(seed.as_fd(), MOUNT).is_err() {
            ns::unshare(MOUNT)?;
            return Ok(None);
        }
        ns::unshare(MOUNT)?;
        mount::attach_host(tree, Path::new(ROOTFS))?;
        let own = proc.open_namespace("mnt")?;
        Ok(Some(Outside::There { host, root, own, propagation }))
    }

    /// Runs `work` where the host's paths are. The working directory is the root of this process afterwards.
    pub(super) fn visit<T>(&self, work: impl FnOnce() -> SysResult<T>) -> SysResult<T> {
        let Outside::There { host, root, own, .. } = self else { return work() };
        ns::join(host.as_fd(), MOUNT)?;
        rustix::process::fchdir(root).map_err(|e| SysError::from_rustix("fchdir", "the host's root", e))?;
        rustix::process::chroot(".").map_err(|e| SysError::from_rustix("chroot", "\".\"", e))?;
        let done = work();
        ns::join(own.as_fd(), MOUNT)?;
        done
    }

    /// A detached copy of the host's mount at `path`, and of those below it when `recursive`. From another namespace it
    /// gets its events as a mount of this one's would: it is the host's slave, or private.
    pub(super) fn copy(&self, path: &Path, recursive: bool, follow: bool) -> SysResult<OwnedFd> {
        let tree = self.visit(|| mount::clone_host_tree(path, recursive, follow))?;
        if let Outside::There { propagation, .. } = self {
            mount::set_propagation(&tree, *propagation)?;
        }
        Ok(tree)
    }
}
