//! The sysctls that belong to a namespace of the container; all others would change the host and are refused.

use oci_spec::runtime::Spec;

use super::{is_apart_from_host, linux};
use crate::namespaces::NamespaceKind;
use crate::{Findings, Host};

/// The sysctls of the ipc namespace (ipc_namespaces(7), kernel/ipc/ipc_sysctl.c).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Normalises a sysctl's name to dots between its parts. As in sysctl.d(5), the first separator decides: after a
/// slash, slashes separate and a dot is part of a name (`net/ipv4/conf/eth0.1/forwarding`).
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']).map(|at| name.as_bytes()[at]) {
        Some(b'/') => name
            .chars()
            .map(|sign| {
                if sign == '/' {
                    '.'
                } else if sign == '.' {
                    '/'
                } else {
                    sign
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

pub(super) fn sysctls_are_namespaced(spec: &Spec, host: &Host, findings: &mut Findings) {
    let Some(sysctls) = linux(spec).and_then(|linux| linux.sysctl().as_ref()) else { return };
    let is_apart = |kind| is_apart_from_host(spec, host, kind);
    let mut names: Vec<&String> = sysctls.keys().collect();
    names.sort();
    for name in names {
        if let Err((reason, remedy)) = allowed(&dotted(name), &is_apart) {
            findings.deny(format!("linux.sysctl[{name:?}]"), reason, remedy);
        }
    }
}

fn allowed(name: &str, is_apart: &dyn Fn(NamespaceKind) -> bool) -> Result<(), (String, &'static str)> {
    if name.split('.').any(|part| part.is_empty() || part.split('/').any(|step| step.is_empty() || step == "..")) {
        return Err((format!("{name:?} is no sysctl"), "write names with dots between them"));
    }
    if IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        return if is_apart(NamespaceKind::Ipc) {
            Ok(())
        } else {
            let reason = format!("sysctl {name:?} is not allowed in the hosts ipc namespace");
            Err((reason, "add {\"type\": \"ipc\"} to linux.namespaces"))
        };
    }
    if name.starts_with("net.") {
        return if is_apart(NamespaceKind::Network) {
            Ok(())
        } else {
            let reason = format!("sysctl {name:?} not allowed in host network namespace");
            Err((reason, "add {\"type\": \"network\"} to linux.namespaces"))
        };
    }
    match name {
        "kernel.domainname" if is_apart(NamespaceKind::Uts) => Ok(()),
        "kernel.hostname" if is_apart(NamespaceKind::Uts) => {
            let reason = format!("sysctl {name:?} is not allowed as it conflicts with the OCI \"hostname\" field");
            Err((reason, "set hostname instead"))
        }
        _ => Err((format!("sysctl {name:?} is not in a separate kernel namespace"), "set it on the host")),
    }
}
