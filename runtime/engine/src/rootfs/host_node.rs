//! Device nodes of the host in a container, always on a read-only mount.
//!
//! The inode of such a node is the host's. Without a user namespace, CAP_FOWNER or CAP_CHOWN in the container would
//! suffice to change its mode, owner, times and attributes for every process of the host. A read-only mount refuses
//! that with EROFS (mnt_want_write, fs/namespace.c), and still lets a process read from and write to the device,
//! because do_dentry_open (fs/open.c) exempts special files.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, OFlags, Stat};
use serde::{Deserialize, Serialize};

use super::{Root, by_path, refuse};
use crate::error::{Context, Result};
use brig_sys::SysError;
use brig_sys::mount;
use brig_sys::procfs::Proc;

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

/// A device of the kernel's memory driver (drivers/char/mem.c) whose open files have no state of their own: each node
/// with its number can replace another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryDevice {
    /// 1:3.
    Null,
    /// 1:5.
    Zero,
    /// 1:7.
    Full,
    /// 1:8.
    Random,
    /// 1:9.
    Urandom,
}

impl MemoryDevice {
    /// All memory devices of this type. The driver's other devices (mem, port, kmsg) give access to the host, or have a
    /// position of their own.
    pub const ALL: [MemoryDevice; 5] =
        [MemoryDevice::Null, MemoryDevice::Zero, MemoryDevice::Full, MemoryDevice::Random, MemoryDevice::Urandom];

    /// The device's minor number (its major is 1), and its path (Documentation/admin-guide/devices.txt).
    const fn known(self) -> (u32, &'static str) {
        match self {
            MemoryDevice::Null => (3, "/dev/null"),
            MemoryDevice::Zero => (5, "/dev/zero"),
            MemoryDevice::Full => (7, "/dev/full"),
            MemoryDevice::Random => (8, "/dev/random"),
            MemoryDevice::Urandom => (9, "/dev/urandom"),
        }
    }

    /// The device's path on a host and in a container.
    pub fn path(self) -> &'static Path {
        Path::new(self.known().1)
    }

    /// Recognises the device of a node by its number.
    pub fn from_stat(stat: &Stat) -> Option<MemoryDevice> {
        let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        let number = |device: &MemoryDevice| stat.st_rdev == rustix::fs::makedev(1, device.known().0);
        MemoryDevice::ALL.into_iter().find(number).filter(|_| is_device)
    }

    fn check(self, fd: &OwnedFd) -> Result<()> {
        let (minor, path) = self.known();
        let stat = rustix::fs::fstat(fd).map_err(|error| SysError::new("fstat", path, error))?;
        match MemoryDevice::from_stat(&stat) == Some(self) {
            true => Ok(()),
            false => Err(refuse(Path::new(path), &format!("is not the character device 1:{minor}"))),
        }
    }
}

/// Recognises a device that is none of [`MemoryDevice`], such as a terminal or a disk. Its open file may have a state
/// of its own, so that no other file can replace it.
pub fn is_other_device(stat: &Stat) -> bool {
    let kind = FileType::from_raw_mode(stat.st_mode);
    matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) && MemoryDevice::from_stat(stat).is_none()
}

/// Checks that `fd` is the null device.
pub(super) fn check_null(fd: &OwnedFd) -> Result<()> {
    MemoryDevice::Null.check(fd)
}

/// Opens a device of the host's on a detached read-only mount, for a container's process that has no such device of its
/// own: fchmod(2), fchown(2), futimens(3) and fsetxattr(2) on the descriptor fail with EROFS. `None` if this process
/// may not copy a mount (EPERM), and therefore has no privilege to pass on, and on kernels without open_tree or
/// mount_setattr.
///
/// # Errors
/// The path on the host is another device or no device, or it cannot be opened.
pub fn open_protected(device: MemoryDevice) -> Result<Option<OwnedFd>> {
    let opened = detached(device).and_then(|tree| match tree {
        Some(tree) => {
            device.check(&tree)?;
            Ok(Some(Proc::open()?.reopen(&tree, OFlags::RDWR)?))
        }
        None => Ok(None),
    });
    opened.with_context(|| format!("unable to open the host's {} read-only", device.path().display()))
}

/// Opens the replacement of `fd`, a stream of the caller's, for a process that opens no device itself.
///
/// # Errors
/// As for [`open_protected`].
pub fn replacement(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let device = rustix::fs::fstat(fd).ok().as_ref().and_then(MemoryDevice::from_stat);
    device.map_or(Ok(None), open_protected)
}

fn detached(device: MemoryDevice) -> Result<Option<OwnedFd>> {
    let made = mount::clone_host_tree(device.path(), false, true)
        .and_then(|tree| mount::set_attributes(&tree, ATTRIBUTES, 0, 0, false).map(|()| tree));
    match made {
        Ok(tree) => Ok(Some(tree)),
        Err(error) if mount::is_missing(&error) || error.errno() == rustix::io::Errno::PERM => Ok(None),
        Err(error) => Err(error.into()),
    }
}
