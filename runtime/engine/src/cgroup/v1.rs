//! The creation of a cgroup in every v1 hierarchy, and in cgroup2 beside them on a hybrid host.
//!
//! libcgroups helps to find hierarchies that are not at their usual place. Its v1 manager does not write the limits: it
//! knows one path for all hierarchies, while a relative path is below the caller's own cgroup, which differs from
//! hierarchy to hierarchy; it allows its default devices whatever the rules say, writes no weights by device and no
//! reservations of huge pages, joins several network priorities in one line, and leaves created directories behind when
//! a write fails. Its set-up also costs two milliseconds.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dir::{Dir, Unwind};
use super::place::{self, Hierarchy};
use super::settings::{self, Dirs};
use super::{devices, v2};
use crate::error::{Context, Result};
use brig_plan::cgroup::devices::DeviceRule;
use brig_plan::cgroup::{CgroupPath, Settings};

/// The directories of a new cgroup.
pub(super) struct Made {
    /// Paths by controller, with an empty name for cgroup2's.
    pub paths: BTreeMap<String, PathBuf>,
    /// The directories' inode numbers.
    pub inodes: BTreeMap<PathBuf, u64>,
    /// The open cgroup2 directory.
    pub v2: Option<Dir>,
}

/// Creates the directories and writes the limits into them. A directory may exist with `first` in it, which systemd
/// moves into some hierarchies, and with no other process. A failure leaves nothing behind.
pub(super) fn create(
    path: &CgroupPath,
    settings: &Settings,
    rules: Option<&[DeviceRule]>,
    first: Option<i32>,
) -> Result<Made> {
    let hierarchies = place::hierarchies()?;
    let mut unwind = Unwind::default();
    let mut dirs = Dirs::default();
    let (mut paths, mut inodes) = (BTreeMap::new(), BTreeMap::new());
    for hierarchy in &hierarchies {
        let dir = create_dir(hierarchy, path, settings, first, &mut unwind)?;
        inodes.insert(dir.path().to_owned(), dir.inode()?);
        for controller in &hierarchy.controllers {
            paths.insert(controller.clone(), dir.path().to_owned());
        }
        if hierarchy.controllers.iter().all(String::is_empty) {
            dirs.v2 = Some(dir);
        } else {
            dirs.v1.push((hierarchy.controllers.clone(), dir));
        }
    }
    settings::write(settings, &dirs, None)?;
    if let Some(rules) = rules {
        match (dirs.v1("devices"), &dirs.v2) {
            (Some(dir), _) => devices::write_lists(dir, None, rules)?,
            (None, Some(dir)) => devices::attach(dir, rules)?,
            (None, None) => {}
        }
    }
    unwind.disarm();
    Ok(Made { paths, inodes, v2: dirs.v2 })
}

fn create_dir(
    hierarchy: &Hierarchy,
    path: &CgroupPath,
    settings: &Settings,
    first: Option<i32>,
    unwind: &mut Unwind,
) -> Result<Dir> {
    let full = hierarchy.resolve(path);
    let root = &hierarchy.mount;
    if hierarchy.controllers.iter().all(String::is_empty) {
        let dir = v2::create_dir(root, &full, first, unwind)?;
        let here = place_controllers(&dir)?;
        let mut wanted: Vec<String> = settings.v2.iter().map(|it| it.controller.to_string()).collect();
        wanted.dedup();
        wanted.retain(|it| !here.iter().any(|here| here == it));
        if !wanted.is_empty() {
            v2::hand_down(root, &full, &wanted);
        }
        return Ok(dir);
    }
    let what = || format!("cannot make the cgroup {}", full.display());
    v2::refuse_root(root, &full)?;
    let new = unwind.create(root, &full).with_context(what)?;
    let dir = Dir::open(&full).with_context(what)?;
    if !new {
        let count = v2::others(&dir, first)?;
        if count > 0 {
            return Err(v2::not_empty(&full, count));
        }
    }
    let has = |controller: &str| hierarchy.controllers.iter().any(|it| it == controller);
    // The cgroup is frozen by its own state, or with its parent.
    if has("freezer") && dir.read("freezer.state").with_context(what)?.trim() != "THAWED" {
        return Err(v2::unexpectedly_frozen(&full));
    }
    if has("cpuset") {
        inherit_cpuset(root, &full)?;
    }
    Ok(dir)
}

fn place_controllers(dir: &Dir) -> Result<Vec<String>> {
    let text = dir.read("cgroup.controllers").context("cannot read the controllers of the cgroup")?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Fills empty v1 cpusets from the root down with the parent's CPUs and memory nodes: a new cpuset is empty, and takes
/// no process.
fn inherit_cpuset(root: &Path, full: &Path) -> Result<()> {
    let mut levels: Vec<&Path> = full.ancestors().take_while(|level| *level != root).collect();
    levels.reverse();
    let mut parent = Dir::open(root)?;
    for level in levels {
        let dir = Dir::open(level)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if dir.read(file)?.trim().is_empty() {
                dir.write(file, parent.read(file)?.trim())?;
            }
        }
        parent = dir;
    }
    Ok(())
}

/// Moves `pid` into every directory of `paths`.
pub(super) fn attach<'a>(paths: impl Iterator<Item = (&'a String, &'a PathBuf)>, pid: i32) -> Result<()> {
    let mut done: Vec<&PathBuf> = Vec::new();
    for (_, path) in paths {
        // Controllers that are mounted together share a directory.
        if done.contains(&path) {
            continue;
        }
        enter(path, pid)?;
        done.push(path);
    }
    Ok(())
}

/// The `tasks` files of the v1 directories among `paths`, open for writing.
pub(super) fn self_entry(paths: &BTreeMap<String, PathBuf>) -> Result<Vec<OwnedFd>> {
    let mut done: Vec<&PathBuf> = Vec::new();
    let mut files = Vec::new();
    for (_, path) in paths.iter().filter(|(controller, _)| !controller.is_empty()) {
        if done.contains(&path) {
            continue;
        }
        let file = Dir::open(path).and_then(|dir| dir.file("tasks", OFlags::WRONLY));
        files.push(file.with_context(|| format!("cannot open the cgroup {}", path.display()))?);
        done.push(path);
    }
    Ok(files)
}

/// Writes `pid` to the cgroup.procs of `path`.
pub(super) fn enter(path: &Path, pid: i32) -> Result<()> {
    let what = || format!("cannot move process {pid} into the cgroup {}", path.display());
    let dir = Dir::open(path).with_context(what)?;
    for attempt in 0.. {
        match dir.write("cgroup.procs", &pid.to_string()) {
            // A task that is being moved or exiting at this moment sometimes causes EINVAL (seen with realtime tasks;
            // runc, too, tries again).
            Err(error) if error.errno() == Errno::INVAL && attempt < 5 => std::thread::yield_now(),
            result => return result.with_context(what),
        }
    }
    Ok(())
}
