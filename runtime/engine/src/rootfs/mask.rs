//! Hidden and read-only paths.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;

use super::mounts::make_readonly as readonly_mount;
use super::outside::Outside;
use super::{Root, by_path, host_node};
use crate::error::{Context, Result};
use brig_plan::mounts::{MountLabel, RootfsPlan};
use brig_sys::mount::{self, Filesystem};
use brig_sys::path::{Links, file_type};

/// A detached copy of the host's /dev/null, once it is known to be the character device 1:3. `None` without open_tree.
///
/// CVE-2025-31133: a container whose /dev/null was something else had that bound over the files to be masked.
pub(super) fn host_null(outside: &Outside) -> Result<Option<OwnedFd>> {
    let tree = match outside.copy(Path::new("/dev/null"), false, true) {
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
        root.refuse_top(path, &target).with_context(|| format!("linux.maskedPaths: error masking {path:?}"))?;
        let hidden = match file_type(&target)? {
            FileType::Directory => cover_directory(root, &mut empty, plan.mount_label.as_ref(), &target),
            _ => cover_file(root, &mut null, path, &target),
        };
        hidden.with_context(|| format!("error masking {path:?}"))?;
    }
    Ok(())
}

/// What covers files.
enum Cover<'a> {
    /// The detached copy of the host's /dev/null; the first use attaches it.
    Detached(&'a OwnedFd),
    /// Attached: later uses copy it.
    Attached(&'a OwnedFd),
    /// Without open_tree there is no copy, and the host's cannot be reached any more: the container's own /dev/null,
    /// which the first use opens and checks.
    Nothing,
    /// That one, checked.
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

/// The container's own /dev/null can be the host's node (a bound /dev): the cover is read-only all the same.
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
    // One block and one inode: the directory itself.
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

/// Binds `path` over itself, read-only with all that is mounted below it. A missing path is fine. The root itself turns
/// read-only in place, as with root.readonly: what is bound over it would not be init's root.
pub(super) fn make_readonly(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = root.dir.try_find(path, Links::Follow)? else { return Ok(()) };
    if root.is_top(&target)? {
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
