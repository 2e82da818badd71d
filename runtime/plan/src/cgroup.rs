//! The place and the settings of a container's cgroup.
//!
//! `build` turns `linux.resources`, `linux.cgroupsPath` and the annotations into flat lists: files with their
//! values, device rules, and with systemd a unit and its properties. [`change`] does the same for an update.

mod checks;
pub mod devices;
mod merge;
pub mod record;
pub mod systemd;
mod v1;
mod v2;
pub mod variant;

use std::borrow::Cow;
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, Spec};
use serde::Serialize;

use super::host::CgroupLayout;
use super::{Findings, Finished, Host, Refused};
use devices::DeviceRule;
use systemd::UnitPlan;

/// The cgroup manager of new containers. Later verbs use the one on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupManager {
    /// Directories below /sys/fs/cgroup.
    #[default]
    Cgroupfs,
    /// Scopes and slices of systemd, over D-Bus.
    Systemd,
    /// No cgroup is made: the container stays in the caller's.
    Disabled,
}

/// The origin of a path. A path cannot climb above it: `..` is resolved when the plan is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Base {
    /// The root of each hierarchy.
    Root,
    /// The caller's own cgroup in a v1 hierarchy; on v2 the parent of that, because a cgroup that holds processes
    /// cannot hand controllers down (cgroups(7), no internal processes).
    Own,
}

/// A path below [`Base`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CgroupPath {
    /// The origin of `path`.
    pub base: Base,
    /// Relative, without `.` and `..`; empty for the base itself.
    pub path: PathBuf,
}

/// The action when a setting's file does not exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Absent {
    /// Refuse: the limit was asked for and this host cannot give it.
    Refuse,
    /// Leave it out: its absence means the same thing.
    Skip,
    /// Write this one instead.
    Instead(Box<Setting>),
}

/// One file of a cgroup, and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Setting {
    /// The controller that must be there for it: `memory`, `cpu`, ... or `cgroup` for core files.
    pub controller: Cow<'static, str>,
    /// The file's name in the cgroup's directory.
    pub file: Cow<'static, str>,
    /// The value, written with one write(2).
    pub value: String,
    /// The place in config.json that asked for it.
    pub field: Cow<'static, str>,
    /// The action when the file does not exist.
    pub absent: Absent,
}

impl Setting {
    fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        field: impl Into<Cow<'static, str>>,
    ) -> Setting {
        Setting {
            controller: Cow::Borrowed(controller),
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            absent: Absent::Refuse,
        }
    }

    fn or_skip(mut self) -> Setting {
        self.absent = Absent::Skip;
        self
    }

    fn or_else(mut self, other: Setting) -> Setting {
        self.absent = Absent::Instead(Box::new(other));
        self
    }
}

/// The place of the cgroup, and its manager.
#[derive(Debug, PartialEq, Serialize)]
pub enum Placement {
    /// No cgroup of its own.
    None,
    /// A directory of the v2 hierarchy.
    V2(CgroupPath),
    /// A directory of every v1 hierarchy, and of cgroup2 at /sys/fs/cgroup/unified where `hybrid`.
    V1 {
        /// The directory, the same in every hierarchy.
        path: CgroupPath,
        /// There is a cgroup2 mount beside the v1 ones.
        hybrid: bool,
    },
    /// A unit of systemd, in the hierarchies of [`UnitPlan::layout`].
    Systemd(Finished<UnitPlan>),
}

impl Placement {
    /// The hierarchies in which the cgroup has directories.
    pub fn layout(&self) -> CgroupLayout {
        match self {
            Placement::None => CgroupLayout::None,
            Placement::V2(_) => CgroupLayout::V2,
            Placement::V1 { hybrid: true, .. } => CgroupLayout::Hybrid,
            Placement::V1 { hybrid: false, .. } => CgroupLayout::V1,
            Placement::Systemd(unit) => unit.layout,
        }
    }
}

/// The settings of one layout. Only a hybrid host uses both lists: each controller is on one side there.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Settings {
    /// For files of cgroup2.
    pub v2: Vec<Setting>,
    /// For files of v1 hierarchies.
    pub v1: Vec<Setting>,
}

