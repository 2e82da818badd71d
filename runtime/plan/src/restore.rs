//! The plan of a restore: a container as create plans it, and the namespaces that are not in the images.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::Serialize;

use super::cgroup::CgroupManager;
use super::container::{self, ContainerPlan, CreateChoices};
use super::external;
use super::namespaces::{NamespaceKind, NamespacePlan};
use super::{Finished, Host, Refused};

/// Everything that restore executes, decided before anything is created.
#[derive(Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RestorePlan {
    /// The container, whose processes come from the images.
    pub container: ContainerPlan,
    /// The namespaces that CRIU inherits as descriptors.
    pub inherited: Vec<InheritedNamespace>,
    /// The namespaces that CRIU joins by path.
    pub joined: Vec<(NamespaceKind, PathBuf)>,
}

/// A namespace that CRIU inherits as a descriptor.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InheritedNamespace {
    /// Its kind: network or pid.
    pub kind: NamespaceKind,
    /// Its name in the images.
    pub name: &'static str,
    /// The path in linux.namespaces.
    pub path: PathBuf,
}

/// Builds the plan of a restore. The strings are warnings for the log.
///
/// # Errors
/// One error that lists every violation.
pub fn build(
    spec: &Spec,
    id: &str,
    bundle: &Path,
    manager: CgroupManager,
    host: &Host,
) -> Result<(Finished<RestorePlan>, Vec<String>), Refused> {
    let choices = CreateChoices { manager, ..CreateChoices::default() };
    let (container, mut findings) = container::plan(spec, id, bundle, choices, host);
    let (mut inherited, mut joined) = (Vec::new(), Vec::new());
    for (kind, path) in NamespacePlan::new(spec).joined() {
        match external::NAMESPACES.iter().find(|(external, _)| *external == kind) {
            Some((_, name)) => inherited.push(InheritedNamespace { kind, name, path: path.to_owned() }),
            None if kind == NamespaceKind::Cgroup => {
                let reason = "CRIU cannot restore into a cgroup namespace that is joined";
                findings.deny("linux.namespaces", reason, "leave its path out");
            }
            None => joined.push((kind, path.to_owned())),
        }
    }
    let warnings = findings.into_result()?;
    Ok((Finished::new(RestorePlan { container, inherited, joined }), warnings))
}
