//! A systemd scope: started with the process in it, changed by properties, stopped.
//!
//! On cgroup v1, systemd keeps scopes in its own hierarchy, `name=systemd`, and in those of cpu, cpuacct, blkio,
//! memory, devices and pids. The same directory in the other hierarchies is created here, and is removed with the
//! container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::dbus::{Bus, CallError};
use super::dir::{Dir, create_persistent};
use super::place::{self, ROOT};
use super::{CgroupRecord, UnitRecord, freeze, v1, v2};
use crate::error::{Context, Error, Result};
use brig_plan::Finished;
use brig_plan::cgroup::devices::DeviceRule;
use brig_plan::cgroup::systemd::{Property, UnitPlan, device_properties, limits};
use brig_plan::cgroup::variant::Value;
use brig_plan::cgroup::{CgroupPlan, Placement, cleaned};
use brig_plan::host::CgroupLayout;

const EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const SCOPE: &str = "org.freedesktop.systemd1.Scope";
const NO_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// systemd's own hierarchy on v1, as records name it.
const NAMED: &str = "name=systemd";
/// The mount point of that hierarchy (systemd's src/basic/cgroup-util.c, SYSTEMD_CGROUP_CONTROLLER_LEGACY).
const NAMED_MOUNT: &str = "/sys/fs/cgroup/systemd";

/// A scope that starts as soon as its process exists.
#[derive(Debug)]
pub(super) struct Pending {
    plan: Finished<UnitPlan>,
    whole: Finished<CgroupPlan>,
}

impl Pending {
    /// Checks that the systemd of `whole` answers, before anything is created. `None` without a unit in the plan.
    pub(super) fn new(whole: &Finished<CgroupPlan>) -> Result<Option<Pending>> {
        let Placement::Systemd(plan) = &whole.placement else { return Ok(None) };
        Bus::connect(plan.user)?;
        Ok(Some(Pending { plan: plan.clone(), whole: whole.clone() }))
    }

    /// The future directories of the container after the unit's start, according to systemd's rules.
    pub(super) fn expected(&self) -> Result<BTreeMap<String, PathBuf>> {
        if self.plan.layout.has_v1() {
            let mut paths = BTreeMap::new();
            for hierarchy in place::hierarchies()? {
                let path = hierarchy.mount.join(self.plan.cgroup_path());
                paths.extend(hierarchy.controllers.into_iter().map(|name| (name, path.clone())));
            }
            return Ok(paths);
        }
        let mut path = PathBuf::from(ROOT);
        if self.plan.user {
            // The system's systemd has the root of all cgroups; a user's systemd has the cgroup that the system gave
            // it.
            let group = Bus::connect(true)?.property("", "", "ControlGroup")?;
            path.push(group.trim_start_matches('/'));
        }
        path.push(self.plan.cgroup_path());
        Ok(BTreeMap::from([(String::new(), path)]))
    }

    /// Starts the unit with `pid` in it, and applies all limits. Stores the unit and the container's directories in
    /// `record`.
    ///
    /// # Errors
    /// The process is killed, and the unit stopped again. `record` has the remaining directories.
    pub(super) fn start(&self, pid: i32, record: &mut CgroupRecord) -> Result<()> {
        let unit = UnitRecord { unit: self.plan.unit.clone(), slice: self.plan.slice.clone(), user: self.plan.user };
        let mut bus = Bus::connect(unit.user)?;
        self.start_unit(&mut bus, pid).with_context(|| format!("unable to start unit {:?}", unit.unit))?;
        let filled = self.group(&mut bus).and_then(|group| match self.plan.layout.has_v1() {
            true => self.fill_v1(&group, pid, record),
            false => self.fill_v2(&group, pid, record),
        });
        if filled.is_err() {
            // The original error is reported; systemd removes a unit without processes by itself.
            let _ = kill_unit(&mut bus, &unit.unit).and_then(|()| stop_unit(&mut bus, &unit.unit));
        } else {
            record.unit = Some(unit);
        }
        filled
    }

