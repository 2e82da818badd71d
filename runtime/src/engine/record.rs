//! What create and restore put on record, and what of it a plan needs to know.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::cgroup::{Cgroup, CgroupKind};
use crate::error::{Error, Result};
use crate::plan::container::{self, ContainerPlan};
use crate::plan::intel_rdt::{Group, IntelRdtPlan};
use crate::plan::mounts::{CgroupHierarchy, CgroupMounts};
use crate::plan::namespaces::NamespaceKind;
use crate::state::{Record, RecordConfig};
use crate::store::Entry;
use crate::sys::procfs::Proc;

/// Puts init on record.
pub(super) fn put_init(record: &mut Record, pid: i32) -> Result<()> {
    let stat = Proc::open()?.pid_stat(pid)?;
    let stat = stat.ok_or_else(|| Error::other("init ended while it was put on record"))?;
    record.init_process_pid = pid;
    record.init_process_start = stat.start_time;
    for kind in NamespaceKind::ALL {
        let path = PathBuf::from(format!("/proc/{pid}/ns/{}", kind.proc_name()));
        record.namespace_paths.insert(runc_name(kind).to_owned(), path);
    }
    record.cgroup_paths = record.cgroup.paths.clone();
    Ok(())
}

/// A group of resctrl, whose own part is removed when this is dropped before [`GroupGuard::keep`].
pub(super) struct GroupGuard(Option<Group>);

impl GroupGuard {
    /// Makes the group of `plan`, on record before it is there: whatever kills us, delete finds what to remove.
    pub(super) fn new(plan: Option<&IntelRdtPlan>, record: &mut Record, entry: &Entry) -> Result<GroupGuard> {
        let Some(plan) = plan else { return Ok(GroupGuard(None)) };
        let group = Group::planned(plan)?;
        record.intel_rdt = Some(group.clone());
        entry.write_record(record)?;
        group.make(plan)?;
        Ok(GroupGuard(Some(group)))
    }

    /// It stays.
    pub(super) fn keep(mut self) {
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

/// The record before there is anything to put into it.
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
        start_container: !plan.hooks.start_container.is_empty(),
        poststart: !plan.hooks.poststart.is_empty(),
        poststop: !plan.hooks.poststop.is_empty(),
        config: RecordConfig { rootfs, labels },
        cgroup_paths: BTreeMap::new(),
        namespace_paths: BTreeMap::new(),
        cgroup: Default::default(),
        intel_rdt: None,
    })
}

/// runc's name of a namespace in state.json.
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

/// What a mount of type cgroup shows: the container's own place in each hierarchy.
pub(super) fn cgroup_mounts(cgroup: &Cgroup) -> Result<CgroupMounts> {
    let record = cgroup.record();
    let paths = &record.paths;
    Ok(match record.kind {
        CgroupKind::None => CgroupMounts::None,
        CgroupKind::Unified | CgroupKind::Systemd => match cgroup.own()? {
            Some(own) => CgroupMounts::Unified { mountpoint: "/sys/fs/cgroup".into(), own },
            None => CgroupMounts::None,
        },
        CgroupKind::Legacy | CgroupKind::Hybrid => {
            let hierarchy = |(controller, own): (&String, &PathBuf)| CgroupHierarchy {
                name: hierarchy_name(controller, own),
                options: match controller.strip_prefix("name=") {
                    Some(_) => format!("none,{controller}"),
                    None => controller.clone(),
                },
                own: own.clone(),
                unified: controller.is_empty(),
            };
            let mut list: Vec<CgroupHierarchy> = paths.iter().map(hierarchy).collect();
            // Controllers that share a hierarchy have one directory.
            list.sort_by(|a, b| a.own.cmp(&b.own));
            list.dedup_by(|a, b| a.own == b.own);
            CgroupMounts::Hierarchies(list)
        }
    })
}

/// The directory's name below /sys/fs/cgroup, of `own` = /sys/fs/cgroup/NAME/...
fn hierarchy_name(controller: &str, own: &Path) -> String {
    let below = own.strip_prefix("/sys/fs/cgroup").ok().and_then(|below| below.components().next());
    match below {
        Some(name) => name.as_os_str().to_string_lossy().into_owned(),
        None if controller.is_empty() => "unified".to_owned(),
        None => controller.trim_start_matches("name=").to_owned(),
    }
}
