//! The processes of a cgroup: listing, signalling, and waiting for their end.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags};

use super::dir::{Dir, is_gone};
use super::wait;
use crate::error::{Context, Result};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::sys::SysResult;

/// Appends the pids of `dir` and of all cgroups below it. A cgroup that vanishes meanwhile has none.
pub(super) fn list(dir: &Dir, pids: &mut Vec<i32>) -> SysResult<()> {
    let text = match dir.read("cgroup.procs") {
        // A threaded cgroup lists threads only.
        Err(error) if error.errno() == Errno::EOPNOTSUPP => dir.read("cgroup.threads"),
        result => result,
    };
    match text {
        // A pid of 0 is a process outside this pid namespace, which no one here can name.
        Ok(text) => pids.extend(text.lines().filter_map(|line| line.parse().ok()).filter(|&pid: &i32| pid > 0)),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    }
    let names = match dir.children() {
        Err(error) if is_gone(&error) => return Ok(()),
        names => names?,
    };
    for name in names {
        match Dir::open(&dir.path().join(name)) {
            Ok(child) => list(&child, pids)?,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// All pids of the tree at `path`, in ascending order; none when it does not exist.
pub(super) fn all(path: &Path) -> SysResult<Vec<i32>> {
    let mut pids = Vec::new();
    match Dir::open(path) {
        Ok(dir) => list(&dir, &mut pids)?,
        Err(error) if error.errno() == Errno::ENOENT => {}
        Err(error) => return Err(error),
    }
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Handles of the processes of the tree at `path`.
///
/// A pid counts only when it is still listed after its handle was opened: then the handle is that of a process of this
/// cgroup, and not of a later one that got the same number.
fn handles(path: &Path) -> SysResult<Vec<OwnedFd>> {
    let mut open = Vec::new();
    for number in all(path)? {
        match pidfd_open(number) {
            Ok(fd) => open.push((number, fd)),
            // Gone, or a thread of a threaded cgroup, whose leader is in the list as well or outside.
            Err(error) if matches!(error.errno(), Errno::ESRCH | Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let still = all(path)?;
    Ok(open.into_iter().filter(|(pid, _)| still.binary_search(pid).is_ok()).map(|(_, fd)| fd).collect())
}

/// Sends `signal` to every process of the tree at `path`, and returns how many there were.
pub(super) fn signal(path: &Path, signal: i32) -> Result<usize> {
    let what = || format!("cannot signal the processes of {}", path.display());
    let handles = handles(path).with_context(what)?;
    for process in &handles {
        match pidfd_send_signal(process.as_fd(), signal) {
            Err(error) if error.errno() != Errno::ESRCH => return Err(error).with_context(what),
            _ => {}
        }
    }
    Ok(handles.len())
}

/// Waits until no process is left in the tree at `path`, by the processes' own handles; false at `deadline`. For v1,
/// which has no notification of its own.
pub(super) fn wait_empty(path: &Path, deadline: Instant) -> SysResult<bool> {
    loop {
        let handles = handles(path)?;
        if handles.is_empty() && all(path)?.is_empty() {
            return Ok(true);
        }
        for process in &handles {
            if !wait::ready(&mut [PollFd::new(process, PollFlags::IN)], deadline)? {
                return Ok(false);
            }
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}
