//! A container's view of its cgroups.
//!
//! Nothing of the host's hierarchy may be writable from a container: a mount is read-only unless the container has a
//! cgroup namespace of its own, in which it sees its own part alone.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{Mode, OFlags};

use super::mounts::{directory, filesystem, labelled, make_readonly, place};
use super::{Root, refuse};
use crate::error::Result;
use crate::plan::mounts::{CgroupHierarchy, CgroupMounts, MountOp, RootfsPlan};
use crate::sys::SysError;
use crate::sys::mount::{self, Filesystem};

/// Every mount of a hierarchy gets these.
const FLAGS: u64 = libc::MS_NOEXEC | libc::MS_NOSUID | libc::MS_NODEV;

/// Mounts what `plan.cgroup` says at the operation's target.
pub(super) fn mount(root: &Root, plan: &RootfsPlan, op: &MountOp) -> Result<OwnedFd> {
    let readonly = if plan.cgroup_namespace { op.flags & libc::MS_RDONLY } else { libc::MS_RDONLY };
    let target = directory(root, op)?;
    match &plan.cgroup {
        CgroupMounts::None => {
            let fs = labelled(Filesystem::new("tmpfs").parameter("mode", Some("755".into())), plan);
            place(root, &fs, op, FLAGS | libc::MS_RDONLY, target)
        }
        CgroupMounts::Unified { mountpoint, own } => {
            unified(root, plan, op, op.flags | readonly, target, mountpoint, own)
        }
        CgroupMounts::Hierarchies(list) => hierarchies(root, plan, op, readonly, target, list),
    }
}

fn unified(
    root: &Root,
    plan: &RootfsPlan,
    op: &MountOp,
    flags: u64,
    target: OwnedFd,
    mountpoint: &Path,
    own: &Path,
) -> Result<OwnedFd> {
    if plan.cgroup_namespace {
        match filesystem(op, "cgroup2", flags).mount(mount::attributes(flags)) {
            Ok(mounted) => {
                mount::attach(&mounted, &target)?;
                return Ok(mounted);
            }
            Err(error) if mount::is_missing(&error) => {
                return place(root, &filesystem(op, "cgroup2", flags), op, flags, target);
            }
            // In a user namespace that does not own the cgroup namespace.
            Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // In the host's cgroup namespace a mount of our own would set the host's mount options anew: without nsdelegate
    // and memory_recursiveprot, every cgroup of the host would lose them (kernel/cgroup/cgroup.c,
    // apply_cgroup_root_flags). A bind leaves them alone.
    let source = if plan.cgroup_namespace { own } else { mountpoint };
    match bind(source, flags, &target) {
        Err(error) if error.errno() == Errno::ENOENT => {
            // A rootless container without a cgroup of its own: it gets none to see.
            let fs = labelled(Filesystem::new("tmpfs").parameter("mode", Some("755".into())), plan);
            place(root, &fs, op, FLAGS | libc::MS_RDONLY, target)
        }
        other => Ok(other?),
    }
}

/// Binds a directory of the host's cgroups.
fn bind(source: &Path, flags: u64, target: &OwnedFd) -> Result<OwnedFd, SysError> {
    let tree = match mount::clone_host_tree(source, false, true) {
        Ok(tree) => tree,
        Err(error) if mount::is_missing(&error) => return bind_legacy(source, flags, target),
        Err(error) => return Err(error),
    };
    match mount::remount_bind(&tree, flags, 0) {
        Ok(()) => mount::attach(&tree, target)?,
        Err(error) if mount::is_missing(&error) => {
            mount::attach(&tree, target)?;
            mount::remount_bind_legacy(&tree, flags, 0)?;
        }
        Err(error) => return Err(error),
    }
    Ok(tree)
}

/// Without open_tree: the mount is found again through its parent directory, whose descriptor we hold.
fn bind_legacy(source: &Path, flags: u64, target: &OwnedFd) -> Result<OwnedFd, SysError> {
    let path = crate::sys::procfs::fd_path(target);
    mount::mount_raw(Some(source.as_os_str()), &path, None, libc::MS_BIND, None)?;
    let proc = crate::sys::procfs::Proc::open()?;
    let number = std::os::fd::AsRawFd::as_raw_fd(target);
    let place = proc.read_link(format!("self/fd/{number}"))?;
    let mounted = rustix::fs::open(&place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| SysError::from_rustix("open", format!("{place:?}"), e))?;
    mount::remount_bind_legacy(&mounted, flags, 0)?;
    Ok(mounted)
}

/// A tmpfs with a directory for each hierarchy, and symlinks for the names of those mounted together.
fn hierarchies(
    root: &Root,
    plan: &RootfsPlan,
    op: &MountOp,
    readonly: u64,
    target: OwnedFd,
    list: &[CgroupHierarchy],
) -> Result<OwnedFd> {
    let fs = Filesystem::new("tmpfs").source("tmpfs".as_ref()).parameter("mode", Some("755".into()));
    let top = place(root, &labelled(fs, plan), op, FLAGS, target)?;
    for hierarchy in list {
        let name = hierarchy.name.as_str();
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(refuse(Path::new(name), "is no name of a cgroup hierarchy"));
        }
        rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755))
            .map_err(|e| SysError::from_rustix("mkdirat", format!("{:?}/{name}", op.target), e))?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&top, name, directory, Mode::empty())
            .map_err(|e| SysError::from_rustix("openat", format!("{:?}/{name}", op.target), e))?;
        one(plan, hierarchy, FLAGS | readonly, &place)?;
        for alias in name.split(',').filter(|alias| *alias != name && !alias.is_empty()) {
            match rustix::fs::symlinkat(name, &top, alias) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(SysError::from_rustix("symlinkat", format!("{name:?}, {alias:?}"), e).into()),
            }
        }
    }
    if readonly != 0 {
        make_readonly(&top)?;
    }
    Ok(top)
}

fn one(plan: &RootfsPlan, hierarchy: &CgroupHierarchy, flags: u64, target: &OwnedFd) -> Result<()> {
    if plan.cgroup_namespace {
        let (kind, source) = if hierarchy.unified { ("cgroup2", "cgroup2") } else { ("cgroup", "cgroup") };
        let mut fs = Filesystem::new(kind).source(source.as_ref());
        for option in hierarchy.options.split(',').filter(|option| !option.is_empty()) {
            fs = match option.split_once('=') {
                Some((name, value)) => fs.parameter(name, Some(value.into())),
                None => fs.parameter(option, None),
            };
        }
        match fs.mount(mount::attributes(flags)) {
            Ok(mounted) => return Ok(mount::attach(&mounted, target)?),
            // No fsopen, or a user namespace that may not mount it: a bind of our own part shows the same.
            Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EPERM | Errno::EBUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bind(&hierarchy.own, flags, target)?;
    Ok(())
}
