//! A container's cgroup: created before its first process, found again from the record, changed, measured, removed.
//!
//! | file | subject |
//! |---|---|
//! | `v2`, `v1`, `systemd` | creation of a cgroup on the three kinds of host |
//! | `place` | mount points of the hierarchies, and the caller's cgroups |
//! | `settings`, `devices` | writes of limits, application of device rules |
//! | `freeze`, `kill`, `tasks`, `wait`, `remove` | processes: freeze, signals, waiting for their exit; removal |
//! | `tree` | a walk over a cgroup and its descendants |
//! | `exec`, `join` | the target of a process that joins a container, or any cgroup |
//! | `stats`, `oom` | statistics and notification |

mod dbus;
mod devices;
mod dir;
mod exec;
mod freeze;
mod join;
mod kill;
mod oom;
mod place;
mod remove;
mod settings;
pub mod stats;
mod systemd;
mod tasks;
mod tree;
mod update;
mod v1;
mod v2;
mod wait;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use crate::error::{Context, Result};
use brig_plan::Finished;
use brig_plan::cgroup::{CgroupPlan, Placement};
use dir::{CGROUP2_MAGIC, Dir};

pub use exec::ExecTarget;
pub use join::join;
pub use oom::{OomEvent, OomWatch};
pub use stats::Stats;

pub use brig_plan::cgroup::record::{CgroupKind, CgroupRecord, UnitRecord};

/// The cgroup of one container, in all hierarchies of the host.
#[derive(Debug)]
pub struct Cgroup {
    record: CgroupRecord,
    /// The cgroup2 directory, kept open from its creation until the clone.
    dir: Option<Dir>,
    /// A systemd unit that starts with the container's process.
    pending: Option<systemd::Pending>,
}

/// Whether a cgroup's processes are frozen, and by which cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frozen {
    /// They are not.
    No,
    /// By the cgroup's own state; on cgroup v2, which does not distinguish them here, also by one above.
    Own,
    /// By a cgroup above alone, on v1.
    Above,
}

impl Cgroup {
    /// Creates the cgroup of `plan`, with all limits and the device rules in force before any process is in it.
    ///
    /// # Errors
    /// Everything that was created is removed again. The error names a missing controller, and the field that requires
    /// it.
    pub fn create(plan: &Finished<CgroupPlan>) -> Result<Cgroup> {
        match create(plan) {
            Err(error) if plan.optional && forbidden(&plan.placement) => {
                // No field requires a cgroup.
                tracing::debug!("cgroup: the container gets no cgroup of its own: {error}");
                let record = CgroupRecord { resources: plan.resources.clone(), ..CgroupRecord::default() };
                Ok(Cgroup { record, dir: None, pending: None })
            }
            result => result,
        }
    }

    /// The record of a cgroup that [`Cgroup::create`] is about to create, by which the remains of an interrupted create
    /// can be found. Creates nothing, and nothing belongs to the container yet: a directory of that path may be another
    /// one's.
    ///
    /// A systemd unit on cgroup2 needs no such record: its only process is the container's init, which exits with an
    /// interrupted create, and systemd removes the scope then. On v1 systemd leaves some hierarchies to the runtime.
    ///
    /// # Errors
    /// The cgroup hierarchies, or this process's own place in them, cannot be determined.
    pub fn planned_record(plan: &CgroupPlan) -> Result<CgroupRecord> {
        let mut record = CgroupRecord { resources: plan.resources.clone(), ..CgroupRecord::default() };
        let missing = |path: PathBuf, root: &Path| -> Vec<PathBuf> {
            let levels = path.ancestors().take_while(|level| *level != root && !level.exists());
            levels.map(Path::to_owned).collect()
        };
        match &plan.placement {
            Placement::None => {}
            Placement::V2(path) => {
                record.kind = CgroupKind::V2;
                record.planned = missing(place::v2_path(path)?, Path::new(place::ROOT));
            }
            Placement::V1 { path, hybrid } => {
                record.kind = if *hybrid { CgroupKind::Hybrid } else { CgroupKind::V1 };
                for hierarchy in place::hierarchies()? {
                    record.planned.extend(missing(hierarchy.resolve(path), &hierarchy.mount));
                }
            }
            Placement::Systemd(unit) => {
                record.kind = unit.layout.into();
                if unit.layout.has_v1() {
                    for hierarchy in place::hierarchies()? {
                        record.planned.extend(missing(hierarchy.mount.join(unit.cgroup_path()), &hierarchy.mount));
                    }
                }
            }
        }
        Ok(record)
    }

