//! The target of a process that joins a container: the container's cgroup, one below it, or init's own.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use rustix::io::Errno;

use super::dir::Dir;
use super::place::{self, ROOT};
use super::wait::CHANGE_TIMEOUT;
use super::{CgroupKind, CgroupRecord, UnitRecord, systemd, tasks, v1};
use crate::error::{Context, Error, ErrorKind, Result};
use brig_sys::SysResult;

/// The cgroup of a process that is about to be created.
#[derive(Debug, Default)]
pub struct ExecTarget {
    /// The cgroup2 directory in which the process starts.
    dir: Option<Dir>,
    /// Directories into which the process is moved.
    paths: BTreeMap<String, PathBuf>,
    /// A unit of the user's systemd into which the process is moved, and the cgroup below it.
    unit: Option<(UnitRecord, String)>,
}

impl ExecTarget {
    /// The directory for CLONE_INTO_CGROUP. Without one, [`ExecTarget::attach`] does all the work.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd)
    }

    /// The files for a process that moves itself: see [`super::Cgroup::self_entry`].
    ///
    /// # Errors
    /// As for [`super::Cgroup::self_entry`].
    pub fn self_entry(&self) -> Result<Vec<OwnedFd>> {
        v1::self_entry(&self.paths)
    }

    /// Moves the process into the cgroups in which it did not start. Must be called after the clone, before the process
    /// continues.
    ///
    /// # Errors
    /// The process has exited, a cgroup refuses it, or systemd does.
    pub fn attach(&self, pid: i32) -> Result<()> {
        if let Some((unit, sub)) = &self.unit {
            return systemd::attach(unit, sub, pid);
        }
        v1::attach(self.paths.iter(), pid)
    }
}

/// Parses the arguments of `exec --cgroup`: `path`, or on v1 `controller[,controller]:path`.
fn subpaths(record: &CgroupRecord, arguments: &[String]) -> Result<BTreeMap<String, PathBuf>> {
    let mut paths = record.paths.clone();
    for argument in arguments {
        let wrong = |reason: &str| {
            Error::new(ErrorKind::InvalidConfig, format!("invalid --cgroup argument {argument:?}: {reason}"))
        };
        let (controllers, path) = match argument.rsplit_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None => (None, argument.as_str()),
        };
        let sub = Path::new(path.trim_start_matches('/'));
        if sub.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(wrong("the path must be below the container's cgroup"));
        }
        match (controllers, record.kind) {
            (Some(_), CgroupKind::V2) => {
                return Err(wrong("cgroup v2 has one path for all controllers"));
            }
            (None, CgroupKind::V2) if arguments.len() > 1 => {
                return Err(wrong("cgroup v2 takes one --cgroup argument"));
            }
            (None, _) => paths = record.paths.iter().map(|(name, base)| (name.clone(), base.join(sub))).collect(),
            (Some(controllers), _) => {
                for controller in controllers.split(',') {
                    let base = record.paths.get(controller);
                    let base = base.ok_or_else(|| wrong(&format!("there is no controller {controller:?}")))?;
                    paths.insert(controller.to_owned(), base.join(sub));
                }
            }
        }
    }
    Ok(paths)
}

/// The target for a process that joins the container of `record`, whose init is `init`.
pub(super) fn target(record: &CgroupRecord, arguments: &[String], init: i32) -> Result<ExecTarget> {
    let mut paths = subpaths(record, arguments)?;
    let root = match record.kind {
        CgroupKind::None => return Ok(ExecTarget::default()),
        CgroupKind::V2 => Path::new(ROOT).to_owned(),
        CgroupKind::V1 => return Ok(ExecTarget { paths, ..ExecTarget::default() }),
        CgroupKind::Hybrid => Path::new(ROOT).join("unified"),
    };
    let Some(path) = paths.remove("") else { return Ok(ExecTarget { paths, ..ExecTarget::default() }) };
    let mut dir = Dir::open(&path).with_context(|| format!("cannot open the cgroup {}", path.display()))?;
    // A cgroup that enables controllers for its children takes no process of its own (EBUSY). That happens after the
    // container has created cgroups and moved itself into one of them; then the new process joins init there.
    let busy = arguments.is_empty() && dir.read("cgroup.subtree_control").is_ok_and(|text| !text.trim().is_empty());
    if busy {
        dir = cgroup_of_init(&dir, init, &root).context("cannot open the cgroup of the container's init")?;
    }
    if let Some(unit) = record.unit.as_ref().filter(|unit| unit.user) {
        let sub = dir.path().strip_prefix(&record.paths[""]).map_or(String::new(), |sub| sub.display().to_string());
        return Ok(ExecTarget { unit: Some((unit.clone(), sub)), ..ExecTarget::default() });
    }
    Ok(ExecTarget { dir: Some(dir), paths, unit: None })
}

/// The cgroup2 directory of `init`, which mostly is `dir` or a descendant.
fn cgroup_of_init(dir: &Dir, init: i32, root: &Path) -> SysResult<Dir> {
    match place::v2_path_of(init, root).and_then(|own| Dir::open(&own)) {
        // A container can be in a cgroup whose path is longer than PATH_MAX.
        Err(error) if error.errno() == Errno::NAMETOOLONG => {
            tasks::find(dir, init, Instant::now() + CHANGE_TIMEOUT)?.ok_or(error)
        }
        result => result,
    }
}
