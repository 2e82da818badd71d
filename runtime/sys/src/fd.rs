//! Facts about an open descriptor: a path that leads to it, its mount, its type.

use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, StatFs};

use super::{SysError, SysResult};

/// A path that leads a call to exactly the file of `fd`, for calls that take no descriptor (mount(2) on old kernels).
///
/// Valid only while /proc is the host's own: before the root is entered.
pub fn fd_path(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// The identifier of the mount that `fd` lies on; `None` on kernels that do not report it (before 5.8).
pub fn mount_id(fd: impl AsFd) -> Option<u64> {
    let mask = rustix::fs::StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, mask).ok()?;
    (stat.stx_mask & mask.bits() != 0).then_some(stat.stx_mnt_id)
}

/// The magic number of a file system (statfs(2), f_type). The field's type differs between architectures; a magic
/// number is its low 32 bits, which no sign extends into.
pub fn magic(found: &StatFs) -> u64 {
    u64::try_from(found.f_type & 0xffff_ffff).unwrap_or_default()
}

/// The type of an open file.
///
/// # Errors
/// As fstat(2).
pub fn file_type(fd: impl AsFd) -> SysResult<FileType> {
    let stat = rustix::fs::fstat(fd).map_err(|e| SysError::new("fstat", "", e))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}
