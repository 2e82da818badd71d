//! kill: a signal to init, or to every process of the container.

use std::os::fd::AsFd;

use super::{Container, Engine, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{Verb, allow};
use brig_sys::process;

impl Engine {
    /// Sends `signal` to init; with `all`, to every process in the container's cgroup.
    ///
    /// Without its own pid namespace, init's exit does not kill the other processes, so SIGKILL is sent to all of
    /// them.
    ///
    /// # Errors
    /// [`ErrorKind::NotRunning`] for a stopped container; with `all` that is a success, and so it is for SIGKILL without an
    /// own pid namespace while the cgroup exists.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let container = self.load(id)?;
        let status = container.status()?;
        let kills_all = signal == libc::SIGKILL && !container.record.own_pids;
        // Processes may have survived init: as with runc, they are killed as long as they have a cgroup to be found by.
        let may_have_survivors = kills_all && status == Status::Stopped && container.cgroup().exists()?;
        if !all && !may_have_survivors {
            allow(Verb::Kill, status, id)?;
        }
        if all || kills_all {
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
    /// Sends `signal` to every known process of the container: those in its cgroup, or init without a cgroup. Of a
    /// stopped container only the cgroup is left.
    fn signal_all(&self, status: Status, signal: i32) -> Result<()> {
        let cgroup = self.cgroup();
        let is_live = !matches!(status, Status::Stopped | Status::Creating);
        // SIGKILL must reach init even if it has left the container's cgroup.
        let killed = match is_live && (signal == libc::SIGKILL || !cgroup.exists()?) {
            true => self.signal_init(signal),
            false => Ok(()),
        };
        cgroup.kill_all(signal)?;
        match killed {
            // Init has exited meanwhile.
            Err(error) if error.kind() == ErrorKind::NotRunning => Ok(()),
            killed => killed,
        }
    }

    pub(super) fn signal_init(&self, signal: i32) -> Result<()> {
        let gone = || Error::new(ErrorKind::NotRunning, "container not running");
        let pidfd = self.init()?.ok_or_else(gone)?;
        match process::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(error) if error.errno() == rustix::io::Errno::SRCH => Err(gone()),
            other => Ok(other?),
        }
    }
}
