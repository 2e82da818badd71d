//! The record that create and restore write, and the parts of it that a plan needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::cgroup::{Cgroup, CgroupKind};
use crate::error::{Context, Error, Result};
use crate::launch::faults;
use crate::resctrl::Group;
use crate::state::{Record, RecordConfig, RecordHooks};
use crate::store::Entry;
use brig_plan::Finished;
use brig_plan::cgroup::CgroupPlan;
use brig_plan::container::{self, ContainerPlan};
use brig_plan::intel_rdt::IntelRdtPlan;
use brig_plan::mounts::{CgroupHierarchy, CgroupMounts};
use brig_plan::namespaces::NamespaceKind;
use brig_sys::procfs::Proc;

/// Fills in init's pid, start time and namespaces.
pub(super) fn put_init(record: &mut Record, pid: i32) -> Result<()> {
    let stat = Proc::open()?.pid_stat(pid)?;
    let stat = stat.ok_or_else(|| Error::other("init exited before it was recorded"))?;
    record.init_process_pid = pid;
    record.init_process_start = stat.start_time;
    for kind in NamespaceKind::ALL {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{}", kind.proc_name()));
        record.namespace_paths.insert(runc_name(kind).to_owned(), path);
    }
    record.cgroup_paths = record.cgroup.paths.clone();
    Ok(())
}

/// Creates the cgroup of `plan`, with everything on record that an interrupted create leaves: the planned cgroup
/// before it is created, and the container's own afterwards. A cgroup that create refused, or never reached, may
/// belong to another container.
pub(super) fn make_cgroup(plan: &Finished<CgroupPlan>, record: &mut Record, entry: &Entry) -> Result<CgroupGuard> {
    record.cgroup = Cgroup::planned_record(plan)?;
    entry.write_record(record)?;
    faults::parent("recorded");
    let cgroup = Cgroup::create(plan)?;
    faults::parent("cgroup");
    let guard = CgroupGuard(Some(cgroup));
    record.cgroup = guard.cgroup()?.record();
    if !record.cgroup.paths.is_empty() {
        entry.write_record(record)?;
    }
    faults::parent("owned");
    Ok(guard)
}

/// Lets systemd move process `pid` into the container's unit, and records the unit.
pub(super) fn attach(cgroup: &mut CgroupGuard, pid: i32, record: &mut Record, entry: &Entry) -> Result<()> {
    let cgroup = cgroup.0.as_mut().ok_or_else(gone)?;
    cgroup.attach(pid).context("unable to apply cgroup configuration")?;
    record.cgroup = cgroup.record();
    entry.write_record(record)
}

fn gone() -> Error {
    Error::other("the cgroup is gone already")
}

/// A cgroup that is removed on drop, unless [`CgroupGuard::disarm`] is called.
pub(super) struct CgroupGuard(pub(super) Option<Cgroup>);

impl CgroupGuard {
    pub(super) fn cgroup(&self) -> Result<&Cgroup> {
        self.0.as_ref().ok_or_else(gone)
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CgroupGuard {
    fn drop(&mut self) {
        if let Some(cgroup) = self.0.take()
            && let Err(error) = cgroup.destroy()
        {
            tracing::warn!("unable to clean up: {error}");
        }
    }
}

/// A resctrl group, whose own part is removed on drop, unless [`GroupGuard::disarm`] is called.
pub(super) struct GroupGuard(Option<Group>);

impl GroupGuard {
    /// Creates the group of `plan`. The record comes first, so that delete finds what to remove, even if this process
    /// is killed.
    pub(super) fn new(plan: Option<&IntelRdtPlan>, record: &mut Record, entry: &Entry) -> Result<GroupGuard> {
        let Some(plan) = plan else { return Ok(GroupGuard(None)) };
        let group = Group::planned(plan)?;
        record.intel_rdt = Some(group.clone());
        entry.write_record(record)?;
        group.create(plan)?;
        Ok(GroupGuard(Some(group)))
    }

    pub(super) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for GroupGuard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|group| group.remove()) {
            tracing::warn!("unable to clean up: {error}");
        }
    }
}

