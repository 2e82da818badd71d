//! Freezing and thawing: cgroup.freeze on v2, freezer.state on v1.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

use super::dir::{Dir, is_gone, keyed};
use super::wait::{self, CHANGE_TIMEOUT};
use super::{Cgroup, Frozen};
use crate::error::{Context, Error, ErrorKind, Result};

impl Cgroup {
    /// Freezes all processes and waits until they have stopped.
    ///
    /// # Errors
    /// Unsupported without a cgroup or a freezer. A freeze that does not complete is reverted.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Thaws all processes. A removed cgroup has none.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] without a cgroup or a freezer; else the processes do not continue in time.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        // v1's freezer precedes v2's, because managers of such hosts read its state.
        let gone = |path: &Path| match frozen {
            true => Err(Error::other(format!("cannot freeze {}: it is gone", path.display()))),
            false => Ok(()),
        };
        if let Some(path) = self.record.paths.get("freezer") {
            return self.find(path)?.map_or_else(|| gone(path), |dir| v1(&dir, frozen));
        }
        if let Some(path) = self.v2_path() {
            return self.find(path)?.map_or_else(|| gone(path), |dir| v2(&dir, frozen));
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "cannot toggle freezer: cgroups not configured for container (this host has no freezer, or no cgroup was made)",
        ))
    }

    /// Checks whether this cgroup's freezer has stopped the processes. False without a freezer.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read, for a reason other than its removal.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(self.frozen()? == Frozen::Own)
    }

    /// Returns whether the processes are frozen, and by which cgroup. [`Frozen::No`] without a freezer.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read, for a reason other than its removal.
    pub fn frozen(&self) -> Result<Frozen> {
        let is_v1 = self.record.paths.contains_key("freezer");
        match self.dir_of(if is_v1 { "freezer" } else { "" })? {
            Some(dir) if is_v1 => v1_state(&dir),
            Some(dir) if v2_is_frozen(&dir)? => Ok(Frozen::Own),
            _ => Ok(Frozen::No),
        }
    }

    /// The frozen cgroup above this one that stops its processes, on v1. `None` without one, and if it cannot be seen
    /// from here.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read, for a reason other than its removal.
    pub fn frozen_ancestor(&self) -> Result<Option<PathBuf>> {
        self.record.paths.get("freezer").map_or(Ok(None), |path| v1_frozen_ancestor(path))
    }
}

/// Freezes a cgroup2 directory or thaws it, and waits for completion. A freeze that does not complete is reverted.
pub(super) fn v2(dir: &Dir, freeze: bool) -> Result<()> {
    let (value, doing) = if freeze { ("1", "freeze") } else { ("0", "thaw") };
    let what = || format!("cannot {doing} {}", dir.path().display());
    match dir.write("cgroup.freeze", value) {
        // The cgroup was removed, and has no processes: systemd removes a scope as soon as its last process has exited.
        Err(error) if !freeze && is_gone(&error) && dir.is_removed() => return Ok(()),
        Err(error) if error.errno() == Errno::NOENT => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{}: this cgroup has no freezer (the kernel is older than 5.2, or it is the root)", what()),
            ));
        }
        result => result.with_context(what)?,
    }
    let reached = wait::event(dir, "frozen", u64::from(freeze), Instant::now() + CHANGE_TIMEOUT).with_context(what);
    match reached {
        Ok(true) => Ok(()),
        result => {
            let thawed = if freeze { dir.write("cgroup.freeze", "0") } else { Ok(()) };
            result?;
            thawed.with_context(what)?;
            Err(Error::other(format!("{}: it took more than {} s", what(), CHANGE_TIMEOUT.as_secs())))
        }
    }
}