/// Everything about a container's cgroup.
#[derive(Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CgroupPlan {
    /// Place of the cgroup.
    pub placement: Placement,
    /// The configuration's wishes as they were, for the record.
    pub resources: LinuxResources,
    /// The files to write.
    pub settings: Settings,
    /// Device rules in order, the last that matches wins; `None` leaves devices alone (the caller has no privilege
    /// over them, and none over device nodes either).
    pub devices: Option<Vec<DeviceRule>>,
    /// The user that is given the cgroup2 directory, so that the container can make cgroups in it.
    pub owner: Option<u32>,
    /// The container asked for no path and no limit, and the caller may lack the right to make a cgroup: without
    /// that right it stays in the caller's.
    pub optional: bool,
}

/// Plans the cgroup of container `id` alone, as [`crate::container::build`] does with the rest.
///
/// # Errors
/// One error that lists every violation.
pub fn of_container(
    spec: &Spec,
    id: &str,
    manager: CgroupManager,
    host: &Host,
) -> Result<Finished<CgroupPlan>, Refused> {
    let mut findings = Findings::default();
    let plan = build(spec, id, manager, host, &mut findings);
    findings.into_result()?;
    Ok(Finished::new(plan))
}

/// Builds the plan of container `id`. Faults go to `findings`; the plan is of use only when there are none.
pub(crate) fn build(spec: &Spec, id: &str, manager: CgroupManager, host: &Host, findings: &mut Findings) -> CgroupPlan {
    let linux = spec.linux().as_ref();
    let mut resources = linux.and_then(|linux| linux.resources().clone()).unwrap_or_default();
    settle_zero_pids(&mut resources, spec.version());
    let asked = asked_path(spec);
    let unprivileged = host.euid != 0 || host.in_user_namespace;

    let placement = placement(spec, id, manager, host, findings);
    checks::resources(&resources, placement.layout(), findings);
    let settings = settings(&resources, placement.layout());
    let devices = devices::rules(linux, &resources, findings);
    if placement.layout().has_v1() && !unprivileged {
        expressible(&devices, findings);
    }
    CgroupPlan {
        optional: unprivileged && asked.is_none() && settings.v2.is_empty() && settings.v1.is_empty(),
        placement,
        resources,
        settings,
        devices: (!unprivileged).then_some(devices),
        owner: owner(spec),
    }
}

/// Reads a `pids.limit` of zero as the specification of `version`, the bundle's ociVersion, does: since 1.3 it is a
/// limit (config-linux.md, PIDs). Before, Go's callers could not say "none" otherwise, and zero is no limit: Podman 4.3
/// to
/// 5.4 write it for -1.
pub fn settle_zero_pids(resources: &mut LinuxResources, version: &str) {
    let mut numbers = version.split(['-', '+']).next().unwrap_or_default().split('.').map(str::parse::<u64>);
    let is_older = matches!((numbers.next(), numbers.next()), (Some(Ok(1)), Some(Ok(0..3))));
    if is_older && resources.pids().as_ref().is_some_and(|pids| pids.limit() == 0) {
        resources.set_pids(LinuxPidsBuilder::default().limit(-1).build().ok());
    }
}

/// The host's number for the container's user, when the container sees its own cgroup alone, may write to it, and is
/// someone else than the caller (cgroups(7), delegation).
fn owner(spec: &Spec) -> Option<u32> {
    let linux = spec.linux().as_ref()?;
    let made = |kind: LinuxNamespaceType| {
        let mut list = linux.namespaces().iter().flatten();
        list.any(|namespace| namespace.typ() == kind && namespace.path().is_none())
    };
    let writable = spec.mounts().iter().flatten().any(|mount| {
        let cgroup = mount.typ().as_deref().is_some_and(|typ| typ == "cgroup" || typ == "cgroup2");
        let options = mount.options().iter().flatten();
        let read_only = options.rev().find(|option| *option == "ro" || *option == "rw").is_some_and(|it| it == "ro");
        cgroup && cleaned(mount.destination()).path == Path::new("sys/fs/cgroup") && !read_only
    });
    if !made(LinuxNamespaceType::Cgroup) || !writable {
        return None;
    }
    let user = spec.process().as_ref().map_or(0, |process| process.user().uid());
    if !linux.namespaces().iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::User) {
        return (user != 0).then_some(user);
    }
    linux.uid_mappings().iter().flatten().find_map(|map| {
        let offset = user.checked_sub(map.container_id()).filter(|&offset| offset < map.size())?;
        map.host_id().checked_add(offset)
    })
}

/// v1 holds one answer and exceptions to it; not every list of rules can be said that way.
fn expressible(rules: &[DeviceRule], findings: &mut Findings) {
    if let Err(index) = devices::simplify(rules) {
        findings.deny(
            format!("linux.resources.devices[{index}]"),
            format!("cgroup v1 cannot take \"{}\" out of a wider rule before it", rules[index].text()),
            "deny everything first and allow one by one, or use a host with cgroup v2",
        );
    }
}

