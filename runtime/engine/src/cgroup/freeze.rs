//! Freezing and thawing: cgroup.freeze on v2, freezer.state on v1.

use std::time::Instant;

use nix::errno::Errno;

use super::dir::{Dir, is_gone, keyed};
use super::wait::{self, PATIENCE};
use crate::error::{Context, Error, ErrorKind, Result};

/// Freezes a cgroup2 directory or thaws it, and waits until it is so. A freeze that does not come about is taken back.
pub(super) fn unified(dir: &Dir, freeze: bool) -> Result<()> {
    let (value, doing) = if freeze { ("1", "freeze") } else { ("0", "thaw") };
    let what = || format!("cannot {doing} {}", dir.path().display());
    match dir.write("cgroup.freeze", value) {
        // Gone, and its processes with it: systemd removes a scope as soon as the last one is dead.
        Err(error) if !freeze && is_gone(&error) && dir.is_removed() => return Ok(()),
        Err(error) if error.errno() == Errno::ENOENT => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{}: this cgroup has no freezer (the kernel is older than 5.2, or it is the root)", what()),
            ));
        }
        result => result.with_context(what)?,
    }
    let reached = wait::event(dir, "frozen", u64::from(freeze), Instant::now() + PATIENCE).with_context(what);
    match reached {
        Ok(true) => Ok(()),
        result => {
            let thawed = if freeze { dir.write("cgroup.freeze", "0") } else { Ok(()) };
            result?;
            thawed.with_context(what)?;
            Err(Error::other(format!("{}: it took more than {} s", what(), PATIENCE.as_secs())))
        }
    }
}

/// Whether a cgroup2 directory is frozen.
pub(super) fn unified_is_frozen(dir: &Dir) -> Result<bool> {
    match dir.read("cgroup.events") {
        Ok(text) => Ok(keyed(&text, "frozen") == Some(1)),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Freezes a v1 freezer directory and waits until it is FROZEN, or thaws it.
///
/// The kernel reports FREEZING until the last task has stopped, and has no notification for the end of it; a task that
/// forks at that time may keep the state there, until it is written again, or thawed and written again.
pub(super) fn legacy(dir: &Dir, freeze: bool) -> Result<()> {
    let what = || format!("cannot {} {}", if freeze { "freeze" } else { "thaw" }, dir.path().display());
    let result = if freeze { legacy_freeze(dir).with_context(what) } else { Ok(false) };
    match result {
        Ok(true) => return Ok(()),
        Ok(false) if !freeze => return dir.write("freezer.state", "THAWED").with_context(what),
        // FROZEN half-way is the worst state to leave behind.
        Ok(false) => dir.write("freezer.state", "THAWED").with_context(what)?,
        Err(error) => {
            let _ = dir.write("freezer.state", "THAWED");
            return Err(error);
        }
    }
    Err(Error::other(format!("{}: it took more than {} s", what(), PATIENCE.as_secs())))
}

fn legacy_freeze(dir: &Dir) -> brig_sys::SysResult<bool> {
    let deadline = Instant::now() + PATIENCE;
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
        // Most freezes are through by now. Let the tasks run to their stopping point, longer and longer.
        let pause = std::time::Duration::from_micros(10 << round.min(8));
        wait::ready(&mut [], (Instant::now() + pause).min(deadline))?;
    }
    Ok(false)
}

/// Whether a v1 freezer directory was frozen by its own state, not by an ancestor's.
pub(super) fn legacy_is_frozen(dir: &Dir) -> Result<bool> {
    // FREEZING counts as well: tasks that have not stopped yet are about to.
    match dir.read("freezer.self_freezing") {
        Ok(text) => Ok(text.trim() == "1"),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_cgroup_that_is_gone_need_not_be_thawed() {
        let above = tempfile::tempdir().expect("a directory");
        let path = above.path().join("cgroup");
        fs::create_dir(&path).expect("a directory");
        fs::write(path.join("cgroup.procs"), "").expect("a file");
        let dir = Dir::open(&path).expect("it is there");
        let error = unified(&dir, false).expect_err("a cgroup without a freezer");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        fs::remove_dir_all(&path).expect("it is removed");
        unified(&dir, false).expect("nobody is left to be thawed");
        unified(&dir, true).expect_err("nobody is left to be frozen");
    }
}
