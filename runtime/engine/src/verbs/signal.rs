//! kill: a signal to init, or to every process of the container.

use std::os::fd::AsFd;

use super::{Container, Engine, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{Verb, allow};
use brig_sys::process;

impl Engine {
    /// Sends `signal` to init; with `all`, to every process in the container's cgroup.
    ///
    /// Where the container has no pid namespace of its own, the death of init does not take the others with it, so
    /// SIGKILL goes to all of them.
    ///
    /// # Errors
    /// [`ErrorKind::NotRunning`] for a container that has stopped; with `all` that is a success.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let container = self.load(id)?;
        let status = container.status()?;
        if !all {
            allow(Verb::Kill, status, id)?;
        }
        if all || signal == libc::SIGKILL && !container.record.own_pids {
            return container.signal_all(status, signal);
        }
        container.signal_init(signal)?;
        if signal == libc::SIGKILL {
            if status == Status::Paused {
                container.cgroup().thaw()?;
            }
            container.cgroup().thaw_killed()?;
        }
        Ok(())
    }
}

impl Container {
    /// Sends `signal` to every process of the container that is known: those in its cgroup, or init where there is no
    /// cgroup. Of a container that has stopped only the cgroup is left.
    fn signal_all(&self, status: Status, signal: i32) -> Result<()> {
        let cgroup = self.cgroup();
        let is_live = !matches!(status, Status::Stopped | Status::Creating);
        // SIGKILL is for init as well if it has left the container's cgroup.
        let killed = match is_live && (signal == libc::SIGKILL || !cgroup.exists()?) {
            true => self.signal_init(signal),
            false => Ok(()),
        };
        cgroup.kill_all(signal)?;
        match killed {
            // It has ended meanwhile.
            Err(error) if error.kind() == ErrorKind::NotRunning => Ok(()),
            killed => killed,
        }
    }

    pub(super) fn signal_init(&self, signal: i32) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotRunning, "container not running");
        let pidfd = self.init()?.ok_or_else(gone)?;
        match process::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(error) if error.errno() == nix::errno::Errno::ESRCH => Err(gone()),
            other => Ok(other?),
        }
    }
}
