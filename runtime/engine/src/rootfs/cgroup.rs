//! A container's view of its cgroups.
//!
//! The configuration decides whether a mount is writable, as with runc: a v1 hierarchy shows the container's own part
//! alone, and a container on v2 without its own cgroup namespace sees the whole hierarchy. In a user namespace without
//! its own cgroup namespace a mount is always read-only: the process's ids could own cgroups of the host that are no
//! part of the container (CVE-2023-25809).

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::mounts::{directory, filesystem, labelled, make_readonly, mount_at};
use super::{Root, by_path, refuse};
use crate::error::Result;
use brig_plan::mounts::{CgroupHierarchy, CgroupMounts, MountOp, RootfsPlan};
use brig_sys::mount::{self, Filesystem};
use brig_sys::{SysError, SysResult};

/// Flags of every mount of a hierarchy.
const FLAGS: u64 = libc::MS_NOEXEC | libc::MS_NOSUID | libc::MS_NODEV;

/// f_type of cgroup and cgroup2 (include/uapi/linux/magic.h).
const CGROUP_MAGICS: [u64; 2] = [0x27_e0eb, 0x6367_7270];

/// Mounts the hierarchies of the container at the operation's target.
pub(super) fn mount(root: &Root, plan: &RootfsPlan, op: &MountOp) -> Result<OwnedFd> {
    let may_write = plan.has_cgroup_namespace() || !plan.has_user_namespace();
    let readonly = if may_write { op.flags & libc::MS_RDONLY } else { libc::MS_RDONLY };
    let target = directory(root, op)?;
    match &root.cgroup {
        CgroupMounts::None => {
            let fs = labelled(Filesystem::new("tmpfs").parameter("mode", Some("755".into())), plan);
            mount_at(root, &fs, op, FLAGS | libc::MS_RDONLY, target)
        }
        CgroupMounts::V2 { mountpoint, own } => {
            let source = if plan.has_cgroup_namespace() { own } else { mountpoint };
            Mounting { root, plan, op, flags: op.flags | readonly }.v2(target, source)
        }
        CgroupMounts::V1(list) => Mounting { root, plan, op, flags: FLAGS | readonly }.hierarchies(target, list),
    }
}

/// The mount of a container's cgroups.
#[derive(Clone, Copy)]
struct Mounting<'a> {
    root: &'a Root,
    plan: &'a RootfsPlan,
    op: &'a MountOp,
    /// MS_ flags of the hierarchies; MS_RDONLY where the container may not write.
    flags: u64,
}

