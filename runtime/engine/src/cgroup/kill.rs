//! Signals to every process of a cgroup.

use std::time::Instant;

use nix::errno::Errno;

use super::dir::{Dir, is_gone};
use super::wait::PATIENCE;
use super::{Cgroup, tasks, tree};
use crate::error::{Context, Error, Result};

impl Cgroup {
    /// Sends `signal` to all processes. SIGKILL leaves none, whatever they fork meanwhile, frozen or not.
    ///
    /// # Errors
    /// After `PATIENCE`, when processes are made faster than they are killed.
    pub fn kill_all(&self, signal: i32) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let Some(dir) = self.main_dir()? else { return Ok(()) };
        if signal != libc::SIGKILL {
            return tasks::signal(&dir, signal, deadline);
        }
        if self.kill_at_once()? {
            return self.let_killed_end();
        }
        // Without cgroup.kill: no process forks while it is frozen.
        let frozen = self.freeze();
        let sent = tasks::signal(&dir, signal, deadline);
        let thawed = self.thaw().and_then(|()| self.let_killed_end());
        sent?;
        match frozen {
            Ok(()) => thawed,
            // No freezer, or it does not stop all of them.
            Err(_) if tasks::kill_until_empty(&dir, deadline)? => Ok(()),
            Err(_) => {
                let (path, left) = (dir.path().display(), tasks::remaining(&dir));
                Err(Error::other(format!("cannot kill the processes of {path}: {left}")))
            }
        }
    }

    /// cgroup.kill (Linux 5.14). False when there is none.
    fn kill_at_once(&self) -> Result<bool> {
        let Some(dir) = self.unified_dir()? else { return Ok(false) };
        match dir.write("cgroup.kill", "1") {
            Ok(()) => Ok(true),
            // Gone, and its processes with it: systemd removes a scope as soon as it is empty. Or an older kernel,
            // where the directory is there.
            Err(error) if is_gone(&error) => Ok(dir.is_removed()),
            // A threaded cgroup cannot be killed at once (kernel/cgroup/cgroup.c, cgroup_kill_write).
            Err(error) if error.errno() == Errno::EOPNOTSUPP => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Thaws v1's freezers of the container's cgroup and of all cgroups below it: a process that they hold ends of
    /// SIGKILL only then. cgroup2 lets killed processes end by itself.
    pub fn let_killed_end(&self) -> Result<()> {
        let Some(dir) = self.dir_of("freezer")? else { return Ok(()) };
        let thaw = |dir: &Dir| match dir.read("freezer.self_freezing")?.trim() {
            "1" => dir.write("freezer.state", "THAWED"),
            _ => Ok(()),
        };
        tree::walk(&dir, Instant::now() + PATIENCE, &mut { thaw }).context("cannot thaw the container's processes")
    }
}