    fn start_unit(&self, bus: &mut Bus, pid: i32) -> Result<()> {
        let mut properties = self.plan.properties.clone();
        let pids = vec![Value::U32(pid.unsigned_abs())];
        properties.push(Property { name: "PIDs".into(), value: Value::Array("u".into(), pids), since: 0 });
        properties.extend(limits(&self.whole.resources, self.plan.layout));
        if let Some(rules) = &self.whole.devices {
            properties.extend(device_properties(rules, self.plan.layout));
        }
        tracing::debug!("systemd: start the unit {} for process {pid}", self.plan.unit);
        properties.iter().for_each(|property| tracing::debug!("systemd: {}={:?}", property.name, property.value));
        let arguments = [
            Value::text(&*self.plan.unit),
            Value::text("replace"),
            encode(bus, &properties)?,
            Value::Array("(sa(sv))".into(), Vec::new()),
        ];
        let answer = match bus.manager("StartTransientUnit", &arguments) {
            // Most likely the remains of a unit that failed.
            Err(CallError::Remote(name, _)) if name == EXISTS => {
                reset_failed(bus, &self.plan.unit)?;
                bus.manager("StartTransientUnit", &arguments)
            }
            result => result,
        };
        match finish(bus, answer?)?.as_str() {
            "done" => Ok(()),
            result => {
                reset_failed(bus, &self.plan.unit)?;
                Err(Error::other(format!("its job ended with {result:?}")))
            }
        }
    }

    /// The scope's cgroup, relative to each hierarchy's root.
    fn group(&self, bus: &mut Bus) -> Result<PathBuf> {
        match control_group(bus, &self.plan.unit)? {
            Some(group) if !group.is_empty() => Ok(group.into()),
            _ => Err(Error::other(format!("the scope {} has no cgroup: its process has exited", self.plan.unit))),
        }
    }

    /// Applies everything that systemd does not do, or does roughly: exact values, files without a property, exact
    /// device rules; in the cgroup below the scope's own if the configuration names one.
    fn fill_v2(&self, group: &Path, pid: i32, record: &mut CgroupRecord) -> Result<()> {
        let mut path = Path::new(ROOT).join(group);
        if !self.plan.subgroup.is_empty() {
            path.push(&self.plan.subgroup);
            let what = || format!("cannot make the cgroup {}", path.display());
            create_persistent(&path).with_context(what)?;
            // The scope can enable no controllers for its children while it has a process of its own.
            v1::enter(&path, pid)?;
        }
        let dir = Dir::open(&path).context("cannot open the scope's cgroup")?;
        if freeze::v2_is_frozen(&dir)? {
            return Err(v2::unexpectedly_frozen(&path));
        }
        v2::enable(Path::new(ROOT), &dir)?;
        let dir = v2::fill(dir, &self.whole)?;
        record.inodes.insert(path.clone(), dir.inode()?);
        record.paths.insert(String::new(), path);
        Ok(())
    }

    /// Performs `fill` on v1, with the hierarchies into which systemd has not moved the process.
    fn fill_v1(&self, group: &Path, pid: i32, record: &mut CgroupRecord) -> Result<()> {
        let path = cleaned(&Path::new("/").join(group).join(&self.plan.subgroup));
        let made = v1::create(&path, &self.whole.settings, self.whole.devices.as_deref(), Some(pid))?;
        (record.paths, record.inodes) = (made.paths, made.inodes);
        if !self.plan.subgroup.is_empty() {
            let scopes: BTreeSet<&Path> = record.paths.values().filter_map(|path| path.parent()).collect();
            record.planned = scopes.into_iter().map(Path::to_owned).collect();
        }
        let current = place::paths_of(pid)?;
        v1::attach(record.paths.iter().filter(|(name, path)| current.get(*name) != Some(path)), pid)
    }
}

/// The mount of the hierarchy by which systemd identifies units, and the container's directory in it.
pub(super) fn home(record: &CgroupRecord) -> Option<(&'static Path, &Path)> {
    let (name, mount) = if record.kind.layout().has_v1() { (NAMED, NAMED_MOUNT) } else { ("", ROOT) };
    Some((Path::new(mount), record.paths.get(name)?))
}

/// Encodes the properties as `a(sv)`, without those that this systemd does not know yet.
fn encode(bus: &mut Bus, properties: &[Property]) -> Result<Value> {
    let newest = properties.iter().map(|property| property.since).max().unwrap_or(0);
    let version = if newest == 0 { 0 } else { version(bus)? };
    let known = properties.iter().filter(|property| property.since <= version);
    let pairs = known.map(|property| {
        Value::Struct(vec![Value::text(&*property.name), Value::Variant(Box::new(property.value.clone()))])
    });
    Ok(Value::Array("(sv)".into(), pairs.collect()))
}

/// The major version of systemd: `252` of `252.39-1~deb12u1` or `v252`.
fn version(bus: &mut Bus) -> Result<u32> {
    let text = bus.property("", "", "Version")?;
    let digits: String = text.trim_start_matches(['"', 'v']).chars().take_while(char::is_ascii_digit).collect();
    digits.parse().map_err(|_| Error::other(format!("systemd's version {text:?} is no number")))
}

