//! The entry into the new root, and the exit from the old one.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::Root;
use super::host_mounts::HostMounts;
use super::mounts::make_readonly;
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::mounts::{Pivot, ReadOnly, RootfsPlan};
use brig_sys::mount::{self, Filesystem};
use brig_sys::path::{Dir, Links};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult};

/// Stops propagation from this mount namespace as the plan asks, and makes the root a mount of its own.
/// With a cached empty mount namespace, the process leaves the host's for a copy of that.
pub(super) fn attach_root(
    plan: &RootfsPlan,
    empty_namespace: Option<OwnedFd>,
    proc: &Proc,
) -> Result<(Dir, HostMounts)> {
    let context = || format!("error preparing rootfs {:?}", plan.root);
    if plan.pivot == Pivot::Chroot {
        return Ok((Dir::open_host(&plan.root).with_context(context)?, HostMounts::Copied));
    }
    if let Some(cached) = empty_namespace {
        let tree = mount::clone_host_tree(&plan.root, true, true).map_err(|error| root_error(plan, error))?;
        if let Some(host_mounts) = HostMounts::leave(plan, proc, &cached, &tree).with_context(context)? {
            return Ok((Dir::from_fd(tree), host_mounts));
        }
    }
    let asked = plan.spread();
    // An unbindable mount cannot be bound as the root: `finish_root` makes it unbindable at the end.
    let spread = if asked & libc::MS_UNBINDABLE != 0 { libc::MS_PRIVATE | libc::MS_REC } else { asked };
    mount::mount_raw(None, Path::new("/"), None, spread, None).with_context(context)?;
    let tree = mount::clone_host_tree(&plan.root, true, true);
    // Shared mounts can remain: the new root must not propagate to the host when it is attached, and pivot_root(2)
    // refuses a root whose parent mount is shared.
    if spread & libc::MS_SHARED != 0 || spread & libc::MS_REC == 0 {
        make_parent_private(&plan.root).with_context(context)?;
    }
    let tree = match tree {
        Ok(tree) => tree,
        Err(error) if mount::is_missing(&error) => {
            return Ok((bind_root(plan).with_context(context)?, HostMounts::Copied));
        }
        Err(error) => return Err(root_error(plan, error)),
    };
    mount::attach_host(&tree, &plan.root).with_context(context)?;
    if spread & libc::MS_SHARED != 0 {
        // The copy is a peer of the image's mount on the host: mounts in it would appear there.
        mount::set_propagation(&tree, libc::MS_PRIVATE).with_context(context)?;
    } else if spread & libc::MS_REC == 0 {
        // Only the mount of / was changed above; pivot_root(2) refuses a root that is still a peer of the host's.
        mount::set_propagation(&tree, spread).with_context(context)?;
    }
    Ok((Dir::from_fd(tree), HostMounts::Copied))
}

