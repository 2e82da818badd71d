//! Removing a cgroup and what containers have made below it.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;

use super::dir::{CGROUP2_MAGIC, Dir, is_gone, magic};
use super::wait::{self, PATIENCE};
use super::tasks;
use crate::error::{Context, Error, Result};
use crate::sys::{SysError, SysResult};

/// Removes the tree at `path`. Processes that are still ending are waited for; one that goes away meanwhile, or has gone
/// already, is fine.
///
/// # Errors
/// Processes that stay are named.
pub(super) fn tree(path: &Path) -> Result<()> {
    let what = || format!("cannot remove the cgroup {}", path.display());
    // An empty cgroup without children is the rule: one system call.
    if rmdir(path).with_context(what)? {
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        for child in children(path).with_context(what)? {
            tree(&path.join(child))?;
        }
        if rmdir(path).with_context(what)? {
            return Ok(());
        }
        if !wait_empty(path, deadline).with_context(what)? {
            let pids = tasks::all(path).with_context(what)?;
            return Err(Error::other(format!("{}: its processes {pids:?} are still running", what())));
        }
    }
}

/// True when it is gone, false when it is busy.
fn rmdir(path: &Path) -> SysResult<bool> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
        Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY) => Ok(false),
        Err(errno) => Err(SysError::from_rustix("rmdir", format!("\"{}\"", path.display()), errno)),
    }
}

fn children(path: &Path) -> SysResult<Vec<String>> {
    match Dir::open(path).and_then(|dir| dir.children()) {
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        names => names,
    }
}

/// Waits until no process is left at `path` or below; false at `deadline`.
pub(super) fn wait_empty(path: &Path, deadline: Instant) -> SysResult<bool> {
    if magic(path) != Some(CGROUP2_MAGIC) {
        return tasks::wait_empty(path, deadline);
    }
    match Dir::open(path) {
        Ok(dir) => wait::event(&dir, "populated", 0, deadline),
        Err(error) if error.errno() == Errno::ENOENT => Ok(true),
        Err(error) => Err(error),
    }
}