/// The record before anything has been created.
pub(super) fn first_record(id: &str, spec: &Spec, bundle: &Path, plan: &ContainerPlan, owner: u32) -> Result<Record> {
    let rootfs = plan.init.rootfs.as_ref().map(|rootfs| rootfs.root.clone()).unwrap_or_default();
    let annotations = container::annotations(spec);
    let mut labels: Vec<String> = annotations.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.push(format!("bundle={}", bundle.display()));
    Ok(Record {
        id: id.to_owned(),
        init_process_pid: 0,
        init_process_start: 0,
        created: humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string(),
        bundle: bundle.to_owned(),
        oci_version: spec.version().clone(),
        owner,
        annotations,
        own_pids: plan.namespaces.is_new(NamespaceKind::Pid),
        hooks: RecordHooks {
            start_container: !plan.init.hooks.start_container.is_empty(),
            poststart: !plan.hooks.poststart.is_empty(),
            poststop: !plan.hooks.poststop.is_empty(),
        },
        config: RecordConfig { rootfs, labels },
        cgroup_paths: BTreeMap::new(),
        namespace_paths: BTreeMap::new(),
        cgroup: Default::default(),
        intel_rdt: None,
    })
}

/// The name of a namespace in runc's state.json.
fn runc_name(kind: NamespaceKind) -> &'static str {
    match kind {
        NamespaceKind::User => "NEWUSER",
        NamespaceKind::Cgroup => "NEWCGROUP",
        NamespaceKind::Ipc => "NEWIPC",
        NamespaceKind::Uts => "NEWUTS",
        NamespaceKind::Network => "NEWNET",
        NamespaceKind::Pid => "NEWPID",
        NamespaceKind::Mount => "NEWNS",
        NamespaceKind::Time => "NEWTIME",
    }
}

/// The content of a cgroup mount: the container's own cgroup in each hierarchy.
pub(super) fn cgroup_mounts(cgroup: &Cgroup) -> Result<CgroupMounts> {
    let paths = &cgroup.places()?;
    Ok(match cgroup.record().kind {
        CgroupKind::None => CgroupMounts::None,
        CgroupKind::V2 => match paths.get("") {
            Some(own) => CgroupMounts::V2 { mountpoint: "/sys/fs/cgroup".into(), own: own.clone() },
            None => CgroupMounts::None,
        },
        CgroupKind::V1 | CgroupKind::Hybrid => {
            let hierarchy = |(controller, own): (&String, &PathBuf)| CgroupHierarchy {
                name: hierarchy_name(controller, own),
                options: match controller.strip_prefix("name=") {
                    Some(_) => format!("none,{controller}"),
                    None => controller.clone(),
                },
                own: own.clone(),
            };
            // The cgroup2 hierarchy of a hybrid host has no name, and is not mounted; see `CgroupMounts`.
            let named = paths.iter().filter(|(controller, _)| !controller.is_empty());
            let mut list: Vec<CgroupHierarchy> = named.map(hierarchy).collect();
            // Controllers of one hierarchy share a directory.
            list.sort_by(|a, b| a.own.cmp(&b.own));
            list.dedup_by(|a, b| a.own == b.own);
            CgroupMounts::V1(list)
        }
    })
}

/// The name of the hierarchy's directory: NAME of `own` = /sys/fs/cgroup/NAME/...
fn hierarchy_name(controller: &str, own: &Path) -> String {
    let below = own.strip_prefix("/sys/fs/cgroup").ok().and_then(|below| below.components().next());
    match below {
        Some(name) => name.as_os_str().to_string_lossy().into_owned(),
        None => controller.trim_start_matches("name=").to_owned(),
    }
}