/// Checks that root.path leads to a directory, before anything is created. The container's process may see a path that
/// this process may not.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] when root.path is missing or no directory.
pub fn check_root(plan: &RootfsPlan) -> Result<()> {
    match std::fs::metadata(&plan.root) {
        Ok(found) if !found.is_dir() => {
            let kind = if found.is_file() { "a file" } else { "no directory" };
            let what = format!("root.path: {} is {kind}; expected a directory", plan.root.display());
            Err(Error::new(ErrorKind::InvalidConfig, what).context("invalid rootfs"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing_root(plan)),
        _ => Ok(()),
    }
}

fn missing_root(plan: &RootfsPlan) -> Error {
    let what = format!("root.path: stat {}: no such file or directory", plan.root.display());
    Error::new(ErrorKind::InvalidConfig, what).context("invalid rootfs")
}

/// The error for a root that could not be copied.
fn root_error(plan: &RootfsPlan, error: SysError) -> Error {
    if error.errno() == Errno::NOENT {
        return missing_root(plan);
    }
    Error::from(error).context(format!("error preparing rootfs {:?}", plan.root))
}

fn bind_root(plan: &RootfsPlan) -> SysResult<Dir> {
    let flags = libc::MS_BIND | libc::MS_REC;
    mount::mount_raw(Some(plan.root.as_os_str()), &plan.root, None, flags, None)?;
    let root = Dir::open_host(&plan.root)?;
    mount::mount_raw(None, &plan.root, None, libc::MS_PRIVATE, None)?;
    Ok(root)
}

/// Makes the mount that holds `root` private. Its root is found by trials on the directories above: the call succeeds
/// on a mount's root only.
fn make_parent_private(root: &Path) -> SysResult<()> {
    // A path with a symlink leads to other directories than its text names.
    let real = std::fs::canonicalize(root).map_err(|e| SysError::from_io("realpath", format!("{root:?}"), &e))?;
    let mut last = None;
    for path in real.ancestors() {
        match mount::mount_raw(None, path, None, libc::MS_PRIVATE, None) {
            Err(error) if error.errno() == Errno::INVAL => last = Some(error),
            other => return other,
        }
    }
    last.map_or(Ok(()), Err)
}

fn change_directory(root: &Root) -> SysResult<()> {
    rustix::process::fchdir(root.fd()).map_err(|e| SysError::new("fchdir", "root", e))
}

fn to_top() -> SysResult<()> {
    rustix::process::chdir("/").map_err(|e| SysError::new("chdir", "\"/\"", e))
}

/// Enters the root by pivot_root(2) in place.
pub(super) fn pivot(root: &Root, plan: &RootfsPlan) -> Result<()> {
    let spreads = plan
        .root_propagation
        .is_some_and(|flags| flags & (libc::MS_SHARED | libc::MS_UNBINDABLE) != 0 || flags & libc::MS_REC == 0);
    let old: Option<OwnedFd> = if spreads { Some(open_old_root()?) } else { None };
    change_directory(root)?;
    mount::pivot_here()?;
    if let Some(old) = old {
        // Must precede the detach, because a shared mount would propagate the detach to the host, and unmount its tree.
        rustix::process::fchdir(&old).map_err(|e| SysError::new("fchdir", "old root", e))?;
        mount::mount_raw(None, Path::new("."), None, libc::MS_SLAVE | libc::MS_REC, None)?;
    }
    mount::detach(Path::new("."))?;
    Ok(to_top()?)
}

fn open_old_root() -> SysResult<OwnedFd> {
    rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::new("open", "\"/\", O_PATH", e))
}

/// Enters a root that pivot_root(2) refuses (a ramdisk): moves the new root over the old one, and enters it by
/// chroot(2).
///
/// The old root's mounts stay in the namespace, below. Complete procfs and sysfs instances among them must be removed
/// first: as long as one is visible, the kernel lets a process with privilege in the container mount another one that
/// nothing masks (fs/namespace.c, mount_too_revealing).
pub(super) fn move_root(root: &Root, plan: &RootfsPlan) -> Result<()> {
    let mounts = mount::parse_mountinfo(&root.proc.read_to_string("self/mountinfo")?);
    let real = std::fs::canonicalize(&plan.root).with_context(|| format!("error resolving {:?}", plan.root))?;
    let full = mounts.iter().filter(|info| {
        matches!(info.kind.as_str(), "proc" | "sysfs")
            && info.root == "/"
            && !Path::new(&info.target).starts_with(&real)
    });
    for info in full {
        let path = Path::new(&info.target);
        // A mount below another one may have been removed with it.
        match mount::mount_raw(None, path, None, libc::MS_SLAVE | libc::MS_REC, None).and_then(|()| mount::detach(path))
        {
            Ok(()) => {}
            Err(error) if matches!(error.errno(), Errno::INVAL | Errno::NOENT | Errno::PERM) => cover(path)?,
            Err(error) => return Err(error.into()),
        }
    }
    change_directory(root)?;
    mount::mount_raw(Some(".".as_ref()), Path::new("/"), None, libc::MS_MOVE, None)?;
    rustix::process::chroot(".").map_err(|e| SysError::new("chroot", "\".\"", e))?;
    Ok(to_top()?)
}

/// Covers a mount that is locked in place, and cannot be unmounted here, with an empty tmpfs.
fn cover(path: &Path) -> SysResult<()> {
    match Filesystem::new("tmpfs").source("tmpfs".as_ref()).mount_legacy(path, 0) {
        Err(error) if error.errno() == Errno::NOENT => Ok(()),
        other => other,
    }
}

/// Enters the root by chroot(2) alone: the container shares the host's mounts.
pub(super) fn change_root(root: &Root) -> Result<()> {
    change_directory(root)?;
    rustix::process::chroot(".").map_err(|e| SysError::new("chroot", "\".\"", e))?;
    Ok(to_top()?)
}

/// Sets the propagation of the new root, then makes mounts read-only.
pub(super) fn finish_root(root: &Root, plan: &RootfsPlan) -> Result<()> {
    // The whole tree was made private or slave before the first mount: a second time would undo the propagation that a
    // mount's own options have set since.
    let done = |flags: u64| flags & libc::MS_REC != 0 && flags & (libc::MS_PRIVATE | libc::MS_SLAVE) != 0;
    let left = plan.root_propagation.filter(|&flags| !done(flags));
    if let (Some(flags), true) = (left, plan.pivot != Pivot::Chroot) {
        // Must follow the pivot, because / is the new root only now: before, the call would have changed the mount on
        // which the root lies.
        mount::mount_raw(None, Path::new("/"), None, flags, None).context("error setting rootfsPropagation")?;
    }
    for mounted in &root.deferred_readonly {
        make_readonly(root, mounted).context("error remounting a tmpfs as readonly")?;
    }
    if plan.readonly.contains(ReadOnly::DEV) {
        let dev = root.dir.open(Path::new("/dev"), OFlags::PATH, Links::Follow)?;
        make_readonly(root, &dev).context("error remounting \"/dev\" as readonly")?;
    }
    if plan.readonly.contains(ReadOnly::ROOT) {
        make_readonly(root, root.fd()).context("error setting rootfs as readonly")?;
    }
    Ok(())
}
