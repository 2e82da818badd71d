//! Annotations that change what a container gets: those of crun that its users set.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use super::Findings;

/// The supplementary groups of the caller stay: setgroups(2) is not called.
const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// The unix socket that gets the seccomp listener, instead of listenerPath.
const RECEIVER: &str = "run.oci.seccomp.receiver";
/// A system call in the profile that nobody knows is an error.
const FAIL_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";
/// Files to which hooks of the host's namespaces write.
const HOOKS_STDOUT: &str = "run.oci.hooks.stdout";
const HOOKS_STDERR: &str = "run.oci.hooks.stderr";

fn value<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations().as_ref()?.get(name).map(String::as_str)
}

/// The caller's supplementary groups stay.
pub fn keeps_groups(spec: &Spec) -> bool {
    value(spec, KEEP_GROUPS).is_some()
}

/// Unknown system calls in the profile are refused.
pub fn refuses_unknown_syscalls(spec: &Spec) -> bool {
    value(spec, FAIL_UNKNOWN).is_some()
}

/// Where hooks write: standard output and standard error, absolute.
pub fn hook_outputs(spec: &Spec, findings: &mut Findings) -> [Option<PathBuf>; 2] {
    [HOOKS_STDOUT, HOOKS_STDERR].map(|name| {
        let path = PathBuf::from(value(spec, name)?);
        if !path.is_absolute() {
            findings.deny(format!("annotations[{name:?}]"), format!("{path:?} is not absolute"), "");
        }
        Some(path)
    })
}

/// Puts into fields what annotations say in their place.
pub fn settle(spec: &mut Spec) {
    let Some(receiver) = value(spec, RECEIVER).map(PathBuf::from) else { return };
    let profile = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    if let Some(profile) = profile {
        profile.set_listener_path(Some(receiver));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_stand_for_what_they_say() {
        let text = br#"{"annotations":{"run.oci.seccomp.receiver":"/run/r","run.oci.keep_original_groups":"1",
            "run.oci.hooks.stderr":"log"},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}}}"#;
        let (mut spec, _) = crate::plan::config::parse(text).unwrap();
        settle(&mut spec);
        let profile = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap();
        assert_eq!(profile.listener_path().as_deref(), Some(std::path::Path::new("/run/r")));
        assert!(keeps_groups(&spec) && !refuses_unknown_syscalls(&spec));
        let mut findings = Findings::default();
        assert_eq!(hook_outputs(&spec, &mut findings), [None, Some("log".into())]);
        assert_eq!(findings.violations[0].path, "annotations[\"run.oci.hooks.stderr\"]");
    }
}
