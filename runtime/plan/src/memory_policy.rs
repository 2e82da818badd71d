//! linux.memoryPolicy (config-linux.md, Memory policy): the arguments of set_mempolicy(2).

use oci_spec::runtime::{Linux, MemoryPolicyFlagType, MemoryPolicyModeType};
use serde::{Deserialize, Serialize};

use super::Findings;

/// Limit of node numbers (CONFIG_NODES_SHIFT is at most 10, mm/Kconfig).
const MAX_NODES: u32 = 1024;

/// Modes and their numbers (linux/mempolicy.h), sorted by name. `features` prints the names.
pub const MODES: [(&str, u32); 7] = [
    ("MPOL_BIND", 2),
    ("MPOL_DEFAULT", 0),
    ("MPOL_INTERLEAVE", 3),
    ("MPOL_LOCAL", 4),
    ("MPOL_PREFERRED", 1),
    ("MPOL_PREFERRED_MANY", 5),
    ("MPOL_WEIGHTED_INTERLEAVE", 6),
];

/// Mode flags and their bits (linux/mempolicy.h), sorted by name. `features` prints the names.
pub const FLAGS: [(&str, u32); 3] =
    [("MPOL_F_NUMA_BALANCING", 1 << 13), ("MPOL_F_RELATIVE_NODES", 1 << 14), ("MPOL_F_STATIC_NODES", 1 << 15)];

/// The memory policy of a process and its children.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MemoryPolicy {
    /// An MPOL_* mode, with its MPOL_F_* flags.
    pub mode: u32,
    /// Node numbers, each below 1024.
    pub nodes: Vec<u32>,
}

/// Plans linux.memoryPolicy. Violations go to `findings`.
pub(crate) fn build(linux: Option<&Linux>, findings: &mut Findings) -> Option<MemoryPolicy> {
    let policy = linux?.memory_policy().as_ref()?;
    let number = |table: &[(&str, u32)], name: &str| {
        table.iter().find(|(known, _)| *known == name).map_or(0, |(_, number)| *number)
    };
    let mode = policy.mode();
    let flags = policy.flags().as_deref().unwrap_or_default();
    let text = policy.nodes().as_deref().unwrap_or_default();
    let nodes = nodes(text).unwrap_or_else(|reason| {
        findings.deny("linux.memoryPolicy.nodes", reason, "write numbers and ranges such as 0-3,7");
        Vec::new()
    });
    match mode {
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal if !nodes.is_empty() => {
            findings.deny("linux.memoryPolicy.nodes", format!("{mode} takes no nodes, found {text:?}"), "leave it out");
        }
        MemoryPolicyModeType::MpolDefault | MemoryPolicyModeType::MpolLocal | MemoryPolicyModeType::MpolPreferred => {}
        _ if text.trim().is_empty() => {
            findings.deny(
                "linux.memoryPolicy.nodes",
                format!("{mode} takes at least one node, found none"),
                "name one",
            );
        }
        _ => {}
    }
    let both = [MemoryPolicyFlagType::MpolFStaticNodes, MemoryPolicyFlagType::MpolFRelativeNodes];
    if both.iter().all(|flag| flags.contains(flag)) {
        let reason = "MPOL_F_STATIC_NODES and MPOL_F_RELATIVE_NODES exclude each other";
        findings.deny("linux.memoryPolicy.flags", reason, "set one of them");
    }
    let flags = flags.iter().fold(0, |bits, flag| bits | number(&FLAGS, &flag.to_string()));
    Some(MemoryPolicy { mode: number(&MODES, &mode.to_string()) | flags, nodes })
}

/// Parses a list such as `0-3,7`.
fn nodes(list: &str) -> Result<Vec<u32>, String> {
    let mut nodes = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|number| digits && *number < MAX_NODES);
            number.ok_or_else(|| format!("{part:?} is no node or range of nodes below {MAX_NODES}"))
        };
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{part:?} ends before it begins"));
        }
        nodes.extend(first..=last);
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(policy: &str) -> (Option<MemoryPolicy>, Vec<String>) {
        let linux: Linux = serde_json::from_str(&format!(r#"{{"memoryPolicy":{policy}}}"#)).unwrap();
        let mut findings = Findings::default();
        let policy = build(Some(&linux), &mut findings);
        (policy, findings.violations.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn modes_flags_and_nodes_become_the_arguments_of_the_call() {
        let (policy, faults) = read(r#"{"mode":"MPOL_INTERLEAVE","nodes":"0-2, 7","flags":["MPOL_F_STATIC_NODES"]}"#);
        assert_eq!((policy, faults), (Some(MemoryPolicy { mode: 3 | 1 << 15, nodes: vec![0, 1, 2, 7] }), vec![]));
        for (name, number) in MODES {
            let nodes = if matches!(name, "MPOL_DEFAULT" | "MPOL_LOCAL") { "" } else { "0" };
            let (policy, faults) = read(&format!(r#"{{"mode":"{name}","nodes":"{nodes}"}}"#));
            assert_eq!((policy.map(|policy| policy.mode), faults), (Some(number), vec![]), "{name}");
        }
        assert_eq!(build(None, &mut Findings::default()), None);
    }

    #[test]
    fn policies_that_the_kernel_refuses_with_a_bare_errno_are_named() {
        for (policy, fault) in [
            (r#"{"mode":"MPOL_DEFAULT","nodes":"0"}"#, "linux.memoryPolicy.nodes: MPOL_DEFAULT takes no nodes"),
            (r#"{"mode":"MPOL_BIND"}"#, "linux.memoryPolicy.nodes: MPOL_BIND takes at least one node"),
            (r#"{"mode":"MPOL_BIND","nodes":"x"}"#, "linux.memoryPolicy.nodes: \"x\" is no node"),
            (r#"{"mode":"MPOL_BIND","nodes":"+1"}"#, "linux.memoryPolicy.nodes: \"+1\" is no node"),
            (r#"{"mode":"MPOL_BIND","nodes":"3-1"}"#, "linux.memoryPolicy.nodes: \"3-1\" ends before it begins"),
            (r#"{"mode":"MPOL_BIND","nodes":"1024"}"#, "linux.memoryPolicy.nodes: \"1024\" is no node"),
            (
                r#"{"mode":"MPOL_BIND","nodes":"0","flags":["MPOL_F_STATIC_NODES","MPOL_F_RELATIVE_NODES"]}"#,
                "linux.memoryPolicy.flags: ",
            ),
        ] {
            let (_, faults) = read(policy);
            assert!(faults.iter().any(|found| found.starts_with(fault)), "{fault}: {faults:?}");
            assert_eq!(faults.len(), 1, "{faults:?}");
        }
    }
}
