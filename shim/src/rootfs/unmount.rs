//! The end of a root file system.
#![forbid(unsafe_code)]

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use brig_engine::error::{Context, Result};
use brig_sys::mount::{detach, parse_mountinfo};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::bundle::is_link;

/// Unmounts everything that is mounted on `path` and below it. Nothing mounted, or no such path, is fine: it may be
/// called again, and after a clean exit. A link at `path` leads to mounts that are not the container's:
/// [`super::mount()`] makes none there.
///
/// # Errors
/// A mount that cannot even be detached.
pub fn unmount(path: &Path) -> Result<()> {
    let what = || format!("cannot unmount {}", path.display());
    if is_link(path) {
        return Ok(());
    }
    // Mounts on top of it go with it.
    while unmount_one(path).with_context(what)? {}
    // Mounts below a path on which nothing is mounted are found by the table alone.
    let text = Proc::open().and_then(|proc| proc.read_to_string("thread-self/mountinfo")).with_context(what)?;
    let Ok(path) = std::fs::canonicalize(path) else { return Ok(()) };
    let below: Vec<_> = parse_mountinfo(&text)
        .into_iter()
        .filter(|mount| Path::new(&mount.target).starts_with(&path))
        .map(|mount| mount.target)
        .collect();
    // The table is in the order of mounting: what lies on something else comes after it.
    for target in below.iter().rev() {
        unmount_one(Path::new(target)).with_context(what)?;
    }
    Ok(())
}

/// Takes the topmost mount off `path`. False when nothing is mounted there.
fn unmount_one(path: &Path) -> SysResult<bool> {
    // Plainly first: when that returns, the file system has ended with what it had to write.
    match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(true),
        // In use, by a mount on it or by a process: out of the tree at least.
        Err(Errno::BUSY) => detach(path).map(|()| true),
        // Not a mount (EINVAL), or nothing there.
        Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => {
            let shown = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
            Err(SysError::from_rustix("umount2", format!("{shown:?}, UMOUNT_NOFOLLOW"), error))
        }
    }
}
