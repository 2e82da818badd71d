//! Signals to every process of a cgroup.

use std::time::Instant;

use rustix::io::Errno;

use super::dir::{Dir, is_gone};
use super::wait::CHANGE_TIMEOUT;
use super::{Cgroup, tasks, tree};
use crate::error::{Context, Error, Result};

impl Cgroup {
    /// Sends `signal` to all processes. SIGKILL kills every process, whatever they fork meanwhile, frozen or not.
    ///
    /// # Errors
    /// At the timeout, when processes are created faster than they are killed.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let Some(dir) = self.main_dir()? else { return Ok(()) };
        if signal != libc::SIGKILL {
            return tasks::signal(&dir, signal, deadline);
        }
        if self.kill_at_once()? {
            return self.thaw_killed();
        }
        // Without cgroup.kill the freeze must precede the signals: no process forks while it is frozen.
        let frozen = self.freeze();
        let sent = tasks::signal(&dir, signal, deadline);
        let thawed = self.thaw().and_then(|()| self.thaw_killed());
        sent?;
        match frozen {
            Ok(()) => thawed,
            // The cgroup has no freezer, or the freezer does not stop all processes.
            Err(_) if tasks::kill_until_empty(&dir, deadline)? => Ok(()),
            Err(_) => {
                let (path, left) = (dir.path().display(), tasks::remaining(&dir));
                Err(Error::other(format!("cannot kill the processes of {path}: {left}")))
            }
        }
    }

    /// Writes cgroup.kill (Linux 5.14). Returns false on older kernels.
    fn kill_at_once(&self) -> Result<bool> {
        let Some(dir) = self.v2_dir()? else { return Ok(false) };
        match dir.write("cgroup.kill", "1") {
            Ok(()) => Ok(true),
            // The cgroup was removed, and has no processes: systemd removes a scope as soon as it is empty. Or the
            // kernel is older, and the directory exists.
            Err(error) if is_gone(&error) => Ok(dir.is_removed()),
            // A threaded cgroup cannot be killed at once (kernel/cgroup/cgroup.c, cgroup_kill_write).
            Err(error) if error.errno() == Errno::OPNOTSUPP => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Thaws v1's freezers of the container's cgroup and of its descendants: a frozen process there exits on SIGKILL
    /// only after that. On cgroup2 killed processes exit by themselves.
    ///
    /// # Errors
    /// A freezer cannot be read or written, for a reason other than its removal.
    pub fn thaw_killed(&self) -> Result<()> {
        let Some(dir) = self.dir_of("freezer")? else { return Ok(()) };
        let thaw = |dir: &Dir| match dir.read("freezer.self_freezing")?.trim() {
            "1" => dir.write("freezer.state", "THAWED"),
            _ => Ok(()),
        };
        tree::walk(&dir, Instant::now() + CHANGE_TIMEOUT, &mut { thaw })
            .context("cannot thaw the container's processes")
    }
}