impl Mounting<'_> {
    /// The v2 hierarchy: a new mount, or a bind mount of `source`.
    fn v2(&self, target: OwnedFd, source: &Path) -> Result<OwnedFd> {
        let Mounting { root, plan, op, flags } = *self;
        if plan.has_cgroup_namespace() {
            match filesystem(op, "cgroup2", flags).mount(mount::attributes(flags)) {
                Ok(mounted) => {
                    mount::attach(&mounted, &target)?;
                    return Ok(mounted);
                }
                Err(error) if mount::is_missing(&error) => {
                    return mount_at(root, &filesystem(op, "cgroup2", flags), op, flags, target);
                }
                // The user namespace does not own the cgroup namespace.
                Err(error) if matches!(error.errno(), Errno::PERM | Errno::BUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // In the host's cgroup namespace a new mount would reset the host's mount options: without nsdelegate and
        // memory_recursiveprot, every cgroup of the host would lose them (kernel/cgroup/cgroup.c, apply_cgroup_root_flags).
        // A bind mount leaves them alone.
        match root.host_mounts.copy(source, false, true) {
            Err(error) if error.errno() == Errno::NOENT => {
                // A rootless container without its own cgroup sees no cgroups.
                let fs = labelled(Filesystem::new("tmpfs").parameter("mode", Some("755".into())), plan);
                mount_at(root, &fs, op, FLAGS | libc::MS_RDONLY, target)
            }
            tree => bind(root, source, tree, flags, &target),
        }
    }

    /// A tmpfs with a directory for each hierarchy, and symlinks for the names of those mounted together.
    fn hierarchies(&self, target: OwnedFd, list: &[CgroupHierarchy]) -> Result<OwnedFd> {
        let Mounting { root, plan, op, flags } = *self;
        let fs = Filesystem::new("tmpfs").source("tmpfs".as_ref()).parameter("mode", Some("755".into()));
        let top = mount_at(root, &labelled(fs, plan), op, FLAGS, target)?;
        for hierarchy in list {
            let name = hierarchy.name.as_str();
            if name.is_empty() || name.contains('/') || name.starts_with('.') {
                return Err(refuse(Path::new(name), "is not the name of a cgroup hierarchy"));
            }
            rustix::fs::mkdirat(&top, name, Mode::from_raw_mode(0o755))
                .map_err(|e| SysError::new("mkdirat", format!("{:?}/{name}", op.target), e))?;
            let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let place = rustix::fs::openat(&top, name, directory, Mode::empty())
                .map_err(|e| SysError::new("openat", format!("{:?}/{name}", op.target), e))?;
            mount_hierarchy(root, plan, hierarchy, flags, &place)?;
            for alias in name.split(',').filter(|alias| *alias != name && !alias.is_empty()) {
                match rustix::fs::symlinkat(name, &top, alias) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(SysError::new("symlinkat", format!("{name:?}, {alias:?}"), e).into()),
                }
            }
        }
        if flags & libc::MS_RDONLY != 0 {
            make_readonly(root, &top)?;
        }
        Ok(top)
    }
}

/// Binds a directory of the host's cgroups. `tree` is a detached copy of it, or the error of open_tree(2).
fn bind(root: &Root, source: &Path, tree: SysResult<OwnedFd>, flags: u64, target: &OwnedFd) -> Result<OwnedFd> {
    let tree = match tree {
        Ok(tree) => tree,
        Err(error) if mount::is_missing(&error) => return bind_legacy(root, source, flags, target),
        Err(error) => return Err(error.into()),
    };
    match mount::remount_bind(&tree, flags, 0) {
        Ok(()) => mount::attach(&tree, target)?,
        Err(error) if mount::is_missing(&error) => {
            mount::attach(&tree, target)?;
            by_path(root, |path| mount::remount_bind_legacy(&tree, &path(tree.as_fd()), flags, 0))?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(tree)
}

/// Binds without open_tree(2). The new mount is opened by the path of its mount point, and must be a cgroup file
/// system.
fn bind_legacy(root: &Root, source: &Path, flags: u64, target: &OwnedFd) -> Result<OwnedFd> {
    by_path(root, |path| mount::mount_raw(Some(source.as_os_str()), &path(target.as_fd()), None, libc::MS_BIND, None))?;
    let place = root.proc.read_link(format!("self/fd/{}", target.as_raw_fd()))?;
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mounted = rustix::fs::open(&place, directory, Mode::empty())
        .map_err(|e| SysError::new("open", format!("{place:?}"), e))?;
    let fs = rustix::fs::fstatfs(&mounted).map_err(|e| SysError::new("fstatfs", format!("{place:?}"), e))?;
    if !CGROUP_MAGICS.contains(&brig_sys::fd::magic(&fs)) {
        return Err(refuse(&place, "was changed while it was mounted on"));
    }
    by_path(root, |path| mount::remount_bind_legacy(&mounted, &path(mounted.as_fd()), flags, 0))?;
    Ok(mounted)
}

fn mount_hierarchy(
    root: &Root,
    plan: &RootfsPlan,
    hierarchy: &CgroupHierarchy,
    flags: u64,
    target: &OwnedFd,
) -> Result<()> {
    if plan.has_cgroup_namespace() {
        let mut fs = Filesystem::new("cgroup").source("cgroup".as_ref());
        for option in hierarchy.options.split(',').filter(|option| !option.is_empty()) {
            fs = match option.split_once('=') {
                Some((name, value)) => fs.parameter(name, Some(value.into())),
                None => fs.parameter(option, None),
            };
        }
        match fs.mount(mount::attributes(flags)) {
            Ok(mounted) => return Ok(mount::attach(&mounted, target)?),
            // The kernel has no fsopen(2), or the user namespace may not mount the hierarchy: a bind mount of the
            // container's part shows the same.
            Err(error) if matches!(error.errno(), Errno::NOSYS | Errno::PERM | Errno::BUSY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let tree = root.host_mounts.copy(&hierarchy.own, false, true);
    bind(root, &hierarchy.own, tree, flags, target)?;
    Ok(())
}