/// Checks whether a cgroup2 directory is frozen.
pub(super) fn v2_is_frozen(dir: &Dir) -> Result<bool> {
    match dir.read("cgroup.events") {
        Ok(text) => Ok(keyed(&text, "frozen") == Some(1)),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Freezes a v1 freezer directory and waits until it is FROZEN, or thaws it.
///
/// The kernel reports FREEZING until the last task has stopped, and has no notification of that; a task that forks at
/// that time may hold the state, until FROZEN is written again, or after a thaw.
pub(super) fn v1(dir: &Dir, freeze: bool) -> Result<()> {
    let what = || format!("cannot {} {}", if freeze { "freeze" } else { "thaw" }, dir.path().display());
    let result = if freeze { v1_freeze(dir).with_context(what) } else { Ok(false) };
    match result {
        Ok(true) => return Ok(()),
        Ok(false) if !freeze => return dir.write("freezer.state", "THAWED").with_context(what),
        // A partial freeze must not be left behind.
        Ok(false) => dir.write("freezer.state", "THAWED").with_context(what)?,
        Err(error) => {
            let _ = dir.write("freezer.state", "THAWED");
            return Err(error);
        }
    }
    Err(Error::other(format!("{}: it took more than {} s", what(), CHANGE_TIMEOUT.as_secs())))
}

fn v1_freeze(dir: &Dir) -> brig_sys::SysResult<bool> {
    let deadline = Instant::now() + CHANGE_TIMEOUT;
    for round in 1u32.. {
        if round % 64 == 0 {
            dir.write("freezer.state", "THAWED")?;
        }
        dir.write("freezer.state", "FROZEN")?;
        if dir.read("freezer.state")?.trim() == "FROZEN" {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        // Most freezes are complete by now. Else the pauses, in which the tasks run to their stopping point, grow.
        let pause = std::time::Duration::from_micros(10 << round.min(8));
        wait::ready(&mut [], (Instant::now() + pause).min(deadline))?;
    }
    Ok(false)
}

/// Returns whether a v1 freezer directory is frozen, and by which state. A thawed one takes one read.
pub(super) fn v1_state(dir: &Dir) -> Result<Frozen> {
    // FREEZING counts as frozen: the remaining tasks are about to stop.
    match dir.read("freezer.state") {
        Ok(text) if text.trim() == "THAWED" => Ok(Frozen::No),
        Ok(_) if v1_is_self_frozen(dir)? => Ok(Frozen::Own),
        Ok(_) => Ok(Frozen::Above),
        Err(error) if is_gone(&error) => Ok(Frozen::No),
        Err(error) => Err(error.into()),
    }
}

/// Checks whether a v1 freezer directory was frozen by its own state, not by an ancestor's.
fn v1_is_self_frozen(dir: &Dir) -> Result<bool> {
    match dir.read("freezer.self_freezing") {
        Ok(text) => Ok(text.trim() == "1"),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The nearest ancestor of the v1 freezer directory `path` that was frozen by its own state. `None` without one, and if
/// it is above the part of the hierarchy that is mounted.
pub(super) fn v1_frozen_ancestor(path: &Path) -> Result<Option<PathBuf>> {
    for above in path.ancestors().skip(1) {
        match Dir::open(above)?.read("freezer.self_freezing") {
            Ok(text) if text.trim() == "1" => return Ok(Some(above.to_owned())),
            Ok(_) => {}
            // The root of the hierarchy, which has no freezer.
            Err(error) if error.errno() == Errno::NOENT => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn thawing_a_removed_cgroup_succeeds() {
        let above = tempfile::tempdir().expect("a directory");
        let path = above.path().join("cgroup");
        fs::create_dir(&path).expect("a directory");
        fs::write(path.join("cgroup.procs"), "").expect("a file");
        let dir = Dir::open(&path).expect("it is there");
        let error = v2(&dir, false).expect_err("a cgroup without a freezer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        fs::remove_dir_all(&path).expect("it is removed");
        v2(&dir, false).expect("thawing a removed cgroup succeeds");
        v2(&dir, true).expect_err("freezing a removed cgroup fails");
    }
}
