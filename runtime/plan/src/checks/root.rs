//! Checks of config.md: version, root, names, hooks and mounts.

use oci_spec::runtime::{Hook, Spec};

use super::{is_apart_from_host, linux};
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

/// config.md, Root: both the object and its path are required on Linux.
pub(super) fn root_is_given(spec: &Spec, _: &Host, findings: &mut Findings) {
    match spec.root() {
        None => findings.deny("root", "root must be specified", "name the root file system in root.path"),
        Some(root) if root.path().as_os_str().is_empty() => {
            findings.deny("root.path", "is empty", "name the root file system");
        }
        Some(_) => {}
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

/// config.md, POSIX-platform Hooks: the path is absolute, and a timeout is above zero.
pub(super) fn hooks_are_absolute_and_limited(spec: &Spec, _: &Host, findings: &mut Findings) {
    let Some(hooks) = spec.hooks() else { return };
    #[allow(deprecated, reason = "prestart hooks are still run, and checked like the others")]
    let lists: [(&str, &Option<Vec<Hook>>); 6] = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, list) in lists {
        for (index, hook) in list.iter().flatten().enumerate() {
            let path = format!("hooks.{name}[{index}]");
            if !hook.path().is_absolute() {
                findings.deny(format!("{path}.path"), format!("{:?} is not absolute", hook.path()), "");
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                findings.deny(format!("{path}.timeout"), "must be greater than zero", "leave it out for no limit");
            }
            // Entries without "=" are passed on, as runc does.
            super::process::check_no_nul(hook.env().as_deref(), &format!("{path}.env"), findings);
            super::process::check_no_nul(hook.args().as_deref(), &format!("{path}.args"), findings);
        }
    }
}

/// config.md, Mounts: destination is required.
pub(super) fn mounts_have_destinations(spec: &Spec, _: &Host, findings: &mut Findings) {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        if mount.destination().as_os_str().is_empty() {
            findings.deny(format!("mounts[{index}].destination"), "is empty", "name a path in the container");
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

/// config-linux.md, Rootfs Mount Propagation: the known propagation types.
pub(super) fn mount_propagation_is_known(spec: &Spec, _: &Host, findings: &mut Findings) {
    const KNOWN: [&str; 9] =
        ["", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"];
    let Some(name) = linux(spec).and_then(|linux| linux.rootfs_propagation().as_deref()) else { return };
    if !KNOWN.contains(&name) {
        let reason = format!("{name:?} is not supported: expected one of {}", KNOWN[1..].join(", "));
        findings.deny("linux.rootfsPropagation", reason, "");
    }
}
