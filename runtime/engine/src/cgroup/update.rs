//! An update of limits, complete or reverted.

use oci_spec::runtime::LinuxResources;

use super::dir::Dir;
use super::settings::{self, Dirs, Journal};
use super::{Cgroup, CgroupKind, CgroupRecord, UnitRecord, devices, systemd};
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::Findings;
use brig_plan::cgroup::systemd::Property;
use brig_plan::cgroup::{Change, change, changed_field};

/// Applies `new` to the limits of `record`, in the cgroup first, and then in a new record, which `keep` stores. On
/// failure, files and device rules are restored; systemd's own view of a unit is not, but only until its next update.
pub(super) fn update(
    record: &CgroupRecord,
    new: &LinuxResources,
    keep: impl FnOnce(&CgroupRecord) -> Result<()>,
) -> Result<CgroupRecord> {
    if record.kind == CgroupKind::None {
        // Managers update every container, also those without a cgroup and without a change.
        return match changed_field(&record.resources, new) {
            None => Ok(record.clone()),
            Some(field) => {
                let text = format!("cannot update limits: {field}: the container has no cgroup");
                Err(Error::new(ErrorKind::Unsupported, text))
            }
        };
    }
    let mut findings = Findings::default();
    let change = change(&record.resources, new, record.kind.layout(), &mut findings);
    for warning in findings.into_result()? {
        tracing::warn!("{warning}");
    }
    let dirs = Dirs::open(&record.paths).context("cannot update limits")?;
    check_usage(new, &dirs)?;
    let mut journal = Journal::default();
    let mut updated = record.clone();
    updated.resources.clone_from(&change.resources);
    if change.devices.is_some() && record.devices.is_some() {
        updated.devices.clone_from(&change.devices);
    }
    let applied = apply(record, &updated, &change, &dirs, &mut journal);
    let kept = applied.and_then(|()| keep(&updated).map_err(|error| put_back(error, &updated, record, &dirs)));
    match kept {
        Ok(()) => Ok(updated),
        Err(error) => Err(match journal.restore() {
            None => error,
            Some(lost) => error.context(format!("some limits could not be put back ({lost})")),
        }),
    }
}

/// Replaces the device rules of `old` by those of `new`.
fn set_devices(old: &CgroupRecord, new: &CgroupRecord, dirs: &Dirs) -> Result<()> {
    match (&old.devices, &new.devices) {
        (Some(old), Some(new)) if old != new => match (dirs.v1("devices"), &dirs.v2) {
            (Some(dir), _) => devices::write_lists(dir, Some(old), new),
            (None, Some(dir)) => devices::replace(dir, new),
            (None, None) => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Restores the device rules of `before` in place of those of `updated`, and returns `error`.
fn put_back(error: Error, updated: &CgroupRecord, before: &CgroupRecord, dirs: &Dirs) -> Error {
    match set_devices(updated, before, dirs) {
        Ok(()) => error,
        Err(lost) => error.context(format!("the device rules could not be put back ({lost})")),
    }
}

fn apply(
    record: &CgroupRecord,
    updated: &CgroupRecord,
    change: &Change,
    dirs: &Dirs,
    journal: &mut Journal,
) -> Result<()> {
    settings::write(&change.settings, dirs, Some(journal))?;
    let properties = systemd::properties(&change.touched, record.kind.layout(), change.devices.as_deref());
    let unit = record.unit.as_ref().filter(|_| !properties.is_empty());
    if let (Some(unit), Some(dir)) = (unit, dirs.v1("devices")) {
        return change_unit_on_v1(unit, &properties, change, (record, dirs, dir));
    }
    // Devices follow all files, because they are replaced as a whole, which either succeeds or has no effect.
    set_devices(record, updated, dirs)?;
    let Some(unit) = unit else { return Ok(()) };
    // systemd rounds values and writes the result; therefore the exact values follow.
    let set = systemd::set(unit, &properties).and_then(|()| settings::write(&change.all_settings, dirs, None));
    set.map_err(|error| put_back(error, updated, record, dirs))
}

/// Sets the unit's properties. On v1 systemd rewrites the device lists of a unit at each change.
fn change_unit_on_v1(
    unit: &UnitRecord,
    properties: &[Property],
    change: &Change,
    (record, dirs, lists): (&CgroupRecord, &Dirs, &Dir),
) -> Result<()> {
    let frozen = FrozenForUpdate::new(record, dirs)?;
    systemd::set(unit, properties)?;
    settings::write(&change.all_settings, dirs, None)?;
    if let Some(old) = &record.devices {
        let new = change.devices.as_ref().unwrap_or(old);
        devices::rewrite_lists(lists, old, new).map_err(|error| match devices::rewrite_lists(lists, new, old) {
            Ok(()) => error,
            Err(lost) => error.context(format!("the device rules could not be put back ({lost})")),
        })?;
    }
    frozen.thaw()
}

/// The container's processes, frozen while systemd rewrites the device lists of v1, which it does at every change of a
/// unit: it denies all devices first (systemd's src/core/cgroup.c, cgroup_apply_devices).
struct FrozenForUpdate(Option<Cgroup>);

impl FrozenForUpdate {
    /// Freezes the processes, unless they are paused already. Without a freezer they continue, and may be denied a
    /// device.
    fn new(record: &CgroupRecord, dirs: &Dirs) -> Result<FrozenForUpdate> {
        let cgroup = Cgroup::from_record(record);
        if (dirs.v1("freezer").is_none() && dirs.v2.is_none()) || cgroup.is_frozen()? {
            return Ok(FrozenForUpdate(None));
        }
        cgroup.freeze()?;
        Ok(FrozenForUpdate(Some(cgroup)))
    }

    /// Thaws the processes again.
    fn thaw(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |cgroup| cgroup.thaw())
    }
}

impl Drop for FrozenForUpdate {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|cgroup| cgroup.thaw()) {
            tracing::warn!("the container stays paused: {error}");
        }
    }
}

/// Performs `checkBeforeUpdate`: refuses a limit below the current usage, for which the kernel would reclaim and then
/// kill.
fn check_usage(new: &LinuxResources, dirs: &Dirs) -> Result<()> {
    let Some(memory) = new.memory().as_ref().filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let text = match (dirs.v1("memory"), &dirs.v2) {
        (Some(dir), _) => dir.read("memory.usage_in_bytes"),
        (None, Some(dir)) => dir.read("memory.current"),
        (None, None) => return Ok(()),
    };
    // Without the usage there is no check; the write that follows reports its own error.
    let Some(usage) = text.ok().and_then(|text| text.trim().parse::<i64>().ok()) else { return Ok(()) };
    for (name, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        if let Some(limit) = limit.filter(|&limit| limit > 0 && limit <= usage) {
            return Err(Error::other(format!("rejecting {name} limit {limit} <= usage {usage}")));
        }
    }
    Ok(())
}
