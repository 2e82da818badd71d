//! The removal of a cgroup and of the descendants that containers have created.

use std::ffi::CStr;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::dir::{CGROUP2_MAGIC, Dir, is_gone, magic};
use super::{tasks, tree, wait};
use crate::error::{Context, Error, Result};
use brig_sys::{SysError, SysResult};

/// Removes the tree at `path`, after the exit of processes that are exiting. A cgroup that disappears meanwhile, or is
/// missing, is no error.
///
/// # Errors
/// At `deadline`, with the remaining processes.
pub(super) fn tree(path: &Path, deadline: Instant) -> Result<()> {
    let what = || format!("cannot remove the cgroup {}", path.display());
    // The common case is an empty cgroup without children: one system call.
    if rmdir(path).with_context(what)? {
        return Ok(());
    }
    for round in 0u32.. {
        let dir = match Dir::open(path) {
            Err(error) if is_gone(&error) => return Ok(()),
            dir => dir.with_context(what)?,
        };
        if !wait_empty(&dir, deadline).with_context(what)? {
            return Err(Error::other(format!("{}: {}", what(), tasks::remaining(&dir))));
        }
        match tree::walk(&dir, deadline, &mut Children) {
            Err(error) if error.errno() == Errno::TIMEDOUT => break,
            removed => removed.with_context(what)?,
        }
        if rmdir(path).with_context(what)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            break;
        }
        // A process outside created another cgroup or entered one, or the kernel has not released the last process yet,
        // of which v1 gives no notification.
        let pause = Duration::from_micros(10 << round.min(12));
        wait::ready(&mut [], (Instant::now() + pause).min(deadline)).with_context(what)?;
    }
    Err(Error::other(format!(
        "{}: it is still in use (a process outside the container keeps making cgroups in it)",
        what()
    )))
}

/// A visitor that removes every cgroup below the root of the walk that has no processes.
struct Children;

impl tree::Visit for Children {
    fn enter(&mut self, _: &Dir) -> SysResult<()> {
        Ok(())
    }

    fn leave(&mut self, parent: &Dir, name: &CStr) -> SysResult<()> {
        // The next round tries a busy one again.
        parent.remove_child(name).map(drop)
    }
}

/// Removes one cgroup, if it has neither processes nor children. Returns true if it is gone, false if it is busy.
pub(super) fn rmdir(path: &Path) -> SysResult<bool> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
        Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(SysError::new("rmdir", format!("\"{}\"", path.display()), errno)),
    }
}

/// Waits until `dir` and its descendants have no process; returns false at `deadline`.
pub(super) fn wait_empty(dir: &Dir, deadline: Instant) -> SysResult<bool> {
    if magic(dir.path()) != Some(CGROUP2_MAGIC) {
        return tasks::wait_empty(dir, deadline);
    }
    wait::event(dir, "populated", 0, deadline)
}
