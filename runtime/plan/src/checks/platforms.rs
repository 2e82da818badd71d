//! What is written for other platforms.

use oci_spec::runtime::Spec;

use crate::{Findings, Host};

/// Configurations of other platforms may travel in one file; nobody reads them here, runc does not either.
pub(super) fn what_runc_ignores_too(spec: &Spec, _: &Host, findings: &mut Findings) {
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
