//! delete: removes a container, or the remains of an interrupted create.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::{Container, Engine, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::hooks;
use crate::state::{Verb, allow};
use crate::store::{self, Entry};
use brig_plan::container;
use brig_sys::process;

/// Timeout for a killed process to exit: it may be in a system call that no signal interrupts.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

impl Engine {
    /// Deletes a stopped or created container; with `force`, a container in any state, and the remains of an
    /// interrupted create.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], which with `force` is a success; [`ErrorKind::InvalidState`] for a running container.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        match self.remove(id, force) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn remove(&self, id: &str, force: bool) -> Result<()> {
        let entry = store::open(&self.root, id)?;
        if force && !entry.try_lock()? {
            // A create, or another verb, is in progress. Its processes are killed, so that it fails and releases the
            // lock.
            kill_meanwhile(id, store::open(&self.root, id)?)?;
        }
        entry.lock()?;
        if !entry.is_current()? {
            return Err(store::missing(entry.path()));
        }
        let record = match entry.read_record() {
            Ok(Some(record)) => record,
            Ok(None) if force => return entry.remove(),
            Ok(None) => return Err(store::missing(entry.path())),
            Err(error) if force => {
                tracing::warn!("{error}; its processes and cgroup, if there are any, stay");
                return entry.remove();
            }
            Err(error) => return Err(error),
        };
        let container = Container { id: id.to_owned(), entry, record };
        // The lock is held, so no create is in progress.
        let (status, init) = match container.status_and_init()? {
            (Status::Creating, init) => (Status::Stopped, init),
            other => other,
        };
        if !force {
            allow(Verb::Delete, status, id)?;
        }
        container.kill_all(status, init)?;
        container.forget(self.is_resident)
    }
}

/// Kills the processes that an unfinished create has put into its cgroup, or the init for which another verb waits.
fn kill_meanwhile(id: &str, entry: Entry) -> Result<()> {
    let Some(record) = entry.read_record()? else { return Ok(()) };
    let container = Container { id: id.to_owned(), entry, record };
    if container.record.init_process_pid == 0 {
        return container.cgroup().kill_all(libc::SIGKILL);
    }
    match container.signal_init(libc::SIGKILL) {
        Err(error) if error.kind() == ErrorKind::NotRunning => Ok(()),
        other => other,
    }
}

impl Container {
    /// Kills every process, and waits until `init`, a pidfd, has exited.
    pub(super) fn kill_all(&self, status: Status, init: Option<OwnedFd>) -> Result<()> {
        if let Some(init) = init {
            match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
                Err(error) if error.errno() != rustix::io::Errno::SRCH => return Err(error.into()),
                _ => {}
            }
            if status == Status::Paused {
                self.cgroup().thaw()?;
            }
            // The container may have frozen init in a child cgroup.
            self.cgroup().thaw_killed()?;
            if !process::wait_exited(init.as_fd(), Some(KILL_TIMEOUT))? {
                let pid = self.record.init_process_pid;
                let message = format!("init (pid {pid}) did not exit within {KILL_TIMEOUT:?} of SIGKILL");
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
        }
        // Processes that a shared pid namespace, or an interrupted create, left behind.
        self.cgroup().kill_all(libc::SIGKILL)
    }

    /// Removes the cgroup, runs the poststop hooks, and removes the record: last, so that an interrupted delete can
    /// be repeated. Unless the OOM killer's counters have been `seen`, other watchers get time to read them.
    pub(super) fn forget(&self, seen: bool) -> Result<()> {
        let cgroup = self.cgroup();
        if seen { cgroup.remove() } else { cgroup.destroy() }?;
        if let Some(group) = &self.record.intel_rdt {
            group.remove()?;
        }
        if self.record.hooks.poststop {
            match self.spec() {
                Ok(spec) => self.poststop(&spec),
                Err(error) => tracing::warn!("the poststop hooks are not run: {error}"),
            }
        }
        self.entry.remove()
    }

    /// Runs the poststop hooks. Their failures only warn (runtime.md, Lifecycle).
    fn poststop(&self, spec: &oci_spec::runtime::Spec) {
        let hooks = brig_plan::hooks::of_runtime(spec);
        let state = container::hook_state(spec, &self.id, &self.record.bundle).json("stopped", 0);
        hooks::run_poststop(&hooks.poststop, &state, &self.record.bundle);
    }
}