/// Waits for the job that `answer` names.
fn finish(bus: &mut Bus, answer: Vec<Value>) -> Result<String> {
    match answer.into_iter().next() {
        Some(Value::Path(job)) => bus.job_result(&job),
        other => Err(Error::other(format!("systemd names no job but {other:?}"))),
    }
}

/// The unit's cgroup, relative to each hierarchy's root: empty if the unit has none, `None` if there is no such unit.
fn control_group(bus: &mut Bus, unit: &str) -> Result<Option<String>> {
    match bus.manager("GetUnit", &[Value::text(unit)]) {
        Ok(answer) => match answer.into_iter().next() {
            Some(Value::Path(object)) => {
                let group = bus.property(&object, SCOPE, "ControlGroup")?;
                Ok(Some(group.trim_start_matches('/').to_owned()))
            }
            other => Err(Error::other(format!("systemd names no unit but {other:?}"))),
        },
        Err(CallError::Remote(name, _)) if name == NO_UNIT => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn reset_failed(bus: &mut Bus, unit: &str) -> Result<()> {
    match bus.manager("ResetFailedUnit", &[Value::text(unit)]) {
        Ok(_) => Ok(()),
        Err(CallError::Remote(name, _)) if name == NO_UNIT => Ok(()),
        Err(error) => Err(Error::from(error).context(format!("cannot reset the unit {unit}"))),
    }
}

fn stop_unit(bus: &mut Bus, unit: &str) -> Result<()> {
    match bus.manager("StopUnit", &[Value::text(unit), Value::text("replace")]) {
        Ok(answer) => {
            finish(bus, answer)?;
        }
        // A scope stops with its last process, and systemd forgets it then.
        Err(CallError::Remote(name, _)) if name == NO_UNIT => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    reset_failed(bus, unit)
}

/// Kills every process of the unit.
fn kill_unit(bus: &mut Bus, unit: &str) -> Result<()> {
    match bus.manager("KillUnit", &[Value::text(unit), Value::text("all"), Value::I32(libc::SIGKILL)]) {
        Ok(_) => Ok(()),
        Err(CallError::Remote(name, _)) if name == NO_UNIT => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Stops the unit, unless another one has taken its name: `own` is the result of [`home`], if the directory still
/// exists. A missing unit is no error.
pub(super) fn stop(unit: &UnitRecord, own: Option<(&Path, &Path)>) -> Result<()> {
    let mut bus = Bus::connect(unit.user)?;
    let what = || format!("cannot stop the unit {}", unit.unit);
    let Some(group) = control_group(&mut bus, &unit.unit).with_context(what)? else { return Ok(()) };
    if !group.is_empty() && !own.is_some_and(|(mount, own)| own.starts_with(mount.join(&group))) {
        tracing::warn!(
            "systemd: leaving unit {} alone, because another unit has taken the name of the container's",
            unit.unit
        );
        return Ok(());
    }
    stop_unit(&mut bus, &unit.unit).with_context(what)
}

/// The properties for `resources`, and for the device rules when they change.
pub(super) fn properties(
    resources: &LinuxResources,
    layout: CgroupLayout,
    rules: Option<&[DeviceRule]>,
) -> Vec<Property> {
    let mut properties = limits(resources, layout);
    properties.extend(rules.map(|rules| device_properties(rules, layout)).into_iter().flatten());
    properties
}

/// Sets properties of the unit, all or none of them. They are in force when it returns.
pub(super) fn set(unit: &UnitRecord, properties: &[Property]) -> Result<()> {
    let mut bus = Bus::connect(unit.user)?;
    // The change is temporary (runtime), because a transient unit has no file to store it in.
    let arguments = [Value::text(&*unit.unit), Value::Bool(true), encode(&mut bus, properties)?];
    match bus.manager("SetUnitProperties", &arguments) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::from(error).context(format!("unable to set unit properties of {}", unit.unit))),
    }
}

/// Moves `pid` into `sub` below the unit's cgroup. A user may not move processes between cgroups directly (cgroups(7),
/// delegation), but the user's systemd may.
pub(super) fn attach(unit: &UnitRecord, sub: &str, pid: i32) -> Result<()> {
    let mut bus = Bus::connect(unit.user)?;
    let pids = Value::Array("u".into(), vec![Value::U32(pid.unsigned_abs())]);
    let arguments = [Value::text(&*unit.unit), Value::text(format!("/{}", sub.trim_start_matches('/'))), pids];
    bus.manager("AttachProcessesToUnit", &arguments)
        .map(drop)
        .map_err(|error| Error::from(error).context(format!("cannot move process {pid} into {}", unit.unit)))
}
