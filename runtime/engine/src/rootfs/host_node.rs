//! Device nodes of the host in a container, always on a read-only mount.
//!
//! The inode of such a node is the host's. Without a user namespace, CAP_FOWNER or CAP_CHOWN in the container would
//! suffice to change its mode, owner, times and attributes for every process of the host. A read-only mount refuses
//! that with EROFS (mnt_want_write, fs/namespace.c), and still lets a process read from and write to the device,
//! because do_dentry_open (fs/open.c) exempts special files.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};

use super::{Root, by_path, refuse};
use crate::error::{Context, Result};
use brig_sys::mount;
use brig_sys::procfs::Proc;
use brig_sys::SysError;

const ATTRIBUTES: u64 = mount::ATTR_RDONLY | mount::ATTR_NOSUID | mount::ATTR_NOEXEC;
/// The flags of mount(2) that correspond to [`ATTRIBUTES`].
const FLAGS: u64 = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NOEXEC;

/// Attaches `tree`, a detached copy of the mount of one of the host's nodes, to `target`. Later copies of the attached
/// mount are read-only as well.
pub(super) fn attach(root: &Root, tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    match mount::set_attributes(tree, ATTRIBUTES, 0, 0, false) {
        Ok(()) => Ok(mount::attach(tree, target)?),
        Err(error) if mount::is_missing(&error) => {
            mount::attach(tree, target)?;
            protect_attached(root, tree)
        }
        Err(error) => Err(error.into()),
    }
}

/// Makes an attached mount read-only without mount_setattr(2).
pub(super) fn protect_attached(root: &Root, mounted: impl AsFd) -> Result<()> {
    let mounted = mounted.as_fd();
    by_path(root, |path| mount::remount_bind_legacy(mounted, &path(mounted), FLAGS, 0))
}

/// Checks that `fd` is the null device.
pub(super) fn check_null(fd: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(fd).map_err(|e| SysError::from_rustix("fstat", "/dev/null", e))?;
    if is_null(&stat) { Ok(()) } else { Err(refuse(Path::new("/dev/null"), "is not the character device 1:3")) }
}

/// Recognises the character device 1:3.
pub fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3)
}

/// Opens the host's /dev/null on a detached read-only mount, for a container's process that has no null device of its
/// own: fchmod(2), fchown(2), futimens(3) and fsetxattr(2) on the descriptor fail with EROFS. `None` if this process
/// may not copy a mount (EPERM), and therefore has no privilege to pass on, and on kernels without open_tree(2) or
/// mount_setattr(2).
pub fn open_null() -> Result<Option<OwnedFd>> {
    let opened = detached_null().and_then(|tree| match tree {
        Some(tree) => {
            check_null(&tree)?;
            Ok(Some(Proc::open()?.reopen(&tree, OFlags::RDWR)?))
        }
        None => Ok(None),
    });
    opened.context("unable to open the host's /dev/null read-only")
}

fn detached_null() -> Result<Option<OwnedFd>> {
    let made = mount::clone_host_tree(Path::new("/dev/null"), false, true)
        .and_then(|tree| mount::set_attributes(&tree, ATTRIBUTES, 0, 0, false).map(|()| tree));
    match made {
        Ok(tree) => Ok(Some(tree)),
        Err(error) if mount::is_missing(&error) || error.errno() == nix::errno::Errno::EPERM => Ok(None),
        Err(error) => Err(error.into()),
    }
}
