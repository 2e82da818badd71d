//! /dev: nodes, symlinks and the console, all created below descriptors.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Root, by_path, host_node, refuse};
use crate::error::{Context, Result};
use brig_plan::devices::{DeviceKind, DeviceOp};
use brig_plan::mounts::RootfsPlan;
use brig_sys::mount;
use brig_sys::path::{Dir, Links};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult};

/// f_type of devpts (include/uapi/linux/magic.h).
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// The symlinks of /dev (config-linux.md, "Default Devices" and "Dev symbolic links").
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Creates every node and link. /dev is looked up once: a symlink of the image is followed inside the root, and later
/// changes of the path have no effect.
pub(super) fn set_up(root: &Root, plan: &RootfsPlan) -> Result<()> {
    let dev = root.dir.mkdir_all(Path::new("/dev"), 0o755, Links::Follow)?;
    for op in &plan.devices {
        let made = match op.path.strip_prefix("/dev") {
            Ok(name) if name.components().count() == 1 => {
                node(root, &dev, name.as_os_str(), op, plan.has_user_namespace())
            }
            _ => {
                let (parent, name) = root.dir.parent(&op.path)?;
                node(root, &parent, &name, op, plan.has_user_namespace())
            }
        };
        made.with_context(|| format!("error creating device node {:?}", op.path))?;
    }
    for (name, target) in LINKS {
        link(&dev, name, target)?;
    }
    // /proc/kcore depends on the kernel's configuration.
    if rustix::fs::statat(root.proc.fd(), "kcore", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        link(&dev, "core", "/proc/kcore")?;
    }
    ptmx(&dev)
}

/// Creates one node in `parent`.
fn node(root: &Root, parent: &OwnedFd, name: &OsStr, op: &DeviceOp, bound: bool) -> Result<()> {
    if bound && op.kind != DeviceKind::Fifo {
        return bind_node(root, parent, name, op);
    }
    let kind = file_type(op.kind);
    let device = rustix::fs::makedev(op.major, op.minor);
    match rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(op.mode), device) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return verify(parent, name, op),
        Err(rustix::io::Errno::PERM) => return bind_node(root, parent, name, op),
        Err(e) => return Err(SysError::new("mknodat", format!("{:?}", op.path), e).into()),
    }
    if op.uid != 0 || op.gid != 0 {
        let (uid, gid) = (Uid::from_raw(op.uid), Gid::from_raw(op.gid));
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| SysError::new("fchownat", format!("{:?}, {}, {}", op.path, op.uid, op.gid), e))?;
    }
    Ok(())
}

fn file_type(kind: DeviceKind) -> FileType {
    match kind {
        DeviceKind::Char => FileType::CharacterDevice,
        DeviceKind::Block => FileType::BlockDevice,
        DeviceKind::Fifo => FileType::Fifo,
    }
}

/// Checks that an existing node is the very device; a file in its place would store the data that is written to it.
fn verify(parent: &OwnedFd, name: &OsStr, op: &DeviceOp) -> Result<()> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| SysError::new("fstatat", format!("{:?}", op.path), e))?;
    if is_device(&stat, op) {
        return Ok(());
    }
    Err(refuse(&op.path, "exists in the image and is not this device; remove it there, or mount a tmpfs on /dev"))
}

fn is_device(stat: &rustix::fs::Stat, op: &DeviceOp) -> bool {
    FileType::from_raw_mode(stat.st_mode) == file_type(op.kind)
        && (op.kind == DeviceKind::Fifo || stat.st_rdev == rustix::fs::makedev(op.major, op.minor))
}

/// Binds the host's node of the same path where mknod(2) is not allowed, after a check that the node is that device;
/// see [`host_node`].
fn bind_node(root: &Root, parent: &OwnedFd, name: &OsStr, op: &DeviceOp) -> Result<()> {
    let tree = root.host_mounts.copy(&op.path, false, true);
    let source = match &tree {
        Ok(tree) => rustix::fs::fstat(tree),
        Err(error) if mount::is_missing(error) => rustix::fs::stat(&op.path),
        Err(error) => return Err(error.clone().into()),
    }
    .map_err(|e| SysError::new("fstat", format!("{:?}", op.path), e))?;
    if !is_device(&source, op) {
        return Err(refuse(&op.path, "of the host is another device, and this process may make none"));
    }
    let target = file(parent, name, op.mode, &op.path)?;
    match tree {
        Ok(tree) => host_node::attach(root, &tree, &target),
        Err(_) => {
            by_path(root, |path| {
                mount::mount_raw(Some(op.path.as_os_str()), &path(target.as_fd()), None, libc::MS_BIND, None)
            })?;
            host_node::protect_attached(root, open_node(parent, name, &op.path)?)
        }
    }
}

