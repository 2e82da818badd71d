//! A container's cgroup: made before there is a process, found again from the record, changed, measured, removed.
//!
//! | file | what |
//! |---|---|
//! | `v2`, `v1`, `systemd` | making a cgroup on the three kinds of host |
//! | `place` | where hierarchies are mounted, and where the caller is |
//! | `settings`, `devices` | limits into files, device rules into force |
//! | `freeze`, `kill`, `tasks`, `wait`, `remove` | processes: stopping, signalling, waiting, the end |
//! | `tree` | a walk over a cgroup and those below it |
//! | `exec`, `join` | where a process that joins a container, or any cgroup, goes |
//! | `stats`, `oom` | numbers and notification |

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

use nix::errno::Errno;
use oci_spec::runtime::LinuxResources;

use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::cgroup::{CgroupPlan, Placement};
use dir::{CGROUP2_MAGIC, Dir};

pub use exec::ExecTarget;
pub use join::join;
pub use oom::{OomEvent, OomWatch};
pub use stats::Stats;

pub use brig_plan::cgroup::record::{CgroupKind, CgroupRecord, UnitRecord};

/// A container's cgroup.
#[derive(Debug)]
pub struct Cgroup {
    record: CgroupRecord,
    /// The cgroup2 directory, kept open from its making for the clone.
    dir: Option<Dir>,
    /// A unit that waits for its process.
    pending: Option<systemd::Pending>,
}

impl Cgroup {
    /// Makes the cgroup of `plan`, with all limits and the device rules in force before any process is in it.
    ///
    /// # Errors
    /// Nothing that was made is left behind. A controller that is missing is named, with the field that asks for it.
    pub fn create(plan: &CgroupPlan) -> Result<Cgroup> {
        match create(plan) {
            Err(error) if plan.optional && forbidden(&plan.placement) => {
                // Nothing was asked for, so nothing is lost.
                tracing::debug!("the container gets no cgroup of its own: {error}");
                let record = CgroupRecord { resources: plan.resources.clone(), ..CgroupRecord::default() };
                Ok(Cgroup { record, dir: None, pending: None })
            }
            result => result,
        }
    }

    /// The record of a cgroup that [`Cgroup::create`] is about to make, so that what an interrupted create leaves can
    /// be found. Nothing is made, and nothing is the container's yet: a directory of that path may be another's.
    ///
    /// A systemd unit on cgroup2 needs no such record: its only process is the container's init, which ends with an
    /// interrupted create, and systemd removes the scope then. On v1 there are hierarchies that it leaves to the runtime.
    pub fn planned_record(plan: &CgroupPlan) -> Result<CgroupRecord> {
        let mut record = CgroupRecord { resources: plan.resources.clone(), ..CgroupRecord::default() };
        let missing = |path: PathBuf, root: &Path| -> Vec<PathBuf> {
            let levels = path.ancestors().take_while(|level| *level != root && !level.exists());
            levels.map(Path::to_owned).collect()
        };
        match &plan.placement {
            Placement::None => {}
            Placement::Unified(path) => {
                record.kind = CgroupKind::Unified;
                record.planned = missing(place::unified(path)?, Path::new(place::ROOT));
            }
            Placement::Legacy { path, hybrid } => {
                record.kind = if *hybrid { CgroupKind::Hybrid } else { CgroupKind::Legacy };
                for hierarchy in place::hierarchies()? {
                    record.planned.extend(missing(hierarchy.resolve(path), &hierarchy.mount));
                }
            }
            Placement::Systemd(unit) => {
                record.kind = unit.layout.into();
                if unit.layout.has_v1() {
                    for hierarchy in place::hierarchies()? {
                        record.planned.extend(missing(hierarchy.mount.join(unit.place()), &hierarchy.mount));
                    }
                }
            }
        }
        Ok(record)
    }

    /// The cgroup that `record` is of. Nothing is looked at yet.
    pub fn from_record(record: &CgroupRecord) -> Cgroup {
        Cgroup { record: record.clone(), dir: None, pending: None }
    }