    /// The cgroup of `record`. Does not access the file system.
    pub fn from_record(record: &CgroupRecord) -> Cgroup {
        Cgroup { record: record.clone(), dir: None, pending: None }
    }

    /// The cgroup of process `pid`: its directories in all mounted hierarchies. It is for reading alone.
    ///
    /// # Errors
    /// The process, or any hierarchy, does not exist.
    pub fn of_process(pid: i32) -> Result<Cgroup> {
        let paths = place::paths_of(pid)?;
        Ok(Cgroup { record: CgroupRecord { paths, ..CgroupRecord::default() }, dir: None, pending: None })
    }

    /// The data for [`Cgroup::from_record`]. With a systemd scope it is complete after [`Cgroup::attach`].
    pub fn record(&self) -> CgroupRecord {
        self.record.clone()
    }

    /// The directory for CLONE_INTO_CGROUP, if the process is to start in this cgroup. On a hybrid host this covers the
    /// cgroup2 side only; [`Cgroup::attach`] does the rest, and everything if there is no target.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd)
    }

    /// The quick way into v1 hierarchies: files to which the new process itself writes `0`, one write(2) each, while it
    /// has one thread only. The process must do so before anything that limits or devices could affect. This replaces
    /// [`Cgroup::attach`] if [`Cgroup::clone_target`] (where there is one) was used as well. Empty without v1.
    ///
    /// Moving another process takes the kernel's lock of all thread groups, and with it an RCU grace period of some ten
    /// milliseconds; a thread that moves itself does not take it (Linux 5.4; cgroup_procs_write_start).
    ///
    /// # Errors
    /// A hierarchy's file of processes cannot be opened for writing.
    pub fn self_entry(&self) -> Result<Vec<OwnedFd>> {
        v1::self_entry(&self.record.paths)
    }

    /// Moves the process into the hierarchies in which it did not start. Must be called after the clone, before the
    /// process continues; with systemd this starts the unit, and the limits are in force when it returns.
    ///
    /// # Errors
    /// A started unit is stopped again.
    pub fn attach(&mut self, pid: i32) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            return pending.start(pid, &mut self.record);
        }
        match self.record.kind {
            CgroupKind::None | CgroupKind::V2 => Ok(()),
            CgroupKind::V1 | CgroupKind::Hybrid => {
                let has_v2_dir = self.dir.is_some();
                v1::attach(self.record.paths.iter().filter(|(name, _)| !(has_v2_dir && name.is_empty())), pid)
            }
        }
    }

    /// The target of a process that joins the container. `arguments` are those of `exec --cgroup`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidConfig`] for an argument that names no cgroup below the container's; else a cgroup
    /// cannot be opened.
    pub fn exec_target(&self, arguments: &[String], init: i32) -> Result<ExecTarget> {
        exec::target(&self.record, arguments, init)
    }

    /// The directory in which processes are listed: cgroup2's, else that of a v1 controller that has all of them, and
    /// that systemd does not manage, because systemd moves processes between a unit's cgroup and its slice's.
    fn main(&self) -> Option<&Path> {
        let paths = &self.record.paths;
        ["", "freezer", "devices", "pids"]
            .iter()
            .find_map(|name| paths.get(*name))
            .or_else(|| paths.values().next())
            .map(PathBuf::as_path)
    }

    /// Checks for a unit that has not been started: [`Cgroup::attach`] has to be called.
    pub fn has_pending_unit(&self) -> bool {
        self.pending.is_some()
    }

    /// The container's own directories by controller, as in a record; before [`Cgroup::attach`] starts a unit, their
    /// future paths.
    ///
    /// # Errors
    /// The hierarchies cannot be determined, or systemd does not answer.
    pub fn places(&self) -> Result<BTreeMap<String, PathBuf>> {
        match &self.pending {
            Some(pending) => pending.expected(),
            None => Ok(self.record.paths.clone()),
        }
    }

    /// Checks that the container's own cgroup exists.
    ///
    /// # Errors
    /// The directory cannot be opened, for a reason other than its removal.
    pub fn exists(&self) -> Result<bool> {
        Ok(self.main_dir()?.is_some())
    }

    /// The container's directory in the hierarchy of `controller`; `None` without one, and if it was removed.
    fn dir_of(&self, controller: &str) -> Result<Option<Dir>> {
        self.record.paths.get(controller).map_or(Ok(None), |path| self.find(path))
    }

    fn v2_dir(&self) -> Result<Option<Dir>> {
        self.dir_of("")
    }

    fn main_dir(&self) -> Result<Option<Dir>> {
        self.main().map_or(Ok(None), |path| self.find(path))
    }

    /// Opens a directory of the record; `None` if it was removed, or is not the container's.
    fn find(&self, path: &Path) -> Result<Option<Dir>> {
        match Dir::open(path) {
            Ok(dir) => {
                let inode = dir.inode()?;
                Ok(self.is_own(path, inode).then_some(dir))
            }
            Err(error) if error.errno() == Errno::NOENT => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks that the directory at `path`, which is of the record, is still the recorded one: another one may have
    /// taken its place, with processes that are not the container's. The root cgroup never belongs to a container.
    fn is_own(&self, path: &Path, inode: u64) -> bool {
        let is_own = inode != dir::ROOT_INODE && self.record.inodes.get(path).is_none_or(|own| *own == inode);
        if !is_own {
            tracing::warn!(
                "cgroup {}: leaving it alone, because another cgroup has taken the place of the container's",
                path.display()
            );
        }
        is_own
    }

    /// Checks that the directory at `path`, which is of the record, exists and is the container's.
    fn is_there(&self, path: &Path) -> Result<bool> {
        match rustix::fs::stat(path) {
            Ok(stat) => Ok(self.is_own(path, stat.st_ino)),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(brig_sys::SysError::new("stat", format!("{path:?}"), errno).into()),
        }
    }

    fn v2_path(&self) -> Option<&Path> {
        self.record.paths.get("").map(PathBuf::as_path)
    }

    /// The pids of all processes, those of descendant cgroups included, in ascending order.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read, for a reason other than its removal.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self.main_dir()? {
            Some(dir) => tasks::pids(&dir, Instant::now() + wait::CHANGE_TIMEOUT)
                .context("cannot list the container's processes"),
            None => Ok(Vec::new()),
        }
    }

    /// Waits until the cgroup has no process; returns false if `timeout` passes first.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read, for a reason other than its removal.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool> {
        match self.main_dir()? {
            Some(dir) => Ok(remove::wait_empty(&dir, Instant::now() + timeout)?),
            None => Ok(true),
        }
    }

    /// Performs [`Cgroup::remove`], after a pause for watchers if the OOM killer has killed a process in it.
    ///
    /// # Errors
    /// As for [`Cgroup::remove`].
    pub fn destroy(&self) -> Result<()> {
        if self.oom_kills().is_ok_and(|kills| kills > 0) {
            oom::pause_for_watchers();
        }
        self.remove()
    }

    /// Removes the cgroup with all its descendants, after the exit of processes that are exiting. A missing cgroup is
    /// no error.
    ///
    /// # Errors
    /// The first failure, after an attempt on every part: a process that does not exit in time, or a unit that systemd
    /// does not stop.
    pub fn remove(&self) -> Result<()> {
        let mut first = None;
        if let Some(unit) = &self.record.unit {
            let own = systemd::home(&self.record).filter(|(_, path)| self.is_there(path).unwrap_or(false));
            first = systemd::stop(unit, own).err();
        }
        let mut done: Vec<&PathBuf> = Vec::new();
        let deadline = Instant::now() + wait::CHANGE_TIMEOUT;
        for path in self.record.paths.values() {
            if done.contains(&path) {
                continue;
            }
            let removed = self.is_there(path).and_then(|there| match there {
                true => remove::tree(path, deadline),
                false => Ok(()),
            });
            if let Err(error) = removed {
                first.get_or_insert(error);
            }
            done.push(path);
        }
        for path in &self.record.planned {
            // An interrupted create may have made it. A directory in use is another one's.
            if let Err(error) = remove::rmdir(path) {
                first.get_or_insert(error.into());
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Applies `new` to the limits in force. Limits that it does not name stay.
    ///
    /// # Errors
    /// After a rejected write all earlier writes are reverted: nothing has changed.
    pub fn update(&mut self, new: &LinuxResources) -> Result<CgroupRecord> {
        self.update_and_persist(new, |_| Ok(()))
    }

    /// Performs [`Cgroup::update`]; `keep` stores the new record. Its failure is that of the update.
    ///
    /// # Errors
    /// As for [`Cgroup::update`], or the error of `keep`. All writes are reverted.
    pub fn update_and_persist(
        &mut self,
        new: &LinuxResources,
        keep: impl FnOnce(&CgroupRecord) -> Result<()>,
    ) -> Result<CgroupRecord> {
        self.record = update::update(&self.record, new, keep)?;
        Ok(self.record())
    }

    /// Statistics, in the format of `events --stats`. The part of a missing controller is empty.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read or parsed.
    pub fn stats(&self) -> Result<Stats> {
        stats::read(&self.record.paths)
    }

    /// The number of processes that the OOM killer has killed in the cgroup.
    ///
    /// # Errors
    /// A file of the cgroup cannot be read, for a reason other than its removal.
    pub fn oom_kills(&self) -> Result<u64> {
        match (self.record.paths.get("memory"), self.v2_path()) {
            (Some(path), _) => oom::kills(path, false),
            (None, Some(path)) => oom::kills(path, true),
            (None, None) => Ok(0),
        }
    }

    /// Watches for out-of-memory events from now on; `None` without a memory controller.
    ///
    /// # Errors
    /// The watch cannot be set up: a limit on inotify instances or descriptors is reached, or the cgroup was removed.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>> {
        match (self.record.paths.get("memory"), self.v2_path()) {
            (Some(path), _) => OomWatch::v1(path).map(Some),
            (None, Some(path)) if path.join("memory.events").exists() => OomWatch::v2(path).map(Some),
            (None, _) => Ok(None),
        }
    }
}

fn create(plan: &Finished<CgroupPlan>) -> Result<Cgroup> {
    let rules = plan.devices.as_deref();
    let mut record =
        CgroupRecord { resources: plan.resources.clone(), devices: plan.devices.clone(), ..CgroupRecord::default() };
    let (mut dir, mut pending) = (None, None);
    match &plan.placement {
        Placement::None => {}
        Placement::V2(path) => {
            let made = v2::create(path, plan)?;
            record.kind = CgroupKind::V2;
            record.paths.insert(String::new(), made.path().to_owned());
            record.inodes.insert(made.path().to_owned(), made.inode()?);
            dir = Some(made);
        }
        Placement::V1 { path, .. } => {
            let made = v1::create(path, &plan.settings, rules, None)?;
            (record.paths, record.inodes, dir) = (made.paths, made.inodes, made.v2);
            record.kind = if dir.is_some() { CgroupKind::Hybrid } else { CgroupKind::V1 };
        }
        Placement::Systemd(unit) => {
            record.kind = unit.layout.into();
            pending = systemd::Pending::new(plan)?;
        }
    }
    Ok(Cgroup { record, dir, pending })
}

/// Checks that the caller may not create a cgroup at the required place.
fn forbidden(placement: &Placement) -> bool {
    let Placement::V2(path) = placement else { return matches!(placement, Placement::V1 { .. }) };
    let Ok(full) = place::v2_path(path) else { return true };
    let parent = full.ancestors().skip(1).find(|parent| parent.exists());
    parent.is_none_or(|parent| {
        dir::magic(parent) != Some(CGROUP2_MAGIC) || rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_err()
    })
}
