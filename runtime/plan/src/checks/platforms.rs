//! Sections for other platforms.

use oci_spec::runtime::Spec;

use crate::{Findings, Host};

/// One configuration may serve several platforms: sections for others are ignored with a warning, as by runc.
pub(super) fn other_platforms_are_ignored(spec: &Spec, _: &Host, findings: &mut Findings) {
    let others = [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ];
    for (name, _) in others.into_iter().filter(|(_, set)| *set) {
        findings.warn(format!("{name}: ignored on Linux"));
    }
}
