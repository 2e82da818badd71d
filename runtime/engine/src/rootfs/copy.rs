//! tmpcopyup: copies the image's files below a directory into the new tmpfs that covers it.
//!
//! Both sides are walked by descriptor, one name at a time and without following links: a file that is swapped for a
//! symlink meanwhile is an error, never a way out. The image chooses the tree's shape, and therefore the walk is
//! iterative: it holds the two descriptors of one level, and returns to the parent by "..", which must lead to the
//! directory that it came from.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};

use crate::error::{Context, Error, Result};
use brig_sys::{SysError, SysResult};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The maximum depth of a copied directory: no path (PATH_MAX, 4096 bytes) names a deeper one.
const MAX_DEPTH: usize = 2048;

/// A directory above the current one.
struct Above {
    /// Device and inode of the image's directory and of its copy.
    from: (u64, u64),
    to: (u64, u64),
    /// Subdirectories that remain to be copied.
    left: Vec<CString>,
}

/// The mount's own options for the top directory. The mode always comes from the mount.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopOptions {
    /// The options include uid=.
    pub uid: bool,
    /// The options include gid=.
    pub gid: bool,
}

/// Copies everything in `from` (open for reading) into the directory `to`: files, directories, symlinks, nodes and
/// FIFOs, with owners, modes, times and extended attributes; and `from`'s own owner and attributes, except the mode and
/// the attributes that `top` names. Sockets are left out; holes and hard links are not preserved.
/// names and the mode. Sockets are left out, and so are holes and hard links as such.
///
/// # Errors
/// A tree that is deeper than [`MAX_DEPTH`], and one that is moved while it is copied (ESTALE).
pub(super) fn tree(from: &OwnedFd, to: &OwnedFd, top: TopOptions) -> Result<()> {
    // `to` may be an O_PATH descriptor of a mount; writing attributes requires an open one.
    let mut to = open(to, c".")?;
    let mut from = open(from, c".")?;
    let mut above: Vec<Above> = Vec::new();
    let mut left = entries(&from, &to)?;
    loop {
        if let Some(name) = left.pop() {
            if above.len() == MAX_DEPTH {
                return Err(too_deep());
            }
            let (inner_from, inner_to) = enter(&from, &to, &name).with_context(|| format!("error copying {name:?}"))?;
            above.push(Above { from: identity(&from)?, to: identity(&to)?, left });
            (from, to) = (inner_from, inner_to);
            left = entries(&from, &to)?;
            continue;
        }
        let outer = above.pop().map(|outer| {
            let (outer_from, outer_to) = (parent(&from, outer.from)?, parent(&to, outer.to)?);
            Ok::<_, SysError>((outer_from, outer_to, outer.left))
        });
        let outer = outer.transpose()?;
        // Must come last: new entries change the times, and another owner may deny access.
        let stat = rustix::fs::fstat(&from).map_err(|e| SysError::new("fstat", "", e))?;
        match outer {
            Some(outer) => {
                attributes(&from, &to, &stat)?;
                (from, to, left) = outer;
            }
            None => return top_attributes(&from, &to, &stat, top),
        }
    }
}

fn too_deep() -> Error {
    Error::other(format!(
        "the directory in the image is nested deeper than {MAX_DEPTH} levels; remove the option tmpcopyup, or the deeper \
         directories from the image"
    ))
}

fn open(directory: &OwnedFd, name: &CStr) -> SysResult<OwnedFd> {
    rustix::fs::openat(directory, name, DIRECTORY, Mode::empty())
        .map_err(|e| SysError::new("openat", format!("{name:?}"), e))
}

fn identity(directory: &OwnedFd) -> SysResult<(u64, u64)> {
    let stat = rustix::fs::fstat(directory).map_err(|e| SysError::new("fstat", "", e))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens the parent directory. A directory that was moved meanwhile could have any directory of the host above it.
fn parent(directory: &OwnedFd, expected: (u64, u64)) -> SysResult<OwnedFd> {
    let found = open(directory, c"..")?;
    if identity(&found)? == expected {
        return Ok(found);
    }
    Err(SysError::new("openat", "\"..\" of a directory that was moved while it was copied", rustix::io::Errno::STALE))
}

/// Opens the directory `name` and creates its copy.
fn enter(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> SysResult<(OwnedFd, OwnedFd)> {
    let source = open(from, name)?;
    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))
        .map_err(|e| SysError::new("mkdirat", format!("{name:?}"), e))?;
    Ok((source, open(to, name)?))
}

