//! Checks of config-linux.md: namespaces, mappings, offsets, paths, devices and limits.

use oci_spec::runtime::Spec;

use super::{is_private, linux};
use crate::idmap::IdMap;
use crate::namespaces::{Namespace, NamespaceKind, NamespacePlan};
use crate::{Findings, Host};

/// config-linux.md, Namespaces: listing a kind twice is an error.
pub(super) fn namespaces_are_listed_once(spec: &Spec, _: &Host, findings: &mut Findings) {
    let listed = linux(spec).and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in listed.iter().enumerate() {
        if listed[..index].iter().any(|earlier| earlier.typ() == namespace.typ()) {
            let kind = NamespaceKind::from(namespace.typ());
            let path = format!("linux.namespaces[{index}]");
            findings.deny(path, format!("malformed spec file: duplicated ns {:?}", kind.as_str()), "list it once");
        }
    }
}

/// config-linux.md, Namespaces: the path must be absolute.
pub(super) fn namespace_paths_are_absolute(spec: &Spec, _: &Host, findings: &mut Findings) {
    let listed = linux(spec).and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    for (index, namespace) in listed.iter().enumerate() {
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty() && !path.is_absolute())
        {
            findings.deny(format!("linux.namespaces[{index}].path"), format!("{path:?} is not absolute"), "");
        }
    }
}

/// Joining the host's mount namespace would make the container's root the root of the host's own processes.
pub(super) fn mount_namespace_is_not_the_hosts(spec: &Spec, host: &Host, findings: &mut Findings) {
    let private = is_private(spec, host, NamespaceKind::Mount);
    if private && host.host_namespaces.contains(&NamespaceKind::Mount) {
        let reason = "the path of the mount namespace leads to that of process 1";
        findings.deny("linux.namespaces", reason, "leave the path out for a new one");
    }
}

/// A new user namespace without mappings has no usable id, and mappings without a user namespace have no effect.
pub(super) fn user_namespaces_have_mappings(spec: &Spec, host: &Host, findings: &mut Findings) {
    let Some(linux) = linux(spec) else { return };
    let lists = [
        ("linux.uidMappings", IdMap::new(linux.uid_mappings().as_deref())),
        ("linux.gidMappings", IdMap::new(linux.gid_mappings().as_deref())),
    ];
    let plan = NamespacePlan::on_host(spec, host);
    for (path, map) in &lists {
        map.check(path, findings);
        match plan.get(NamespaceKind::User) {
            Namespace::New if map.is_empty() => {
                let reason = "user namespaces enabled, but no namespace path to join nor mappings to apply specified";
                findings.deny(*path, reason, "map at least the container's id 0");
            }
            Namespace::Inherited if !map.is_empty() => {
                let reason = "user namespace mappings specified, but user namespace isn't enabled in the config";
                findings.deny(*path, reason, "add {\"type\": \"user\"} to linux.namespaces");
            }
            // runc accepts mappings beside a path when they equal the namespace's own; the launch compares them.
            Namespace::New | Namespace::Inherited | Namespace::Joined(_) => {}
        }
    }
}

/// An unprivileged caller can create namespaces only inside a new user namespace.
pub(super) fn rootless_has_a_user_namespace(spec: &Spec, host: &Host, findings: &mut Findings) {
    if host.euid != 0 && !is_private(spec, host, NamespaceKind::User) {
        findings.deny(
            "linux.namespaces",
            "rootless container requires user namespaces",
            "add {\"type\": \"user\"} and mappings, as 'brig spec --rootless' writes them",
        );
    }
}

/// config-linux.md, Offset for Time Namespace; time_namespaces(7) defines no other clocks.
pub(super) fn time_offsets_have_a_time_namespace(spec: &Spec, host: &Host, findings: &mut Findings) {
    let Some(offsets) = linux(spec).and_then(|linux| linux.time_offsets().as_ref()).filter(|map| !map.is_empty())
    else {
        return;
    };
    match NamespacePlan::on_host(spec, host).get(NamespaceKind::Time) {
        Namespace::New => {}
        Namespace::Inherited => {
            let reason = "time namespace offsets specified, but time namespace isn't enabled in the config";
            findings.deny("linux.timeOffsets", reason, "add {\"type\": \"time\"} to linux.namespaces");
        }
        Namespace::Joined(_) => {
            let reason = "time namespace enabled, but both namespace path and time offsets specified";
            findings.deny("linux.timeOffsets", reason, "you may only provide one");
        }
    }
    let mut offsets: Vec<_> = offsets.iter().collect();
    offsets.sort_by_key(|(clock, _)| clock.as_str());
    for (clock, offset) in offsets {
        let path = format!("linux.timeOffsets[{clock:?}]");
        if clock != "monotonic" && clock != "boottime" {
            findings.deny(&path, "unknown clock", "expected monotonic or boottime");
        }
        if offset.nanosecs().is_some_and(|nanosecs| nanosecs >= 1_000_000_000) {
            findings.deny(&path, "nanosecs is a second or more", "put whole seconds into secs");
        }
    }
}

/// No personality flag is defined yet (config-linux.md, Personality); runc ignores them too.
pub(super) fn personality_flags_are_ignored(spec: &Spec, _: &Host, findings: &mut Findings) {
    let personality = linux(spec).and_then(|linux| linux.personality().as_ref());
    if let Some(flags) = personality.and_then(|found| found.flags().as_ref()).filter(|flags| !flags.is_empty()) {
        findings.warn(format!("linux.personality.flags: ignoring unsupported flags {}", flags.join(", ")));
    }
}
