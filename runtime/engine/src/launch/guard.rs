//! A launched process, until it may stay.

use std::os::fd::AsFd;
use std::time::Duration;

use brig_sys::process::{self, Child};

/// How long the end of a killed init is waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// A launched process that is killed and reaped when it is dropped before [`Guard::keep`].
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

    pub(super) fn keep(mut self) -> Child {
        match self.0.take() {
            Some(child) => child,
            None => unreachable!("a guard without its child"),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(child) = self.0.take() else { return };
        // ESRCH: it has ended by itself.
        match process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL) {
            Err(error) if error.errno() != nix::errno::Errno::ESRCH => tracing::warn!("unable to clean up: {error}"),
            _ => {}
        }
        let reaped = match process::wait_ended(child.pidfd.as_fd(), Some(KILL_TIMEOUT)) {
            Ok(true) => process::wait(child.pidfd.as_fd()).map(drop),
            Ok(false) => {
                // No signal ends a wait for a file system that does not answer.
                tracing::warn!("init (pid {}) has not ended {KILL_TIMEOUT:?} after SIGKILL, and is left", child.pid);
                Ok(())
            }
            Err(error) => Err(error),
        };
        match reaped {
            // ECHILD: its end was seen and reported already.
            Err(error) if error.errno() != nix::errno::Errno::ECHILD => tracing::warn!("unable to clean up: {error}"),
            _ => {}
        }
    }
}
