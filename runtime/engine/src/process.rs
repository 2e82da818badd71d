//! Processes from a supervisor's side: signals and waits by pidfd, and the children that a subreaper adopts.
//!
//! A number from a pid namespace may belong to another process by the time that it is used. A [`Pidfd`] belongs to one
//! process for ever, whether that is running, exited or reaped.
//!
//! A supervisor of many containers that receives SIGCHLD asks [`exited_child`] until that returns `None`. An exited
//! child stays a zombie until its owner is found: a child with a [`Pidfd`] is reaped by [`Pidfd::try_wait`], and an
//! orphan that the supervisor adopted (prctl(2), PR_SET_CHILD_SUBREAPER) by [`ExitedChild::reap`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use brig_sys::process::{self, Exit};
use brig_sys::procfs::Proc;

use crate::error::{Context, Error, ErrorKind, Result};

/// A file descriptor of one process (pidfd_open(2)), close-on-exec.
#[derive(Debug)]
pub struct Pidfd(OwnedFd);

impl Pidfd {
    /// Opens the pidfd of process `pid`. The caller must know that the process has not been reaped, as a parent does of
    /// its child.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchProcess`] when no process has this pid.
    pub fn open(pid: i32) -> Result<Pidfd> {
        process::pidfd_open(pid).map(Pidfd).map_err(kind_of)
    }

    /// Sends `signal`, any number that kill(2) takes: 0 sends nothing, and checks that the process exists.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchProcess`] when the process has been reaped.
    pub fn send_signal(&self, signal: i32) -> Result<()> {
        process::pidfd_send_signal(self.as_fd(), signal).map_err(kind_of)
    }

    /// Waits until the process, a child of the caller, has exited, and reaps it.
    ///
    /// # Errors
    /// When the process is no child of this process, or has been reaped.
    pub fn wait(&self) -> Result<ExitStatus> {
        process::wait(self.as_fd()).map(exit_status).context("unable to wait for the process")
    }

    /// Reaps the process, a child of the caller, if it has exited; `None` while it is running.
    ///
    /// # Errors
    /// As for [`Pidfd::wait`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>> {
        let exit = process::try_wait(self.as_fd()).context("unable to read the exit status of the process")?;
        Ok(exit.map(exit_status))
    }
}

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Adopts a descriptor that is known to be a pidfd, such as one that was received over a socket.
impl From<OwnedFd> for Pidfd {
    fn from(pidfd: OwnedFd) -> Pidfd {
        Pidfd(pidfd)
    }
}

impl From<Pidfd> for OwnedFd {
    fn from(pidfd: Pidfd) -> OwnedFd {
        pidfd.0
    }
}

/// A child of this process that has exited, a zombie until it is reaped.
#[derive(Debug)]
pub struct ExitedChild {
    pid: i32,
    status: ExitStatus,
}

impl ExitedChild {
    /// The pid, which no other process gets before the child is reaped.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The exit status.
    pub fn status(&self) -> ExitStatus {
        self.status
    }

    /// Reaps the child by its pid. For a child that nothing else in this process waits for, such as an adopted orphan;
    /// another is reaped by its [`Pidfd`]. A child that was reaped elsewhere meanwhile is a success.
    ///
    /// # Errors
    /// As waitid(2), except ECHILD.
    pub fn reap(self) -> Result<()> {
        match process::reap(self.pid) {
            Err(error) if error.errno() != rustix::io::Errno::CHILD => Err(error).context("unable to reap a child"),
            _ => Ok(()),
        }
    }
}

/// Finds a child that has exited and is not reaped, and leaves it as it is; `None` when there is none. Until that child
/// is reaped, it may hide others.
///
/// # Errors
/// As waitid(2), except ECHILD.
pub fn exited_child() -> Result<Option<ExitedChild>> {
    let found = process::peek_exited().context("unable to find exited children")?;
    Ok(found.map(|(pid, exit)| ExitedChild { pid, status: exit_status(exit) }))
}

/// Whether the process `pid` has exited or is exiting: it has left its namespaces, or is leaving them, so that no other
/// process can join them through it. True too when no process has this pid.
///
/// # Errors
/// /proc cannot be read.
pub fn is_exiting(pid: i32) -> Result<bool> {
    let stat = Proc::open().and_then(|proc| proc.pid_stat(pid)).context("unable to read the state of a process")?;
    Ok(stat.is_none_or(|stat| stat.is_ending()))
}

/// Releases the resident pages of this program's code and constants, for a supervisor that will be idle for long. They
/// are read from the program's file again at the next access.
///
/// # Errors
/// As madvise(2): EINVAL for pages that are locked in memory.
pub fn release_program_pages() -> Result<()> {
    Ok(brig_sys::memory::release_program()?)
}

fn kind_of(error: brig_sys::SysError) -> Error {
    let kind = if error.errno() == rustix::io::Errno::SRCH { ErrorKind::NoSuchProcess } else { ErrorKind::Other };
    Error::from(error).with_kind(kind)
}

/// The status as wait(2) encodes it: the low byte is the signal, the next one the exit code.
fn exit_status(exit: Exit) -> ExitStatus {
    ExitStatus::from_raw(match exit {
        Exit::Code(code) => code << 8,
        Exit::Signal(signal) => signal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_pidfd_signals_and_reaps_its_own_process_and_no_later_one() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = Pidfd::open(pid).unwrap();
        pidfd.send_signal(0).unwrap();
        assert_eq!((pidfd.try_wait().unwrap(), is_exiting(pid).unwrap()), (None, false));
        // A signal that the C library has no name for.
        pidfd.send_signal(libc::SIGRTMIN() + 3).unwrap();
        assert_eq!(pidfd.wait().unwrap().signal(), Some(libc::SIGRTMIN() + 3));
        assert_eq!(pidfd.send_signal(libc::SIGKILL).unwrap_err().kind(), ErrorKind::NoSuchProcess);
        assert!(pidfd.try_wait().is_err() && pidfd.wait().is_err() && child.wait().is_err());
        assert_eq!(Pidfd::open(pid).unwrap_err().kind(), ErrorKind::NoSuchProcess);
        assert!(is_exiting(pid).unwrap());
    }

    #[test]
    fn an_exit_status_has_the_code_or_the_signal() {
        assert_eq!(exit_status(Exit::Code(255)).code(), Some(255));
        let killed = exit_status(Exit::Signal(libc::SIGKILL));
        assert_eq!((killed.code(), killed.signal()), (None, Some(libc::SIGKILL)));
    }
}
