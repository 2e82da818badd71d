//! A launched process, until the launch is complete.

use std::os::fd::AsFd;
use std::time::Duration;

use brig_sys::process::{self, Child};

/// The timeout for the exit of a killed init.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A launched process that is killed and reaped on drop, unless [`Guard::disarm`] was called.
#[derive(Debug)]
pub(super) struct Guard(Option<Child>);

impl Guard {
    pub(super) fn new(child: Child) -> Guard {
        Guard(Some(child))
    }

    pub(super) fn child(&self) -> &Child {
        match &self.0 {
            Some(child) => child,
            None => unreachable!("a guard without its child"),
        }
    }

    pub(super) fn disarm(mut self) -> Child {
        match self.0.take() {
            Some(child) => child,
            None => unreachable!("a guard without its child"),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(child) = self.0.take() else { return };
        // ESRCH: the process has exited by itself.
        match process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL) {
            Err(error) if error.errno() != rustix::io::Errno::SRCH => {
                tracing::warn!("init (pid {}): unable to kill it: {error}", child.pid);
            }
            _ => {}
        }
        let reaped = match process::wait_exited(child.pidfd.as_fd(), Some(KILL_TIMEOUT)) {
            Ok(true) => process::wait(child.pidfd.as_fd()).map(drop),
            Ok(false) => {
                // No signal interrupts the wait for a file system that does not answer.
                tracing::warn!(
                    "init (pid {}): leaving it, because it has not exited {KILL_TIMEOUT:?} after SIGKILL",
                    child.pid
                );
                Ok(())
            }
            Err(error) => Err(error),
        };
        match reaped {
            // ECHILD: the exit was reaped and reported already.
            Err(error) if error.errno() != rustix::io::Errno::CHILD => {
                tracing::warn!("init (pid {}): unable to reap it: {error}", child.pid);
            }
            _ => {}
        }
    }
}
