//! Annotations that make the runtime do something. Each stands in one table, from which `features` takes its list.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use super::{Findings, nearest};

/// An annotation that is honoured: the one way to read one. [`UNSAFE`] has each of them.
#[derive(Clone, Copy, Debug)]
pub struct Annotation(&'static str);

macro_rules! honoured {
    ($($(#[$doc:meta])+ $constant:ident = $name:literal,)+) => {
        $($(#[$doc])+ pub const $constant: Annotation = Annotation($name);)+

        /// Every annotation that is honoured. What ends in a dot is the beginning of many names.
        pub const HONOURED: &[Annotation] = &[$($constant),+];
    };
}

honoured! {
    /// The caller's supplementary groups stay: setgroups(2) is not called.
    KEEP_GROUPS = "run.oci.keep_original_groups",
    /// The unix socket that gets the seccomp listener, instead of listenerPath.
    RECEIVER = "run.oci.seccomp.receiver",
    /// An unknown system call in the profile is an error.
    FAIL_UNKNOWN = "run.oci.seccomp_fail_unknown_syscall",
    /// The file to which hooks of the host's namespaces write their standard output.
    HOOKS_STDOUT = "run.oci.hooks.stdout",
    /// The same for standard error.
    HOOKS_STDERR = "run.oci.hooks.stderr",
    /// The mount option that carries linux.mountLabel.
    MOUNT_CONTEXT = "run.oci.mount_context_type",
    /// The cgroup below the scope's own that the container is put into.
    SUBGROUP = "run.oci.systemd.subgroup",
    /// A configuration file for CRIU, as with runc.
    CRIU_CONFIG = "org.criu.config",
    /// A property of the container's systemd unit.
    SYSTEMD_PROPERTY = "org.systemd.property.",
    /// Containers of one value share a shim, which reads these two.
    SHIM_GROUP = "io.containerd.runc.v2.group",
    /// The same, as CRI has it.
    SHIM_SANDBOX = "io.kubernetes.cri.sandbox-id",
}

/// What `features` prints as potentiallyUnsafeConfigAnnotations (features.md): names, and beginnings that end in a dot.
pub const UNSAFE: [&str; 5] =
    ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id", "org.criu.config", "org.systemd.property.", "run.oci."];

/// Beginnings of the names that other runtimes honour: one of these that is not honoured here is worth a warning.
const KNOWN: [&str; 3] = ["run.oci.", "krun.", "module.wasm."];

impl Annotation {
    /// The name.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// The value, where the configuration has one.
    pub fn of(self, spec: &Spec) -> Option<&str> {
        spec.annotations().as_ref()?.get(self.0).map(String::as_str)
    }

    /// The rest of each name that begins so, with the value, sorted.
    pub fn all_of(self, spec: &Spec) -> Vec<(&str, &str)> {
        let pairs = spec.annotations().iter().flatten();
        let mut found: Vec<_> = pairs.filter_map(|(name, value)| Some((name.strip_prefix(self.0)?, value.as_str()))).collect();
        found.sort_unstable();
        found
    }

    fn covers(self, name: &str) -> bool {
        if self.0.ends_with('.') { name.starts_with(self.0) } else { name == self.0 }
    }
}

/// Warns of annotations that other runtimes honour and this one does not.
pub fn warn_of_others(spec: &Spec, findings: &mut Findings) {
    let mut names: Vec<&String> = spec.annotations().iter().flatten().map(|(name, _)| name).collect();
    names.sort_unstable();
    for name in names {
        let is_known = KNOWN.iter().any(|prefix| name.starts_with(prefix));
        if is_known && !HONOURED.iter().any(|honoured| honoured.covers(name)) {
            let hint = nearest::hint(name, HONOURED.iter().map(|honoured| honoured.0));
            findings.warn(format!("annotations[{name:?}]: not honoured by this runtime{hint}"));
        }
    }
}

/// The caller's supplementary groups stay.
pub fn keeps_groups(spec: &Spec) -> bool {
    KEEP_GROUPS.of(spec).is_some()
}

/// Unknown system calls in the profile are refused.
pub fn refuses_unknown_syscalls(spec: &Spec) -> bool {
    FAIL_UNKNOWN.of(spec).is_some()
}

/// Where hooks write: standard output and standard error, absolute.
pub fn hook_outputs(spec: &Spec, findings: &mut Findings) -> [Option<PathBuf>; 2] {
    [HOOKS_STDOUT, HOOKS_STDERR].map(|annotation| {
        let path = PathBuf::from(annotation.of(spec)?);
        if !path.is_absolute() {
            findings.deny(format!("annotations[{:?}]", annotation.name()), format!("{path:?} is not absolute"), "");
        }
        Some(path)
    })
}

/// Puts into fields what annotations say in their place.
pub fn settle(spec: &mut Spec) {
    let Some(receiver) = RECEIVER.of(spec).map(PathBuf::from) else { return };
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
        let (mut spec, _) = crate::config::parse(text).unwrap();
        settle(&mut spec);
        let profile = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap();
        assert_eq!(profile.listener_path().as_deref(), Some(std::path::Path::new("/run/r")));
        assert!(keeps_groups(&spec) && !refuses_unknown_syscalls(&spec));
        let mut findings = Findings::default();
        assert_eq!(hook_outputs(&spec, &mut findings), [None, Some("log".into())]);
        assert_eq!(findings.violations[0].path, "annotations[\"run.oci.hooks.stderr\"]");
    }

    #[test]
    fn every_annotation_that_is_honoured_is_listed_as_unsafe() {
        for annotation in HONOURED {
            assert!(UNSAFE.iter().any(|entry| Annotation(entry).covers(annotation.name())), "{}", annotation.name());
        }
    }

    #[test]
    fn annotations_of_other_runtimes_are_worth_a_warning() {
        let text = br#"{"annotations":{"run.oci.handler":"krun","krun.cpus":"1","module.wasm.image/variant":"x","com.example":"y",
            "run.oci.keep_original_group":"1","run.oci.keep_original_groups":"1","org.systemd.property.TimeoutStopUSec":"1"}}"#;
        let (spec, _) = crate::config::parse(text).unwrap();
        let mut findings = Findings::default();
        warn_of_others(&spec, &mut findings);
        let names: Vec<&str> = findings.warnings.iter().filter_map(|warning| warning.split('"').nth(1)).collect();
        assert_eq!(names, ["krun.cpus", "module.wasm.image/variant", "run.oci.handler", "run.oci.keep_original_group"]);
        assert!(findings.warnings[3].ends_with("(did you mean \"run.oci.keep_original_groups\"?)"), "{:?}", findings.warnings);
    }
}