/// Copies the entries of `from` that are not directories; returns the names of the directories.
fn entries(from: &OwnedFd, to: &OwnedFd) -> Result<Vec<CString>> {
    let mut directories = Vec::new();
    let entries = Dir::read_from(from).map_err(|e| SysError::new("getdents64", "", e))?;
    for entry in entries {
        let entry = entry.map_err(|e| SysError::new("getdents64", "", e))?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if !copy_entry(from, to, name).with_context(|| format!("error copying {name:?}"))? {
            directories.push(name.to_owned());
        }
    }
    Ok(directories)
}

/// Copies one entry; returns false for a directory.
fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<bool> {
    let failed = |call, e| SysError::new(call, format!("{name:?}"), e);
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| failed("fstatat", e))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => return Ok(false),
        FileType::RegularFile => file(from, to, name)?,
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(from, name, Vec::new()).map_err(|e| failed("readlinkat", e))?;
            rustix::fs::symlinkat(&link, to, name).map_err(|e| failed("symlinkat", e))?;
            own_entry(to, name, &stat)?;
        }
        FileType::Socket | FileType::Unknown => {}
        kind => {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::mknodat(to, name, kind, mode, stat.st_rdev).map_err(|e| failed("mknodat", e))?;
            own_entry(to, name, &stat)?;
            // The change of the owner may have cleared bits of the mode.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).map_err(|e| failed("fchmodat", e))?;
        }
    }
    Ok(true)
}

fn file(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<()> {
    let failed = |call, e| SysError::new(call, format!("{name:?}"), e);
    // With O_NONBLOCK the open does not wait if a FIFO was swapped in; the type is checked again afterwards.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, flags, Mode::empty()).map_err(|e| failed("openat", e))?;
    let stat = rustix::fs::fstat(&source).map_err(|e| failed("fstat", e))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(failed("openat", rustix::io::Errno::STALE).into());
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed("openat", e))?;
    let (mut reader, mut writer) = (File::from(source), File::from(target));
    std::io::copy(&mut reader, &mut writer).context("error copying data")?;
    attributes(&OwnedFd::from(reader), &OwnedFd::from(writer), &stat)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn times(stat: &Stat) -> Timestamps {
    // There are less than 10^9 nanoseconds; the type differs between architectures.
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn own_entry(to: &OwnedFd, name: &CStr, stat: &Stat) -> SysResult<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| SysError::new("fchownat", format!("{name:?}"), e))?;
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| SysError::new("utimensat", format!("{name:?}"), e))
}

/// Sets owner, mode, extended attributes and times, in this order: a change of owner clears set-id bits and
/// capabilities.
fn attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, uid, gid).map_err(|e| SysError::new("fchown", "", e))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(|e| SysError::new("fchmod", "", e))?;
    extended(from, to)?;
    rustix::fs::futimens(to, &times(stat)).map_err(|e| SysError::new("futimens", "", e))?;
    Ok(())
}

fn top_attributes(from: &OwnedFd, to: &OwnedFd, stat: &Stat, top: TopOptions) -> Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(to, uid.filter(|_| !top.uid), gid.filter(|_| !top.gid))
        .map_err(|e| SysError::new("fchown", "", e))?;
    extended(from, to)?;
    Ok(rustix::fs::futimens(to, &times(stat)).map_err(|e| SysError::new("futimens", "", e))?)
}

fn extended(from: &OwnedFd, to: &OwnedFd) -> SysResult<()> {
    use rustix::io::Errno;
    let mut list = vec![0_u8; 1024];
    let length = loop {
        match rustix::fs::flistxattr(from, list.as_mut_slice()) {
            Ok(length) => break length,
            Err(Errno::RANGE) => list.resize(list.len() * 4, 0),
            Err(Errno::OPNOTSUPP) => return Ok(()),
            Err(e) => return Err(SysError::new("flistxattr", "", e)),
        }
    };
    for name in list[..length].split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        let mut value = vec![0_u8; 4096];
        let size = loop {
            match rustix::fs::fgetxattr(from, name, value.as_mut_slice()) {
                Ok(size) => break size,
                Err(Errno::RANGE) if value.len() < 1 << 20 => value.resize(value.len() * 4, 0),
                Err(e) => return Err(SysError::new("fgetxattr", format!("{name:?}"), e)),
            }
        };
        match rustix::fs::fsetxattr(to, name, &value[..size], rustix::fs::XattrFlags::empty()) {
            // tmpfs accepts user.* from Linux 6.6 on alone, and labels belong to the mount if it has a context.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(Errno::PERM) if name.to_bytes().starts_with(b"security.selinux") => {}
            Err(e) => return Err(SysError::new("fsetxattr", format!("{name:?}"), e)),
        }
    }
    Ok(())
}
