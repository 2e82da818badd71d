//! Annotations that the runtime honours, in one table; `features` prints its list from there.

use std::path::PathBuf;

use oci_spec::runtime::Spec;

use super::{Findings, nearest};

/// A honoured annotation; its methods are the only way to read one. [`UNSAFE`] covers each of them.
#[derive(Clone, Copy, Debug)]
pub struct Annotation(&'static str);

macro_rules! honoured {
    ($($(#[$doc:meta])+ $constant:ident = $name:literal,)+) => {
        $($(#[$doc])+ pub const $constant: Annotation = Annotation($name);)+

        /// Every honoured annotation. A name that ends in a dot is a prefix of many names.
        pub const HONOURED: &[Annotation] = &[$($constant),+];
    };
}

honoured! {
    /// Keeps the caller's supplementary groups: setgroups(2) is not called.
    KEEP_GROUPS = "run.oci.keep_original_groups",
    /// The unix socket that receives the seccomp listener, in place of listenerPath.
    RECEIVER = "run.oci.seccomp.receiver",
    /// Makes an unknown system call in the profile an error.
    FAIL_UNKNOWN = "run.oci.seccomp_fail_unknown_syscall",
    /// The file to which hooks in the runtime namespace append their standard output.
    HOOKS_STDOUT = "run.oci.hooks.stdout",
    /// The file for the standard error of the same hooks.
    HOOKS_STDERR = "run.oci.hooks.stderr",
    /// The mount option that carries linux.mountLabel.
    MOUNT_CONTEXT = "run.oci.mount_context_type",
    /// The cgroup below the systemd scope's that the container is placed in.
    SUBGROUP = "run.oci.systemd.subgroup",
    /// A configuration file for CRIU, honoured by runc too.
    CRIU_CONFIG = "org.criu.config",
    /// Prefix of properties of the container's systemd unit.
    SYSTEMD_PROPERTY = "org.systemd.property.",
    /// The group annotation of containerd: containers with the same value share a shim process.
    SHIM_GROUP = "io.containerd.runc.v2.group",
    /// The CRI's equivalent of [`SHIM_GROUP`].
    SHIM_SANDBOX = "io.kubernetes.cri.sandbox-id",
}

/// The list that `features` prints as potentiallyUnsafeConfigAnnotations (features.md): names, and prefixes that end
/// in a dot.
pub const UNSAFE: [&str; 5] = [
    "io.containerd.runc.v2.group",
    "io.kubernetes.cri.sandbox-id",
    "org.criu.config",
    "org.systemd.property.",
    "run.oci.",
];

/// Prefixes of annotations that other runtimes honour; a name with such a prefix that brig does not honour causes a
/// warning.
const KNOWN: [&str; 3] = ["run.oci.", "krun.", "module.wasm."];

impl Annotation {
    /// The key in the configuration's `annotations`.
    pub const fn name(self) -> &'static str {
        self.0
    }

    /// The annotation's value in the configuration.
    pub fn get(self, spec: &Spec) -> Option<&str> {
        spec.annotations().as_ref()?.get(self.0).map(String::as_str)
    }

    /// The suffix and value of each annotation that begins with this prefix, sorted.
    pub(crate) fn all_of(self, spec: &Spec) -> Vec<(&str, &str)> {
        let pairs = spec.annotations().iter().flatten();
        let mut found: Vec<_> =
            pairs.filter_map(|(name, value)| Some((name.strip_prefix(self.0)?, value.as_str()))).collect();
        found.sort_unstable();
        found
    }

    fn covers(self, name: &str) -> bool {
        if self.0.ends_with('.') { name.starts_with(self.0) } else { name == self.0 }
    }
}

/// Warns of annotations that only other runtimes honour.
pub(crate) fn warn_of_others(spec: &Spec, findings: &mut Findings) {
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

pub(crate) fn keeps_groups(spec: &Spec) -> bool {
    KEEP_GROUPS.get(spec).is_some()
}

/// Whether an unknown system call in the seccomp profile is an error, and not a warning.
pub fn refuses_unknown_syscalls(spec: &Spec) -> bool {
    FAIL_UNKNOWN.get(spec).is_some()
}

/// The files for the hooks' standard output and standard error; absolute paths.
pub(crate) fn hook_outputs(spec: &Spec, findings: &mut Findings) -> [Option<PathBuf>; 2] {
    [HOOKS_STDOUT, HOOKS_STDERR].map(|annotation| {
        let path = PathBuf::from(annotation.get(spec)?);
        if !path.is_absolute() {
            findings.deny(format!("annotations[{:?}]", annotation.name()), format!("{path:?} is not absolute"), "");
        }
        Some(path)
    })
}

/// Overrides the fields that annotations stand in for.
pub fn apply_overrides(spec: &mut Spec) {
    let Some(receiver) = RECEIVER.get(spec).map(PathBuf::from) else { return };
    let profile = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    if let Some(profile) = profile {
        profile.set_listener_path(Some(receiver));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_override_fields_and_a_relative_hook_output_is_refused() {
        let text = br#"{"annotations":{"run.oci.seccomp.receiver":"/run/r","run.oci.keep_original_groups":"1",
            "run.oci.hooks.stderr":"log"},"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[]}}}"#;
        let (mut spec, _) = crate::config::parse(text).unwrap();
        apply_overrides(&mut spec);
        let profile = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap();
        assert_eq!(profile.listener_path().as_deref(), Some(std::path::Path::new("/run/r")));
        assert!(keeps_groups(&spec) && !refuses_unknown_syscalls(&spec));
        let mut findings = Findings::default();
        assert_eq!(hook_outputs(&spec, &mut findings), [None, Some("log".into())]);
        assert_eq!(findings.violations[0].path, "annotations[\"run.oci.hooks.stderr\"]");
    }

    #[test]
    fn every_honoured_annotation_is_listed_as_unsafe() {
        for annotation in HONOURED {
            assert!(UNSAFE.iter().any(|entry| Annotation(entry).covers(annotation.name())), "{}", annotation.name());
        }
    }

    #[test]
    fn annotations_of_other_runtimes_cause_a_warning() {
        let text = br#"{"annotations":{"run.oci.handler":"krun","krun.cpus":"1","module.wasm.image/variant":"x","com.example":"y",
            "run.oci.keep_original_group":"1","run.oci.keep_original_groups":"1","org.systemd.property.TimeoutStopUSec":"1"}}"#;
        let (spec, _) = crate::config::parse(text).unwrap();
        let mut findings = Findings::default();
        warn_of_others(&spec, &mut findings);
        let names: Vec<&str> = findings.warnings.iter().filter_map(|warning| warning.split('"').nth(1)).collect();
        assert_eq!(names, ["krun.cpus", "module.wasm.image/variant", "run.oci.handler", "run.oci.keep_original_group"]);
        assert!(
            findings.warnings[3].ends_with("(did you mean \"run.oci.keep_original_groups\"?)"),
            "{:?}",
            findings.warnings
        );
    }
}
