//! Named checks of a configuration: an array of checks that refuse, and an array of checks that warn.
//!
//! They catch values that the kernel would refuse later with a bare EINVAL, or accept with another meaning.

mod linux;
mod platforms;
mod process;
mod root;
mod sysctl;

use oci_spec::runtime::{Linux, Process, Spec};

pub(crate) use process::check_no_nul;
pub use sysctl::dotted as dotted_sysctl;

use super::namespaces::{NamespaceKind, NamespacePlan};
use super::{Findings, Host, annotations};

/// A check: adds violations or warnings to the findings and never stops the checks after it.
type Check = fn(&Spec, &Host, &mut Findings);

/// Checks whose violations refuse the configuration.
const DENIALS: &[Check] = &[
    root::version_is_of_this_major,
    root::names_have_a_uts_namespace,
    process_is_valid,
    linux::namespaces_are_listed_once,
    linux::namespace_paths_are_absolute,
    linux::mount_namespace_is_not_the_hosts,
    linux::user_namespaces_have_mappings,
    linux::rootless_has_a_user_namespace,
    linux::time_offsets_have_a_time_namespace,
    sysctl::sysctls_are_namespaced,
];

/// Checks that only warn.
const WARNINGS: &[Check] = &[
    root::mount_destinations_are_absolute,
    linux::personality_flags_are_ignored,
    platforms::other_platforms_are_ignored,
    annotations_of_other_runtimes,
    process_is_odd,
];

/// Runs every check on a whole configuration.
pub fn check(spec: &Spec, host: &Host, findings: &mut Findings) {
    for check in DENIALS.iter().chain(WARNINGS) {
        check(spec, host, findings);
    }
}

/// Runs the checks of a process object alone (exec). `path` is its JSON path: `process`, or empty for a process.json.
pub(crate) fn check_process(process: &Process, path: &str, host: &Host, findings: &mut Findings) {
    let at = process::ProcessPath(path);
    for check in process::DENIALS.iter().chain(process::WARNINGS) {
        check(process, at, host, findings);
    }
}

/// Checks the AppArmor profile and the SELinux label of exec's flags.
pub(crate) fn check_labels(apparmor: Option<&str>, selinux: Option<&str>, host: &Host, findings: &mut Findings) {
    let (profile, label) = ((apparmor, "--apparmor".to_owned()), (selinux, "--process-label".to_owned()));
    process::labels_have_their_module_at(profile, label, host, findings);
}

fn annotations_of_other_runtimes(spec: &Spec, _: &Host, findings: &mut Findings) {
    annotations::warn_of_others(spec, findings);
}

fn process_is_valid(spec: &Spec, host: &Host, findings: &mut Findings) {
    match spec.process() {
        Some(process) => {
            process::DENIALS.iter().for_each(|check| check(process, process::ProcessPath("process"), host, findings))
        }
        None => findings.deny("process", "missing", "say what to run in process.args"),
    }
}

fn process_is_odd(spec: &Spec, host: &Host, findings: &mut Findings) {
    if let Some(process) = spec.process() {
        process::WARNINGS.iter().for_each(|check| check(process, process::ProcessPath("process"), host, findings));
    }
}

fn linux(spec: &Spec) -> Option<&Linux> {
    spec.linux().as_ref()
}

/// Whether the process has a namespace of this kind other than the caller's.
fn is_private(spec: &Spec, host: &Host, kind: NamespaceKind) -> bool {
    NamespacePlan::on_host(spec, host).is_private(kind)
}

/// Whether changes in the process's namespace of this kind affect neither the caller's nor the host's.
fn is_apart_from_host(spec: &Spec, host: &Host, kind: NamespaceKind) -> bool {
    is_private(spec, host, kind) && !host.host_namespaces.contains(&kind)
}

#[cfg(test)]
mod tests;
