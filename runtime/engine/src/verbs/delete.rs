//! delete: the end of a container, and the mending of one that was only half made.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::{Container, Engine, Status};
use crate::error::{Error, ErrorKind, Result};
use crate::hooks;
use brig_plan::{Findings, container};
use crate::state::{Verb, allow};
use crate::store::{self, Entry};
use brig_sys::process;

/// How long a killed process may take to end: it may be in a system call that no signal interrupts.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Removes a stopped or created container; with `force` one in any state, and what an interrupted create left.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], which with `force` is a success; [`ErrorKind::InvalidState`] for one that runs.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        match self.remove(id, force) {
            Err(error) if force && error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn remove(&self, id: &str, force: bool) -> Result<()> {
        let entry = store::open(&self.root, id)?;
        if force && !entry.try_lock()? {
            // A create, or another verb, is at work. What it has made so far dies; it then fails, and lets go.
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
        // The lock is ours, so nobody is creating.
        let (status, init) = match container.look()? {
            (Status::Creating, init) => (Status::Stopped, init),
            other => other,
        };
        if !force {
            allow(Verb::Delete, status, id)?;
        }
        container.end(status, init)?;
        container.forget(self.is_resident)
    }
}

/// Kills what an unfinished create has put into its cgroup, or the init for which a start or another verb waits.
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
    /// Kills every process, and waits for the end of `init`, a pidfd.
    pub(super) fn end(&self, status: Status, init: Option<OwnedFd>) -> Result<()> {
        if let Some(init) = init {
            match process::pidfd_send_signal(init.as_fd(), libc::SIGKILL) {
                Err(error) if error.errno() != nix::errno::Errno::ESRCH => return Err(error.into()),
                _ => {}
            }
            if status == Status::Paused {
                self.cgroup().thaw()?;
            }
            // The container may have frozen init in a cgroup below its own.
            self.cgroup().thaw_killed()?;
            if !process::wait_ended(init.as_fd(), Some(PATIENCE))? {
                let pid = self.record.init_process_pid;
                let message = format!("init (pid {pid}) did not die of SIGKILL within {PATIENCE:?}");
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
        }
        // Those that a shared pid namespace, or an interrupted create, left behind.
        self.cgroup().kill_all(libc::SIGKILL)
    }

    /// Removes the cgroup, runs the poststop hooks, and removes the record: the last, so that a delete that was
    /// interrupted can be repeated. Unless the OOM killer's work is `seen`, whoever else watches gets time to see it.
    pub(super) fn forget(&self, seen: bool) -> Result<()> {
        let cgroup = self.cgroup();
        if seen { cgroup.remove() } else { cgroup.destroy() }?;
        if let Some(group) = &self.record.intel_rdt {
            group.remove()?;
        }
        if self.record.poststop {
            match self.spec() {
                Ok(spec) => self.poststop(&spec),
                Err(error) => tracing::warn!("the poststop hooks are not run: {error}"),
            }
        }
        self.entry.remove()
    }

    /// Runs the poststop hooks. Their failures only warn (runtime.md, Lifecycle).
    fn poststop(&self, spec: &oci_spec::runtime::Spec) {
        let hooks = brig_plan::hooks::build(spec, &mut Findings::default());
        let state = container::hook_state(spec, &self.id, &self.record.bundle).json("stopped", 0);
        hooks::run_poststop(&hooks.poststop, &state, &self.record.bundle);
    }
}
