//! The creation of a cgroup2 directory, with its limits and its device program in force before any process is in it.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

use super::devices;
use super::dir::{Dir, Unwind, keyed};
use super::place::{self, ROOT};
use super::settings::{self, Dirs};
use super::wait::CHANGE_TIMEOUT;
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::cgroup::{CgroupPath, CgroupPlan};
use brig_sys::SysResult;

/// Creates the directory and applies the plan to it. A failure leaves nothing behind.
pub(super) fn create(path: &CgroupPath, plan: &CgroupPlan) -> Result<Dir> {
    let (root, full) = (Path::new(ROOT), place::v2_path(path)?);
    let mut unwind = Unwind::default();
    let dir = create_dir(root, &full, None, &mut unwind)?;
    enable(root, &dir)?;
    fill(dir, plan).inspect(|_| unwind.disarm())
}

/// Applies limits, device program and owner to an existing directory.
pub(super) fn fill(dir: Dir, plan: &CgroupPlan) -> Result<Dir> {
    let mut dirs = Dirs { v2: Some(dir), v1: Vec::new() };
    settings::write(&plan.settings, &dirs, None)?;
    let Some(dir) = dirs.v2.take() else { return Err(Error::other("the cgroup's directory is gone")) };
    if let Some(rules) = &plan.devices {
        devices::attach(&dir, rules)?;
    }
    if let Some(uid) = plan.owner {
        delegate(&dir, uid).with_context(|| format!("cannot give {} to user {uid}", dir.path().display()))?;
    }
    Ok(dir)
}

/// Gives the directory to `uid`, with the files of a delegation: those that the kernel lists, which never include the
/// limits.
fn delegate(dir: &Dir, uid: u32) -> SysResult<()> {
    const USUAL: &str = "cgroup.procs cgroup.threads cgroup.subtree_control";
    // The list exists since Linux 4.15.
    let list = Dir::open(Path::new("/sys/kernel/cgroup")).and_then(|dir| dir.read("delegate"));
    for name in list.as_deref().unwrap_or(USUAL).split_whitespace() {
        match dir.set_owner(name, uid) {
            // The file belongs to a controller that is not enabled here.
            Err(error) if error.errno() == Errno::NOENT => {}
            result => result?,
        }
    }
    dir.set_owner("", uid)
}

/// Creates the directory, or takes an existing one that has no process except `first`.
pub(super) fn create_dir(root: &Path, full: &Path, first: Option<i32>, unwind: &mut Unwind) -> Result<Dir> {
    let what = || format!("cannot make the cgroup {}", full.display());
    refuse_root(root, full)?;
    let new = unwind.create(root, full).with_context(what)?;
    let dir = Dir::open(full).with_context(what)?;
    let events = dir.read("cgroup.events").with_context(what)?;
    if !new && keyed(&events, "populated") == Some(1) {
        let count = others(&dir, first)?;
        // Those of another pid namespace have no number here.
        if count > 0 || first.is_none() {
            return Err(not_empty(full, count));
        }
    }
    // A new cgroup is frozen with its parent.
    if keyed(&events, "frozen") == Some(1) {
        return Err(unexpectedly_frozen(full));
    }
    Ok(dir)
}

/// Refuses the root cgroup of the hierarchy at `root`, which holds the host's processes.
pub(super) fn refuse_root(root: &Path, full: &Path) -> Result<()> {
    if full == root {
        return Err(Error::new(
            ErrorKind::InvalidConfig,
            "linux.cgroupsPath: a container cannot be in the root cgroup",
        ));
    }
    Ok(())
}

/// The number of processes in the tree at `dir`, without `first`.
pub(super) fn others(dir: &Dir, first: Option<i32>) -> Result<usize> {
    let pids = super::tasks::pids(dir, Instant::now() + CHANGE_TIMEOUT);
    let pids = pids.with_context(|| format!("cannot make the cgroup {}", dir.path().display()))?;
    Ok(pids.into_iter().filter(|&pid| Some(pid) != first).count())
}

/// The error for a cgroup that has processes already. The text is runc's.
pub(super) fn not_empty(full: &Path, count: usize) -> Error {
    Error::other(format!(
        "cannot make the cgroup {}: container's cgroup is not empty: {count} process(es) found (choose another \
         linux.cgroupsPath)",
        full.display()
    ))
}

/// The error for a cgroup in which the container's first process would stop and never continue. The text is runc's.
pub(super) fn unexpectedly_frozen(full: &Path) -> Error {
    Error::other(format!(
        "cannot make the cgroup {}: container's cgroup unexpectedly frozen (thaw it and those above it, or choose \
         another linux.cgroupsPath)",
        full.display()
    ))
}

/// Enables every controller of `root` down to `dir`.
///
/// Mostly one level has them enabled already, which costs two reads. A controller that a level cannot enable (the level
/// has processes of its own, or the caller lacks the right) is skipped here: the limit that needs it reports it.
pub(super) fn enable(root: &Path, dir: &Dir) -> Result<()> {
    let what = || format!("cannot read the controllers of {}", dir.path().display());
    let top = Dir::open(root).with_context(what)?;
    let all = top.read("cgroup.controllers").with_context(what)?;
    let have = dir.read("cgroup.controllers").with_context(what)?;
    let missing = |have: &str| -> Vec<String> {
        all.split_whitespace()
            .filter(|it| !have.split_whitespace().any(|have| have == *it))
            .map(str::to_owned)
            .collect()
    };
    let wanted = missing(&have);
    if !wanted.is_empty() {
        hand_down(root, dir.path(), &wanted);
    }
    Ok(())
}

/// Enables `controllers` in every directory from `root` down to the parent of `path`, as far as possible.
pub(super) fn hand_down(root: &Path, path: &Path, controllers: &[String]) {
    let mut levels: Vec<PathBuf> =
        path.ancestors().skip(1).take_while(|level| level.starts_with(root)).map(Path::to_owned).collect();
    levels.reverse();
    for level in levels {
        let Ok(dir) = Dir::open(&level) else { continue };
        let together: Vec<String> = controllers.iter().map(|name| format!("+{name}")).collect();
        if dir.write("cgroup.subtree_control", &together.join(" ")).is_ok() {
            continue;
        }
        for one in &together {
            // See `enable`: the limit that needs the controller finds it missing, and names it.
            let _ = dir.write("cgroup.subtree_control", one);
        }
    }
}
