//! Masked and read-only paths.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;

use super::host_mounts::HostMounts;
use super::mounts::make_readonly as readonly_mount;
use super::{Root, by_path, host_node};
use crate::error::{Context, Result};
use brig_plan::mounts::{MountLabel, RootfsPlan};
use brig_sys::fd::file_type;
use brig_sys::mount::{self, Filesystem};
use brig_sys::path::Links;

/// A detached copy of the host's /dev/null, after a check that it is the character device 1:3. `None` without
/// open_tree(2).
///
/// CVE-2025-31133: a container whose /dev/null was another file had that file bound over the files to be masked.
pub(super) fn host_null(host_mounts: &HostMounts) -> Result<Option<OwnedFd>> {
    let tree = match host_mounts.copy(Path::new("/dev/null"), false, true) {
        Err(error) if mount::is_missing(&error) => return Ok(None),
        other => other.context("error preparing masked paths")?,
    };
    host_node::check_null(&tree)?;
    Ok(Some(tree))
}

/// Covers every masked path that exists: files with /dev/null, directories with one empty read-only tmpfs.
pub(super) fn hide(root: &Root, plan: &RootfsPlan) -> Result<()> {
    let mut null = match &root.null {
        Some(null) => Cover::Detached(null),
        None => Cover::Nothing,
    };
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked_paths {
        let Some(target) = root.dir.try_find(path, Links::Follow)? else { continue };
        root.refuse_root(path, &target).with_context(|| format!("linux.maskedPaths: error masking {path:?}"))?;
        let hidden = match file_type(&target)? {
            FileType::Directory => cover_directory(root, &mut empty, plan.mount_label.as_ref(), &target),
            _ => cover_file(root, &mut null, path, &target),
        };
        hidden.with_context(|| format!("error masking {path:?}"))?;
    }
    Ok(())
}

/// The source of the bind mounts that cover files.
enum Cover<'a> {
    /// The detached copy of the host's /dev/null, which the first use attaches.
    Detached(&'a OwnedFd),
    /// The attached copy, which later uses copy.
    Attached(&'a OwnedFd),
    /// No copy, because open_tree(2) is missing, and the host's /dev/null cannot be reached any more. The first use
    /// opens and checks the container's own /dev/null.
    Nothing,
    /// The container's own /dev/null after the check.
    Inside(OwnedFd),
}

fn cover_file(root: &Root, cover: &mut Cover<'_>, path: &Path, target: &OwnedFd) -> Result<()> {
    match cover {
        Cover::Detached(null) => {
            host_node::attach(root, null, target)?;
            *cover = Cover::Attached(null);
            Ok(())
        }
        Cover::Attached(null) => Ok(mount::attach(mount::clone_fd_tree(*null, false)?, target)?),
        Cover::Nothing => {
            let null = root.dir.find(Path::new("/dev/null"))?;
            host_node::check_null(&null)?;
            cover_legacy(root, &null, path, target)?;
            *cover = Cover::Inside(null);
            Ok(())
        }
        Cover::Inside(null) => cover_legacy(root, null, path, target),
    }
}

/// The container's own /dev/null can be the host's node (a bound /dev): the cover must be read-only nevertheless.
fn cover_legacy(root: &Root, null: &OwnedFd, path: &Path, target: &OwnedFd) -> Result<()> {
    bind_legacy(root, null, target, libc::MS_BIND)?;
    host_node::protect_attached(root, root.dir.find(path)?)
}

fn bind_legacy(root: &Root, source: &OwnedFd, target: &OwnedFd, flags: u64) -> Result<()> {
    by_path(root, |path| {
        mount::mount_raw(Some(path(source.as_fd()).as_os_str()), &path(target.as_fd()), None, flags, None)
    })
}

fn cover_directory(
    root: &Root,
    empty: &mut Option<OwnedFd>,
    label: Option<&MountLabel>,
    target: &OwnedFd,
) -> Result<()> {
    if let Some(attached) = empty {
        return Ok(mount::attach(mount::clone_fd_tree(&*attached, false)?, target)?);
    }
    // One block and one inode suffice for the directory itself.
    let mut fs = Filesystem::new("tmpfs")
        .source("tmpfs".as_ref())
        .flags(libc::MS_RDONLY)
        .parameter("nr_blocks", Some("1".into()))
        .parameter("nr_inodes", Some("1".into()));
    if let Some(label) = label {
        fs = fs.parameter(label.option.as_str(), Some(label.label.as_str().into()));
    }
    match fs.mount(mount::ATTR_RDONLY) {
        Ok(mounted) => {
            mount::attach(&mounted, target)?;
            *empty = Some(mounted);
            Ok(())
        }
        Err(error) if mount::is_missing(&error) => {
            by_path(root, |path| fs.mount_legacy(&path(target.as_fd()), libc::MS_RDONLY))
        }
        Err(error) => Err(error.into()),
    }
}

/// Binds `path` over itself, read-only with all mounts below it. A missing path is no error. The root itself becomes
/// read-only in place, as with root.readonly: a mount bound over it would not be init's root.
pub(super) fn make_readonly(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = root.dir.try_find(path, Links::Follow)? else { return Ok(()) };
    if root.is_root(&target)? {
        return readonly_mount(root, root.fd());
    }
    let tree = match mount::clone_fd_tree(&target, true) {
        Ok(tree) => tree,
        Err(error) if mount::is_missing(&error) => {
            bind_legacy(root, &target, &target, libc::MS_BIND | libc::MS_REC)?;
            return readonly_mount(root, root.dir.find(path)?);
        }
        Err(error) => return Err(error.into()),
    };
    match mount::set_attributes(&tree, mount::ATTR_RDONLY, 0, 0, true) {
        Ok(()) => mount::attach(&tree, &target)?,
        Err(error) if mount::is_missing(&error) => {
            mount::attach(&tree, &target)?;
            readonly_mount(root, &tree)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
