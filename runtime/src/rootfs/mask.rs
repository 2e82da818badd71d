//! Hidden and read-only paths.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::FileType;

use super::Root;
use super::mounts::make_readonly as readonly_mount;
use crate::error::{Context, Result};
use crate::plan::mounts::{MountLabel, RootfsPlan};
use crate::sys::SysError;
use crate::sys::mount::{self, Filesystem};
use crate::sys::path::{Links, file_type};

/// A detached copy of the host's /dev/null, once it is known to be the character device 1:3.
///
/// CVE-2025-31133: a container whose /dev/null was something else had that bound over the files to be masked.
pub(super) fn host_null() -> Result<OwnedFd> {
    let tree = match mount::clone_host_tree(Path::new("/dev/null"), false, true) {
        // Without open_tree the descriptor itself serves, while it can be reached; see `cover`.
        Err(error) if mount::is_missing(&error) => rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|e| SysError::from_rustix("open", "\"/dev/null\", O_PATH", e))?,
        other => other.context("error preparing masked paths")?,
    };
    check_null(&tree)?;
    Ok(tree)
}

fn check_null(fd: &OwnedFd) -> Result<()> {
    let stat = rustix::fs::fstat(fd).map_err(|e| SysError::from_rustix("fstat", "/dev/null", e))?;
    let is_null = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3);
    if is_null { Ok(()) } else { Err(super::refuse(Path::new("/dev/null"), "is not the character device 1:3")) }
}

/// Covers every masked path that exists: files with /dev/null, directories with one empty read-only tmpfs.
pub(super) fn hide(root: &Root, plan: &RootfsPlan) -> Result<()> {
    let mut null = Cover::Detached(root.null.as_ref());
    let mut empty: Option<OwnedFd> = None;
    for path in &plan.masked_paths {
        let Some(target) = root.dir.try_find(path, Links::Follow)? else { continue };
        let hidden = match file_type(&target)? {
            FileType::Directory => cover_directory(&mut empty, plan.mount_label.as_ref(), &target),
            _ => cover_file(&mut null, &target),
        };
        hidden.with_context(|| format!("error masking {path:?}"))?;
    }
    Ok(())
}

/// Where the mount that covers files is: the first use attaches the detached copy, later ones copy that.
enum Cover<'a> {
    Detached(Option<&'a OwnedFd>),
    Attached(&'a OwnedFd),
}

fn cover_file(cover: &mut Cover<'_>, target: &OwnedFd) -> Result<()> {
    match *cover {
        Cover::Detached(Some(null)) => {
            mount::attach(null, target)?;
            *cover = Cover::Attached(null);
        }
        Cover::Detached(None) => return Err(crate::error::Error::other("no /dev/null was prepared")),
        Cover::Attached(null) => mount::attach(mount::clone_fd_tree(null, false)?, target)?,
    }
    Ok(())
}

fn cover_directory(empty: &mut Option<OwnedFd>, label: Option<&MountLabel>, target: &OwnedFd) -> Result<()> {
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
    let mounted = fs.mount(mount::ATTR_RDONLY)?;
    mount::attach(&mounted, target)?;
    *empty = Some(mounted);
    Ok(())
}

/// Binds `path` over itself, read-only with all that is mounted below it. A missing path is fine.
pub(super) fn make_readonly(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = root.dir.try_find(path, Links::Follow)? else { return Ok(()) };
    let tree = mount::clone_fd_tree(&target, true)?;
    match mount::set_attributes(&tree, mount::ATTR_RDONLY, 0, 0, true) {
        Ok(()) => mount::attach(&tree, &target)?,
        Err(error) if mount::is_missing(&error) => {
            mount::attach(&tree, &target)?;
            readonly_mount(&tree)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