    /// The cgroup that process `pid` is in: its directories in all hierarchies that are mounted. It is for looking at.
    ///
    /// # Errors
    /// There is no such process, or no hierarchy.
    pub fn of_process(pid: i32) -> Result<Cgroup> {
        let paths = place::paths_of(pid)?;
        Ok(Cgroup { record: CgroupRecord { paths, ..CgroupRecord::default() }, dir: None, pending: None })
    }

    /// What [`Cgroup::from_record`] needs. With a systemd scope it is complete after [`Cgroup::attach`].
    pub fn record(&self) -> CgroupRecord {
        self.record.clone()
    }

    /// The directory for CLONE_INTO_CGROUP, if the process is to be born in this cgroup. On a hybrid host that is only
    /// its cgroup2 side; [`Cgroup::attach`] does the rest, and all of it where there is no target.
    pub fn clone_target(&self) -> Option<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd)
    }

    /// The quick way into v1 hierarchies: files to which the new process itself writes `0`, one write(2) each, while it
    /// has one thread only. It comes before everything that limits or devices could matter to, and takes the place of
    /// [`Cgroup::attach`] when [`Cgroup::clone_target`] was used as well (if there is one). Empty where there is no v1.
    ///
    /// Moving another process takes the kernel's lock of all thread groups, and with it an RCU grace period of some ten
    /// milliseconds; a thread that moves itself goes without (Linux 5.4; cgroup_procs_write_start).
    pub fn self_entry(&self) -> Result<Vec<OwnedFd>> {
        v1::self_entry(&self.record.paths)
    }

    /// Puts the process wherever it was not born already. Call it after the clone, before the process goes on; with
    /// systemd this starts the unit, and the limits are in force when it returns.
    ///
    /// # Errors
    /// A unit that was started is stopped again.
    pub fn attach(&mut self, pid: i32) -> Result<()> {
        if let Some(pending) = self.pending.take() {
            return pending.start(pid, &mut self.record);
        }
        match self.record.kind {
            CgroupKind::None | CgroupKind::Unified => Ok(()),
            CgroupKind::Legacy | CgroupKind::Hybrid => {
                let born = self.dir.is_some();
                v1::attach(self.record.paths.iter().filter(|(name, _)| !(born && name.is_empty())), pid)
            }
        }
    }

    /// Where a process that joins goes. `arguments` are those of `exec --cgroup`.
    pub fn exec_target(&self, arguments: &[String], init: i32) -> Result<ExecTarget> {
        exec::target(&self.record, arguments, init)
    }

    /// The directory that processes are listed from: cgroup2's, else that of a v1 controller that has all of them, and
    /// that systemd does not manage, which moves processes between a unit's cgroup and its slice's.
    fn main(&self) -> Option<&Path> {
        let paths = &self.record.paths;
        ["", "freezer", "devices", "pids"]
            .iter()
            .find_map(|name| paths.get(*name))
            .or_else(|| paths.values().next())
            .map(PathBuf::as_path)
    }

    /// A unit waits for its process: [`Cgroup::attach`] has to be called.
    pub fn has_pending_unit(&self) -> bool {
        self.pending.is_some()
    }

    /// The container's own directories by controller, as in a record; before [`Cgroup::attach`] starts a unit, where
    /// they will be.
    pub fn places(&self) -> Result<BTreeMap<String, PathBuf>> {
        match &self.pending {
            Some(pending) => pending.expected(),
            None => Ok(self.record.paths.clone()),
        }
    }

    /// Whether the container has a cgroup of its own, which is still there.
    pub fn exists(&self) -> Result<bool> {
        Ok(self.main_dir()?.is_some())
    }

    /// The container's directory in the hierarchy of `controller`; `None` when it has none, or when it is gone.
    fn dir_of(&self, controller: &str) -> Result<Option<Dir>> {
        self.record.paths.get(controller).map_or(Ok(None), |path| self.find(path))
    }

    fn unified_dir(&self) -> Result<Option<Dir>> {
        self.dir_of("")
    }

    fn main_dir(&self) -> Result<Option<Dir>> {
        self.main().map_or(Ok(None), |path| self.find(path))
    }

    /// Opens a directory of the record; `None` when it is gone, or is not the container's.
    fn find(&self, path: &Path) -> Result<Option<Dir>> {
        match Dir::open(path) {
            Ok(dir) => {
                let inode = dir.inode()?;
                Ok(self.is_own(path, inode).then_some(dir))
            }
            Err(error) if error.errno() == Errno::ENOENT => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the directory at `path`, which is of the record, is still the one that was put there: another one may
    /// have taken its place, with processes that are not the container's. The root cgroup is no container's.
    fn is_own(&self, path: &Path, inode: u64) -> bool {
        let is_own = inode != dir::ROOT_INODE && self.record.inodes.get(path).is_none_or(|own| *own == inode);
        if !is_own {
            tracing::warn!("{} is another cgroup than the container's, and is left alone", path.display());
        }
        is_own
    }

    /// Whether the directory at `path`, which is of the record, is there and the container's.
    fn is_there(&self, path: &Path) -> Result<bool> {
        match rustix::fs::stat(path) {
            Ok(stat) => Ok(self.is_own(path, stat.st_ino)),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(errno) => Err(brig_sys::SysError::from_rustix("stat", format!("{path:?}"), errno).into()),
        }
    }

    fn unified(&self) -> Option<&Path> {
        self.record.paths.get("").map(PathBuf::as_path)
    }

    /// The pids of all processes, those of cgroups below included, in ascending order.
    pub fn pids(&self) -> Result<Vec<i32>> {
        match self.main_dir()? {
            Some(dir) => {
                tasks::all(&dir, Instant::now() + wait::PATIENCE).context("cannot list the container's processes")
            }
            None => Ok(Vec::new()),
        }
    }

    /// Stops all processes and waits until they stand still.
    ///
    /// # Errors
    /// Unsupported without a cgroup or a freezer. A freeze that does not come about is taken back.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(true)
    }

    /// Lets all processes run again. A cgroup that is gone has none.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(false)
    }

    fn set_frozen(&self, frozen: bool) -> Result<()> {
        // v1's freezer first where there is one: managers of such hosts look at it.
        let gone = |path: &Path| match frozen {
            true => Err(Error::other(format!("cannot freeze {}: it is gone", path.display()))),
            false => Ok(()),
        };
        if let Some(path) = self.record.paths.get("freezer") {
            return self.find(path)?.map_or_else(|| gone(path), |dir| freeze::legacy(&dir, frozen));
        }
        if let Some(path) = self.unified() {
            return self.find(path)?.map_or_else(|| gone(path), |dir| freeze::unified(&dir, frozen));
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            "cannot toggle freezer: cgroups not configured for container (this host has no freezer, or no cgroup was made)",
        ))
    }

    /// Whether the processes are stopped by this cgroup's freezer. False without one.
    pub fn is_frozen(&self) -> Result<bool> {
        let legacy = self.record.paths.contains_key("freezer");
        match self.dir_of(if legacy { "freezer" } else { "" })? {
            Some(dir) if legacy => freeze::legacy_is_frozen(&dir),
            Some(dir) => freeze::unified_is_frozen(&dir),
            None => Ok(false),
        }
    }

    /// Waits until no process is left; false when `timeout` passes first.
    pub fn wait_empty(&self, timeout: Duration) -> Result<bool> {
        match self.main_dir()? {
            Some(dir) => Ok(remove::wait_empty(&dir, Instant::now() + timeout)?),
            None => Ok(true),
        }
    }

    /// [`Cgroup::remove`], after a moment for those who watch it where the OOM killer has been in it.
    pub fn destroy(&self) -> Result<()> {
        if self.oom_kills().is_ok_and(|kills| kills > 0) {
            oom::let_kills_be_seen();
        }
        self.remove()
    }

    /// Removes the cgroup with all cgroups below it. Processes that are ending are waited for. A cgroup that is gone
    /// already is fine.
    pub fn remove(&self) -> Result<()> {
        let mut first = None;
        if let Some(unit) = &self.record.unit {
            let own = systemd::home(&self.record).filter(|(_, path)| self.is_there(path).unwrap_or(false));
            first = systemd::stop(unit, own).err();
        }
        let mut done: Vec<&PathBuf> = Vec::new();
        let deadline = Instant::now() + wait::PATIENCE;
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
            // An interrupted create may have made it. If it is in use it is another's.
            if let Err(error) = remove::rmdir(path) {
                first.get_or_insert(error.into());
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Puts `new` on top of the limits in force. What it does not name stays.
    ///
    /// # Errors
    /// After a rejected write everything that was written before it is put back: nothing has changed.
    pub fn update(&mut self, new: &LinuxResources) -> Result<CgroupRecord> {
        self.update_and_keep(new, |_| Ok(()))
    }

    /// Like [`Cgroup::update`]; `keep` puts the new record where it is kept. Its failure is that of the update.
    pub fn update_and_keep(
        &mut self,
        new: &LinuxResources,
        keep: impl FnOnce(&CgroupRecord) -> Result<()>,
    ) -> Result<CgroupRecord> {
        self.record = update::update(&self.record, new, keep)?;
        Ok(self.record())
    }

    /// Statistics, in the shape of `events --stats`. A controller that is not there leaves its part empty.
    pub fn stats(&self) -> Result<Stats> {
        stats::read(&self.record.paths)
    }

    /// How many processes the OOM killer has killed in it.
    pub fn oom_kills(&self) -> Result<u64> {
        match (self.record.paths.get("memory"), self.unified()) {
            (Some(path), _) => oom::kills(path, false),
            (None, Some(path)) => oom::kills(path, true),
            (None, None) => Ok(0),
        }
    }

    /// Watches for out of memory from now on; `None` without a memory controller.
    pub fn oom_watch(&self) -> Result<Option<OomWatch>> {
        match (self.record.paths.get("memory"), self.unified()) {
            (Some(path), _) => OomWatch::legacy(path).map(Some),
            (None, Some(path)) if path.join("memory.events").exists() => OomWatch::unified(path).map(Some),
            (None, _) => Ok(None),
        }
    }
}

fn create(plan: &CgroupPlan) -> Result<Cgroup> {
    let rules = plan.devices.as_deref();
    let mut record = CgroupRecord {
        resources: plan.resources.clone(),
        devices: plan.devices.clone(),
        ..CgroupRecord::default()
    };
    let (mut dir, mut pending) = (None, None);
    match &plan.placement {
        Placement::None => {}
        Placement::Unified(path) => {
            let made = v2::create(path, plan)?;
            record.kind = CgroupKind::Unified;
            record.paths.insert(String::new(), made.path().to_owned());
            record.inodes.insert(made.path().to_owned(), made.inode()?);
            dir = Some(made);
        }
        Placement::Legacy { path, .. } => {
            let made = v1::create(path, &plan.settings, rules, None)?;
            (record.paths, record.inodes, dir) = (made.paths, made.inodes, made.unified);
            record.kind = if dir.is_some() { CgroupKind::Hybrid } else { CgroupKind::Legacy };
        }
        Placement::Systemd(unit) => {
            record.kind = unit.layout.into();
            pending = systemd::Pending::new(plan)?;
        }
    }
    Ok(Cgroup { record, dir, pending })
}

/// Whether the caller may not make a cgroup where it would have to.
fn forbidden(placement: &Placement) -> bool {
    let Placement::Unified(path) = placement else { return matches!(placement, Placement::Legacy { .. }) };
    let Ok(full) = place::unified(path) else { return true };
    let parent = full.ancestors().skip(1).find(|parent| parent.exists());
    parent.is_none_or(|parent| {
        dir::magic(parent) != Some(CGROUP2_MAGIC)
            || rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_err()
    })
}
