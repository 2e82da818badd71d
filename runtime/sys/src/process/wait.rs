//! Waits: for the exit of children, and for descriptors to become readable.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::{SysError, SysResult};

/// The reason why a process exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A call of exit with this status.
    Code(i32),
    /// Death by this signal.
    Signal(i32),
}

impl Exit {
    /// The status a shell would report: the code, or 128 + the signal.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// Waits for the exit of a child by its pidfd, and reaps it.
///
/// # Errors
/// ECHILD when the process is no child of this one, or has been reaped.
pub fn wait(pidfd: BorrowedFd) -> SysResult<Exit> {
    loop {
        match wait_id(pidfd, libc::WEXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {}
            Err(error) if error.errno() == Errno::INTR => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps a child by its pidfd if it has exited; `None` while it runs.
///
/// # Errors
/// ECHILD when the process is no child of this one, or has been reaped.
pub fn try_wait(pidfd: BorrowedFd) -> SysResult<Option<Exit>> {
    wait_id(pidfd, libc::WEXITED | libc::WNOHANG)
}

pub(super) fn wait_id(pidfd: BorrowedFd, options: libc::c_int) -> SysResult<Option<Exit>> {
    // A borrowed descriptor is never negative.
    let found = waitid(libc::P_PIDFD, pidfd.as_raw_fd().unsigned_abs(), options)?;
    Ok(found.map(|(_, exit)| exit))
}

/// Finds a child that has exited, and leaves it a zombie: its pid stays its own until it is [reaped](reap). `None` when
/// no child has exited, or there is none.
///
/// # Errors
/// As waitid(2), except ECHILD.
pub fn peek_exited() -> SysResult<Option<(i32, Exit)>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Err(error) if error.errno() == Errno::CHILD => Ok(None),
        other => other,
    }
}

/// Reaps the child of this pid if it has exited; `None` while it runs.
///
/// # Errors
/// ECHILD when this process has no such child.
pub fn reap(pid: i32) -> SysResult<Option<Exit>> {
    let id = libc::id_t::try_from(pid).map_err(|_| SysError::new("waitid", pid.to_string(), Errno::INVAL))?;
    Ok(waitid(libc::P_PID, id, libc::WEXITED | libc::WNOHANG)?.map(|(_, exit)| exit))
}

/// The pid of a child that exited, and the reason (waitid(2)).
fn waitid(kind: libc::idtype_t, id: libc::id_t, options: libc::c_int) -> SysResult<Option<(i32, Exit)>> {
    // SAFETY: siginfo_t is a C struct of integers and pointers, for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one siginfo_t, and `info` is one that outlives the call.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, options) };
    if result != 0 {
        return Err(SysError::last("waitid", format!("{kind}, {id}")));
    }
    // SAFETY: after a successful waitid the members of SIGCHLD are filled in, or zero as above.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some((pid, Exit::Code(status))),
        _ => Some((pid, Exit::Signal(status))),
    })
}

/// Waits until the process has exited, which makes its pidfd readable; false when `timeout` passes first.
///
/// # Errors
/// As for [`poll_readable`].
pub fn wait_exited(pidfd: BorrowedFd, timeout: Option<Duration>) -> SysResult<bool> {
    poll_readable(pidfd, timeout)
}

/// Waits until `fd` is readable or hung up; false when `timeout` passes first.
///
/// # Errors
/// As poll(2): ENOMEM.
pub fn poll_readable(fd: BorrowedFd, timeout: Option<Duration>) -> SysResult<bool> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let left = remaining(deadline);
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::new("poll", fd.as_raw_fd().to_string(), error)),
        }
    }
}

/// Waits until `fd` is readable, or the process of `pidfd` has exited; true for the former, also for data that the
/// process wrote before its exit. `None` when `timeout` passes first.
///
/// # Errors
/// As poll(2): ENOMEM.
pub fn readable_before_exit(fd: BorrowedFd, pidfd: BorrowedFd, timeout: Option<Duration>) -> SysResult<Option<bool>> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    // The process comes first, because poll(2) checks the descriptors in order: data that was written before the exit
    // is then found after it.
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN), PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    loop {
        let left = remaining(deadline);
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(!fds[1].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::new("poll", fd.as_raw_fd().to_string(), error)),
        }
    }
}

/// The time until `deadline`, as poll(2) takes it.
fn remaining(deadline: Option<Instant>) -> Option<Timespec> {
    deadline.map(|deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        // The kernel adds its clock, and saturates the sum (kernel/time/time.c, timespec64_add_safe).
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
    })
}
