//! A container's external mounts and namespaces: CRIU neither saves nor creates them, and must be given their names.

use std::path::{Path, PathBuf};

use super::mounts::{CgroupMounts, MountKind, MountOp, RootfsPlan};
use super::namespaces::NamespaceKind;

/// External namespaces that CRIU inherits as descriptors, with the names that runc's images use for them.
pub const NAMESPACES: [(NamespaceKind, &str); 2] =
    [(NamespaceKind::Network, "extRootNetNS"), (NamespaceKind::Pid, "extRootPidNS")];

/// The name of every masked file, which is a bind of one /dev/null of the host.
pub const NULL: &str = "/dev/null";

/// An external mount, whose mount point is its name for CRIU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalMount {
    /// The mount point in the container.
    pub target: PathBuf,
    /// The source on the host.
    pub source: PathBuf,
    /// Whether the target may have to be created in the root, because no file system that is saved is mounted above
    /// it.
    pub needs_target: bool,
}

/// Lists every bind, every part of the host's cgroups, and every device node that may be a bind.
pub fn mounts(plan: &RootfsPlan, cgroup: &CgroupMounts) -> Vec<ExternalMount> {
    let mut list = Vec::new();
    for (index, op) in plan.mounts.iter().enumerate() {
        let needs_target =
            !plan.mounts[..index].iter().any(|above| is_saved(above) && op.target.starts_with(&above.target));
        let mut add = |target: PathBuf, source: &Path, needs_target| {
            list.push(ExternalMount { target, source: source.to_owned(), needs_target });
        };
        match (&op.kind, cgroup) {
            (MountKind::Bind { .. }, _) => add(op.target.clone(), &op.source, needs_target),
            (MountKind::Cgroup, CgroupMounts::V2 { mountpoint, .. }) if !plan.has_cgroup_namespace() => {
                add(op.target.clone(), mountpoint, needs_target);
            }
            (MountKind::Cgroup, CgroupMounts::V1(hierarchies)) if !plan.has_cgroup_namespace() => {
                // The hierarchies' directories are in a tmpfs, which is saved.
                hierarchies.iter().for_each(|hierarchy| add(op.target.join(&hierarchy.name), &hierarchy.own, false));
            }
            _ => {}
        }
    }
    let node = |path: &PathBuf| ExternalMount { target: path.clone(), source: path.clone(), needs_target: false };
    list.extend(plan.devices.iter().map(|device| node(&device.path)));
    list
}

/// Whether CRIU saves the file system with its files.
fn is_saved(op: &MountOp) -> bool {
    matches!(op.kind, MountKind::Tmpfs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::RootfsNamespaces;
    use crate::mounts::tests::{build_json, host};
    use crate::mounts::{CgroupHierarchy, MountOptions};

    #[test]
    fn binds_and_the_hosts_cgroups_are_external() {
        let json = r#"{"ociVersion":"1.0.2","root":{"path":"r"},"linux":{"namespaces":[{"type":"mount"}]},"mounts":[
            {"destination":"/dev","type":"tmpfs","source":"tmpfs"},
            {"destination":"/data","type":"bind","source":"/srv"},
            {"destination":"/dev/x","type":"bind","source":"/x"},
            {"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup"}]}"#;
        let (mut plan, _) = build_json(json, &MountOptions::default(), &host());
        plan.devices.truncate(1);
        let seen = |plan: &RootfsPlan, cgroup: &CgroupMounts| -> Vec<(String, String, bool)> {
            let text = |path: PathBuf| path.display().to_string();
            mounts(plan, cgroup).into_iter().map(|one| (text(one.target), text(one.source), one.needs_target)).collect()
        };
        let one = |target: &str, source: &str, needs: bool| (target.to_owned(), source.to_owned(), needs);
        let node = plan.devices[0].path.display().to_string();
        let binds = [one("/data", "/srv", true), one("/dev/x", "/x", false)];
        let [data, x] = binds.clone();
        assert_eq!(seen(&plan, &CgroupMounts::None), [data.clone(), x.clone(), one(&node, &node, false)]);
        let v2 = CgroupMounts::V2 { mountpoint: "/sys/fs/cgroup".into(), own: "/sys/fs/cgroup/a".into() };
        assert_eq!(seen(&plan, &v2)[2], one("/sys/fs/cgroup", "/sys/fs/cgroup", true));
        let hierarchy = CgroupHierarchy { name: "memory".into(), options: "memory".into(), own: "/h/a".into() };
        let hierarchies = CgroupMounts::V1(vec![hierarchy]);
        assert_eq!(seen(&plan, &hierarchies)[2], one("/sys/fs/cgroup/memory", "/h/a", false));
        plan.namespaces |= RootfsNamespaces::CGROUP;
        assert_eq!(seen(&plan, &hierarchies), [data, x, one(&node, &node, false)]);
    }
}