/// Opens the file at `name`, or an empty new file, as O_PATH; refuses a symlink or a directory.
fn file(parent: &OwnedFd, name: &OsStr, mode: u32, shown: &Path) -> Result<OwnedFd> {
    match rustix::fs::mknodat(parent, name, FileType::RegularFile, Mode::from_raw_mode(mode & 0o777), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(SysError::new("mknodat", format!("{shown:?}, S_IFREG"), e).into()),
    }
    let fd = open_node(parent, name, shown)?;
    match brig_sys::fd::file_type(&fd)? {
        FileType::Symlink | FileType::Directory => Err(refuse(shown, "is a symlink or a directory in the image")),
        _ => Ok(fd),
    }
}

fn open_node(parent: &OwnedFd, name: &OsStr, shown: &Path) -> SysResult<OwnedFd> {
    rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("openat", format!("{shown:?}, O_PATH|O_NOFOLLOW"), e))
}

fn link(dev: &OwnedFd, name: &str, target: &str) -> SysResult<()> {
    match rustix::fs::symlinkat(target, dev, name) {
        // The image's own file or link stays.
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(e) => Err(SysError::new("symlinkat", format!("{target:?}, \"/dev/{name}\""), e)),
    }
}

/// Links /dev/ptmx to the container's own devpts, and replaces what the image has there.
fn ptmx(dev: &OwnedFd) -> Result<()> {
    let error = |call, e| SysError::new(call, "\"/dev/ptmx\"", e);
    match rustix::fs::symlinkat("pts/ptmx", dev, "ptmx") {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::EXIST) => {}
        Err(e) => return Err(error("symlinkat", e).into()),
    }
    rustix::fs::unlinkat(dev, "ptmx", AtFlags::empty()).map_err(|e| error("unlinkat", e))?;
    rustix::fs::symlinkat("pts/ptmx", dev, "ptmx").map_err(|e| error("symlinkat", e))?;
    Ok(())
}

/// Mounts the terminal: see [`Root::bind_console`].
pub(super) fn bind_console(root: &Root, slave: BorrowedFd<'_>) -> Result<()> {
    let shown = Path::new("/dev/console");
    let stat = rustix::fs::fstat(slave).map_err(|e| SysError::new("fstat", "terminal", e))?;
    let fs = rustix::fs::fstatfs(slave).map_err(|e| SysError::new("fstatfs", "terminal", e))?;
    let is_char = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    if !is_char || brig_sys::fd::magic(&fs) != DEVPTS_SUPER_MAGIC {
        return Err(refuse(shown, "requires a pseudo-terminal of a devpts"));
    }
    let dev = root.dir.mkdir_all(Path::new("/dev"), 0o755, Links::Follow)?;
    let target = file(&dev, "console".as_ref(), 0o666, shown)?;
    match mount::clone_fd_tree(slave, false) {
        Ok(tree) => mount::attach(&tree, &target)?,
        Err(error) if mount::is_missing(&error) => {
            by_path(root, |path| {
                mount::mount_raw(Some(path(slave).as_os_str()), &path(target.as_fd()), None, libc::MS_BIND, None)
            })?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Opens and checks the node: see [`super::open_ptmx`].
pub(super) fn open_ptmx(dir: &Dir, proc: &Proc) -> Result<OwnedFd> {
    let path = Path::new("/dev/pts/ptmx");
    // The image could have a FIFO or a device there: the check must precede the open.
    let found = dir.open(path, OFlags::PATH, Links::NotLast)?;
    let stat = rustix::fs::fstat(&found).map_err(|e| SysError::new("fstat", "/dev/pts/ptmx", e))?;
    let fs = rustix::fs::fstatfs(found.as_fd()).map_err(|e| SysError::new("fstatfs", "/dev/pts/ptmx", e))?;
    let is_ptmx = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2)
        && brig_sys::fd::magic(&fs) == DEVPTS_SUPER_MAGIC;
    if !is_ptmx {
        return Err(SysError::new("open", "/dev/pts/ptmx: expected a node of a devpts", Errno::NOTTY).into());
    }
    Ok(proc.reopen(&found, OFlags::RDWR | OFlags::NOCTTY)?)
}
