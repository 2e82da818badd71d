//! Unmounting a root file system.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use brig_sys::mount::{detach, parse_mountinfo};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use super::is_link;
use crate::error::{Context, Result};

/// Unmounts everything that is mounted on `path` and below it. Nothing mounted, or no such path, is a success, so the
/// call may be repeated, and may follow a clean exit. A link at `path` leads to mounts that are not the container's:
/// [`super::mount()`] makes none there.
///
/// # Errors
/// A mount can be neither unmounted nor detached.
pub fn unmount(path: &Path) -> Result<()> {
    let what = || format!("cannot unmount {}", path.display());
    if is_link(path) {
        return Ok(());
    }
    // Mounts on top of a mount go with it.
    while unmount_one(path).with_context(what)? {}
    // Mounts below a path that is no mount point are found in the mount table alone.
    let text = Proc::open().and_then(|proc| proc.read_to_string("thread-self/mountinfo")).with_context(what)?;
    let Ok(path) = std::fs::canonicalize(path) else { return Ok(()) };
    let below: Vec<_> = parse_mountinfo(&text)
        .into_iter()
        .filter(|mount| Path::new(&mount.target).starts_with(&path))
        .map(|mount| mount.target)
        .collect();
    // The table is in the order of mounting: a mount on another one follows it.
    for target in below.iter().rev() {
        unmount_one(Path::new(target)).with_context(what)?;
    }
    Ok(())
}

/// Unmounts the topmost mount of `path`. False when nothing is mounted there.
fn unmount_one(path: &Path) -> SysResult<bool> {
    // A plain unmount comes first: when it returns, the file system has written back its data.
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // Busy, because of a mount on it or a process: it is at least detached from the tree.
        Err(Errno::BUSY) => detach(path).map(|()| true),
        // Not a mount point (EINVAL), or nothing there.
        Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => {
            let shown = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            Err(SysError::new("umount2", format!("{shown:?}, UMOUNT_NOFOLLOW"), error))
        }
    }
}