/// linux.cgroupsPath, if it is given.
fn asked_path(spec: &Spec) -> Option<&Path> {
    let linux = spec.linux().as_ref()?;
    linux.cgroups_path().as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn placement(spec: &Spec, id: &str, manager: CgroupManager, host: &Host, findings: &mut Findings) -> Placement {
    let asked = asked_path(spec);
    match (manager, host.cgroup) {
        (CgroupManager::Disabled, _) | (_, CgroupLayout::None) => Placement::None,
        (CgroupManager::Systemd, _) => match systemd::unit(spec, id, asked, host, findings) {
            Some(unit) => Placement::Systemd(Finished::new(unit)),
            None => Placement::None,
        },
        (CgroupManager::Cgroupfs, layout) => {
            let path = match asked {
                Some(path) => cleaned(path),
                None => CgroupPath { base: Base::Own, path: PathBuf::from(id) },
            };
            if asked.is_some_and(|asked| asked.to_string_lossy().matches(':').count() == 2) {
                findings.warn(format!(
                    "linux.cgroupsPath {} looks like systemd's slice:prefix:name, but the cgroupfs manager takes it \
                     for a path",
                    asked.unwrap_or(Path::new("")).display()
                ));
            }
            match layout {
                CgroupLayout::V2 => Placement::V2(path),
                other => Placement::V1 { path, hybrid: other == CgroupLayout::Hybrid },
            }
        }
    }
}

/// A path without `.`, `..` and double slashes. `..` stops at the base, as at the root of a file system.
pub fn cleaned(path: &Path) -> CgroupPath {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    CgroupPath { base: if path.is_absolute() { Base::Root } else { Base::Own }, path: clean }
}

/// The files that `resources` ask for, in the order in which they are written.
fn settings(resources: &LinuxResources, layout: CgroupLayout) -> Settings {
    Settings {
        v2: if layout.has_v2() { v2::settings(resources) } else { Vec::new() },
        v1: if layout.has_v1() { v1::settings(resources) } else { Vec::new() },
    }
}

/// An update: what changes, and what the record says afterwards.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub struct Change {
    /// The resources after the update: what was, with what the update names on top.
    pub resources: LinuxResources,
    /// The resources that the update touches, with the old values that a file needs beside the new ones.
    pub touched: LinuxResources,
    /// The files to write.
    pub settings: Settings,
    /// The files of all limits, those that stay included: for systemd, which writes each limit that it knows anew at
    /// every change, as it has rounded it.
    pub all_settings: Settings,
    /// The new device rules, when the update names devices.
    pub devices: Option<Vec<DeviceRule>>,
}

/// Plans the change from `old` to `new` in the hierarchies of `layout`. Fields that `new` does not name are kept.
///
/// Pairs that the kernel keeps in one file, or checks against each other, are written together from the merged
/// values: quota with period, memory with swap.
pub fn change(old: &LinuxResources, new: &LinuxResources, layout: CgroupLayout, findings: &mut Findings) -> Change {
    let resources = merge::merged(old, new);
    let touched = merge::touched(&resources, new);
    checks::resources(&touched, layout, findings);
    let devices = new.devices().is_some().then(|| devices::rules(None, new, findings));
    if let Some(rules) = devices.as_ref().filter(|_| layout.has_v1()) {
        expressible(rules, findings);
    }
    let (settings, all_settings) = (settings(&touched, layout), settings(&resources, layout));
    Change { settings, all_settings, resources, touched, devices }
}

/// The field of a limit that `new` would change on top of `old`, if there is one. "No limit" is none.
pub fn changed_field(old: &LinuxResources, new: &LinuxResources) -> Option<String> {
    let merged = merge::merged(old, new);
    let limits = |resources: &LinuxResources| {
        let mut all = v2::settings(resources);
        all.extend(v1::settings(resources));
        all.retain(|setting| setting.absent != Absent::Skip);
        all
    };
    let before = limits(old);
    if let Some(changed) = limits(&merged).into_iter().find(|setting| !before.contains(setting)) {
        return Some(changed.field.into_owned());
    }
    let devices = |resources: &LinuxResources| resources.devices().clone().unwrap_or_default();
    (devices(&merged) != devices(old)).then(|| "linux.resources.devices".to_owned())
}

#[cfg(test)]
mod tests;
