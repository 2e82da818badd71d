//! What this build does not do yet is refused by name: a field that is set is honoured, or is an error.
#![forbid(unsafe_code)]

use oci_spec::runtime::Spec;

use super::linux;
use crate::plan::{Findings, Host};

const REASON: &str = "not supported yet by this build";

pub(super) fn nothing_is_set_that_is_not_honoured(spec: &Spec, _: &Host, findings: &mut Findings) {
    let mut refuse = |path: String, set: bool| {
        if set {
            findings.deny(path, REASON, "leave it out");
        }
    };
    if let Some(linux) = linux(spec) {
        refuse("linux.intelRdt".into(), linux.intel_rdt().is_some());
    }
}

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
