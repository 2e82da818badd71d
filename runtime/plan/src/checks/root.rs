//! Checks of config.md: version, root, names, hooks and mounts.

use oci_spec::runtime::Spec;

use super::is_apart_from_host;
use crate::namespaces::NamespaceKind;
use crate::{Findings, Host};

/// config.md, Specification version: SemVer 2.0; another major number is incompatible.
pub(super) fn version_is_of_this_major(spec: &Spec, _: &Host, findings: &mut Findings) {
    let version = spec.version();
    if version.is_empty() {
        return findings.deny("ociVersion", "missing", "write \"1.0.2\" or later");
    }
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<&str> = core.split('.').collect();
    let number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if numbers.len() != 3 || !numbers.iter().all(number) {
        findings.deny("ociVersion", format!("{version:?} is no version"), "write three numbers, such as 1.0.2");
    } else if numbers[0] != "1" {
        findings.deny("ociVersion", format!("{version} is not supported"), "this build reads versions 1.0.0 to 1.x");
    }
}

/// A host or domain name set in the caller's own UTS namespace would change the host's, so a private one is required.
pub(super) fn names_have_a_uts_namespace(spec: &Spec, host: &Host, findings: &mut Findings) {
    let private = is_apart_from_host(spec, host, NamespaceKind::Uts);
    for (path, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        if !private && name.as_deref().is_some_and(|name| !name.is_empty()) {
            let reason = format!("unable to set {path} without a private UTS namespace");
            findings.deny(path, reason, "add {\"type\": \"uts\"} to linux.namespaces");
        }
    }
}

/// config.md, Mounts: the destination is absolute. Like runc, brig takes a relative one as relative to the root, and
/// warns.
pub(super) fn mount_destinations_are_absolute(spec: &Spec, _: &Host, findings: &mut Findings) {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let destination = mount.destination();
        if !destination.as_os_str().is_empty() && !destination.is_absolute() {
            findings.warn(format!("mounts[{index}].destination: {destination:?} is not absolute: taken from the root"));
        }
    }
}
