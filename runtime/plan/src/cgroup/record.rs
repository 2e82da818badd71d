//! The part of the container's record that later verbs need to find its cgroup.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use super::CgroupLayout;
use super::devices::DeviceRule;

/// The hierarchies in which the cgroup has directories. [`CgroupRecord::unit`] says whether they are systemd's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupKind {
    /// There is none: the container is in its creator's cgroup.
    #[default]
    None,
    /// A directory of cgroup2. The record keeps the value of brig 0.1, which calls a scope's `systemd`.
    #[serde(rename = "unified", alias = "systemd")]
    V2,
    /// Directories of v1 hierarchies. The record keeps the value of brig 0.1.
    #[serde(rename = "legacy")]
    V1,
    /// Directories of v1 hierarchies, and one of cgroup2.
    Hybrid,
}

impl From<CgroupLayout> for CgroupKind {
    fn from(layout: CgroupLayout) -> CgroupKind {
        match layout {
            CgroupLayout::None => CgroupKind::None,
            CgroupLayout::V2 => CgroupKind::V2,
            CgroupLayout::V1 => CgroupKind::V1,
            CgroupLayout::Hybrid => CgroupKind::Hybrid,
        }
    }
}

impl CgroupKind {
    /// The layout of such a host.
    pub fn layout(self) -> CgroupLayout {
        match self {
            CgroupKind::None => CgroupLayout::None,
            CgroupKind::V2 => CgroupLayout::V2,
            CgroupKind::V1 => CgroupLayout::V1,
            CgroupKind::Hybrid => CgroupLayout::Hybrid,
        }
    }
}

/// A unit of systemd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// The name of the scope, with its suffix.
    pub unit: String,
    /// The slice of the scope.
    pub slice: String,
    /// Whether the unit belongs to the user's own systemd.
    pub user: bool,
}

/// The record of a cgroup, for later verbs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CgroupRecord {
    /// The hierarchies that the container's cgroup is in.
    pub kind: CgroupKind,
    /// Absolute directories by controller; an empty name for cgroup2, `name=systemd` for a named hierarchy.
    pub paths: BTreeMap<String, PathBuf>,
    /// The inode number of each directory of `paths`. A later directory of the same path has another one, and is not
    /// the container's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inodes: BTreeMap<PathBuf, u64>,
    /// Directories that did not exist when this record was written, and that create was about to make; the deepest
    /// first. They are in `paths` once they are the container's. And those of a scope on v1 that holds the container's
    /// own, since systemd removes them from some hierarchies alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planned: Vec<PathBuf>,
    /// The scope of systemd that holds it, if it is one's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<UnitRecord>,
    /// The resources that are in force: those of the configuration, with every update on top.
    pub resources: LinuxResources,
    /// The device rules that are in force; `None` when devices are left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceRule>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_that_an_earlier_version_recorded_is_one_of_cgroup2() {
        let json = r#"{"kind": "systemd", "paths": {"": "/sys/fs/cgroup/system.slice/p-n.scope"}, "resources": {},
                       "unit": {"unit": "p-n.scope", "slice": "system.slice", "user": false}}"#;
        let record: CgroupRecord = serde_json::from_str(json).unwrap();
        assert_eq!((record.kind, record.kind.layout()), (CgroupKind::V2, CgroupLayout::V2));
        assert!(record.unit.is_some());
    }
}
