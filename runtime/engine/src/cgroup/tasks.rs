//! The processes of a cgroup: listing, signalling, and waiting for their exit.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::dir::Dir;
use super::{tree, wait};
use crate::error::{Context, Result};
use brig_sys::SysResult;
use brig_sys::process::{pidfd_open, pidfd_send_signal};
use brig_sys::procfs::Proc;

/// The maximum number of processes that are held by pidfds at once. A container may have more processes than this
/// process may have open files.
const MAX_HANDLES: usize = 128;

/// The timeout for the processes of one round of kills.
const ROUND_TIMEOUT: Duration = Duration::from_millis(500);

/// The maximum number of pids in an error.
const MAX_NAMED: usize = 32;

/// All pids of `dir` and of its descendants, in ascending order. A removed cgroup has none.
pub(super) fn pids(dir: &Dir, deadline: Instant) -> SysResult<Vec<i32>> {
    let mut pids = Vec::new();
    tree::walk(dir, deadline, &mut |dir: &Dir| list(dir, &mut pids))?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Appends the pids of `dir` itself.
pub(super) fn list(dir: &Dir, pids: &mut Vec<i32>) -> SysResult<()> {
    match dir.read("cgroup.procs") {
        // A pid of 0 is a process outside this pid namespace, which has no number here.
        Ok(text) => pids.extend(numbers(&text)),
        // A threaded cgroup lists threads only, and one of the type `domain invalid` can have none (cgroups(7)).
        Err(error) if error.errno() == Errno::OPNOTSUPP => {
            for thread in numbers(&dir.read("cgroup.threads")?) {
                pids.extend(process_of(thread)?);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

fn numbers(text: &str) -> impl Iterator<Item = i32> {
    text.lines().filter_map(|line| line.parse().ok()).filter(|&number: &i32| number > 0)
}

/// The pid of the process to which `thread` belongs (proc_pid_status(5), Tgid); `None` after its exit.
fn process_of(thread: i32) -> SysResult<Option<i32>> {
    match Proc::open()?.read_to_string(format!("{thread}/status")) {
        Ok(text) => Ok(text.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())),
        Err(error) if matches!(error.errno(), Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The cgroup of process `pid` in the tree at `dir`; `None` if it is in none of them.
pub(super) fn find(dir: &Dir, pid: i32, deadline: Instant) -> SysResult<Option<Dir>> {
    let mut found = None;
    tree::walk(dir, deadline, &mut |dir: &Dir| {
        let mut pids = Vec::new();
        if found.is_none() {
            list(dir, &mut pids)?;
        }
        if pids.contains(&pid) {
            found = Some(dir.open_at(c".", dir.path().to_owned())?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// Calls `each` with pidfds of the processes of the tree at `dir`, [`MAX_HANDLES`] at a time, and returns the number of
/// processes.
///
/// A pid counts only if it is still listed after its pidfd was opened: then the pidfd is that of a process of this
/// cgroup, and not of a later process with the same number.
fn each_batch(dir: &Dir, deadline: Instant, mut each: impl FnMut(&[OwnedFd]) -> SysResult<()>) -> SysResult<usize> {
    let mut count = 0;
    for batch in pids(dir, deadline)?.chunks(MAX_HANDLES) {
        let mut open = Vec::new();
        for &pid in batch {
            match pidfd_open(pid) {
                Ok(fd) => open.push((pid, fd)),
                // The process has exited.
                Err(error) if matches!(error.errno(), Errno::SRCH | Errno::INVAL | Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
        let still = pids(dir, deadline)?;
        let open = open.into_iter().filter(|(pid, _)| still.binary_search(pid).is_ok());
        let handles: Vec<OwnedFd> = open.map(|(_, fd)| fd).collect();
        each(&handles)?;
        count += handles.len();
    }
    Ok(count)
}

fn send(handles: &[OwnedFd], signal: i32) -> SysResult<()> {
    for process in handles {
        match pidfd_send_signal(process.as_fd(), signal) {
            Err(error) if error.errno() != Errno::SRCH => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Waits for the exit of each process; returns false at `deadline`.
fn wait_exited(handles: &[OwnedFd], deadline: Instant) -> SysResult<bool> {
    for process in handles {
        if !wait::ready(&mut [PollFd::new(process, PollFlags::IN)], deadline)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Sends `signal` to every process of the tree at `dir`.
pub(super) fn signal(dir: &Dir, signal: i32, deadline: Instant) -> Result<()> {
    each_batch(dir, deadline, |handles| send(handles, signal))
        .map(drop)
        .with_context(|| format!("cannot signal the processes of {}", dir.path().display()))
}

/// Kills the processes of the tree at `dir` until a round finds none; returns false at `deadline`.
pub(super) fn kill_until_empty(dir: &Dir, deadline: Instant) -> Result<bool> {
    let what = || format!("cannot kill the processes of {}", dir.path().display());
    loop {
        let round = |handles: &[OwnedFd]| {
            send(handles, libc::SIGKILL)?;
            // A process that does not exit within this time must not delay the kill of the others.
            wait_exited(handles, deadline.min(Instant::now() + ROUND_TIMEOUT)).map(drop)
        };
        if each_batch(dir, deadline, round).with_context(what)? == 0 {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// Waits until the tree at `dir` has no process, by the processes' pidfds; returns false at `deadline`. For v1, which
/// has no notification of its own.
pub(super) fn wait_empty(dir: &Dir, deadline: Instant) -> SysResult<bool> {
    loop {
        let mut in_time = true;
        let wait = |handles: &[OwnedFd]| {
            in_time = in_time && wait_exited(handles, deadline)?;
            Ok(())
        };
        match each_batch(dir, deadline, wait) {
            Ok(0) if pids(dir, deadline)?.is_empty() => return Ok(true),
            Ok(_) => {}
            Err(error) if error.errno() == Errno::TIMEDOUT => return Ok(false),
            Err(error) => return Err(error),
        }
        if !in_time || Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

/// The remaining processes in the tree at `dir`, for an error.
pub(super) fn remaining(dir: &Dir) -> String {
    match pids(dir, Instant::now() + ROUND_TIMEOUT) {
        Ok(pids) if pids.len() > MAX_NAMED => {
            format!("{} processes are still running, the first are {:?}", pids.len(), &pids[..MAX_NAMED])
        }
        Ok(pids) => format!("its processes {pids:?} are still running"),
        Err(error) => format!("its processes are still running, and cannot be listed ({error})"),
    }
}
