//! An update: all of it, or nothing.

use oci_spec::runtime::LinuxResources;

use super::settings::{self, Dirs, Journal};
use super::{CgroupKind, CgroupRecord, devices, systemd};
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::Findings;
use brig_plan::cgroup::{Change, Kind, change, changed_field};

/// Puts `new` on top of the limits of `record`, in the cgroup first, and then in a new record, which `keep` writes
/// down. When it cannot, files and device rules are put back; systemd's own view of a unit is not, and only until its
/// next update.
pub(super) fn update(
    record: &CgroupRecord,
    new: &LinuxResources,
    keep: impl FnOnce(&CgroupRecord) -> Result<()>,
) -> Result<CgroupRecord> {
    let kind = match record.kind {
        // Managers update every container, those without a cgroup and without a change too.
        CgroupKind::None => match changed_field(&record.resources, new) {
            None => return Ok(record.clone()),
            Some(field) => {
                let text = format!("cannot update limits: {field}: the container has no cgroup");
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        },
        CgroupKind::Unified => Kind::Unified,
        CgroupKind::Legacy => Kind::Legacy,
        CgroupKind::Hybrid => Kind::Hybrid,
        CgroupKind::Systemd => Kind::Systemd,
    };
    let mut findings = Findings::default();
    let change = change(&record.resources, new, kind, &mut findings);
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
    let applied = apply(record, &change, &dirs, &mut journal);
    let kept = applied.and_then(|()| keep(&updated).map_err(|error| match set_devices(&updated, record, &dirs) {
        Ok(()) => error,
        Err(lost) => error.context(format!("the device rules could not be put back ({lost})")),
    }));
    match kept {
        Ok(()) => Ok(updated),
        Err(error) => Err(match journal.restore() {
            None => error,
            Some(lost) => error.context(format!("some limits could not be put back ({lost})")),
        }),
    }
}

/// Puts the device rules of `new` in the place of those of `old`.
fn set_devices(old: &CgroupRecord, new: &CgroupRecord, dirs: &Dirs) -> Result<()> {
    match (&old.devices, &new.devices) {
        (Some(old), Some(new)) if old != new => match (dirs.legacy("devices"), &dirs.unified) {
            (Some(dir), _) => devices::write_lists(dir, Some(old), new),
            (None, Some(dir)) => devices::replace(dir, new),
            (None, None) => Ok(()),
        },
        _ => Ok(()),
    }
}

fn apply(record: &CgroupRecord, change: &Change, dirs: &Dirs, journal: &mut Journal) -> Result<()> {
    settings::write(&change.settings, dirs, Some(journal))?;
    // Devices come after all files: they are replaced as a whole, which either happens or does not.
    if let (Some(rules), Some(old)) = (&change.devices, &record.devices) {
        match (dirs.legacy("devices"), &dirs.unified) {
            (Some(dir), _) => devices::write_lists(dir, Some(old), rules)?,
            (None, Some(dir)) => devices::replace(dir, rules)?,
            (None, None) => {}
        }
    }
    if let Some(unit) = &record.unit {
        systemd::set(unit, &change.touched, change.devices.as_deref())?;
        // systemd rounds, and writes what it has rounded.
        settings::write(&change.settings, dirs, None)?;
    }
    Ok(())
}

/// `checkBeforeUpdate`: a limit that is used up already is refused, where the kernel would reclaim and then kill.
fn check_usage(new: &LinuxResources, dirs: &Dirs) -> Result<()> {
    let Some(memory) = new.memory().as_ref().filter(|memory| memory.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let text = match (dirs.legacy("memory"), &dirs.unified) {
        (Some(dir), _) => dir.read("memory.usage_in_bytes"),
        (None, Some(dir)) => dir.read("memory.current"),
        (None, None) => return Ok(()),
    };
    // Without the number there is nothing to check against; the write that follows has its own say.
    let Some(usage) = text.ok().and_then(|text| text.trim().parse::<i64>().ok()) else { return Ok(()) };
    for (name, limit) in [("memory+swap", memory.swap()), ("memory", memory.limit())] {
        if let Some(limit) = limit.filter(|&limit| limit > 0 && limit <= usage) {
            return Err(Error::other(format!("rejecting {name} limit {limit} <= usage {usage}")));
        }
    }
    Ok(())
}
