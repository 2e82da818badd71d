//! User namespace id mappings: checks, the text of uid_map and gid_map, and translation (user_namespaces(7)).

use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use super::Findings;

/// Limit of the kernel's lines in uid_map (UID_GID_MAP_MAX_EXTENTS, linux/user_namespace.h).
const MAX_RANGES: usize = 340;

/// A range of `size` ids: from `container` on inside the user namespace, from `host` on outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// First id inside the user namespace.
    pub container: u32,
    /// First id outside the user namespace.
    pub host: u32,
    /// The number of ids.
    pub size: u32,
}

/// The mappings of one kind, user or group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// Ranges in the configuration's order.
    pub ranges: Vec<IdRange>,
}

impl IdMap {
    /// Converts the configuration's `uidMappings` or `gidMappings`.
    pub fn new(mappings: Option<&[LinuxIdMapping]>) -> IdMap {
        let range = |mapping: &LinuxIdMapping| IdRange {
            container: mapping.container_id(),
            host: mapping.host_id(),
            size: mapping.size(),
        };
        IdMap { ranges: mappings.unwrap_or_default().iter().map(range).collect() }
    }

    /// Parses the text of /proc/PID/uid_map or gid_map; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<IdMap> {
        let range = |line: &str| {
            let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
            let mut next = || numbers.next().flatten();
            Some(IdRange { container: next()?, host: next()?, size: next()? })
        };
        Some(IdMap { ranges: text.lines().map(range).collect::<Option<_>>()? })
    }

    /// Whether no id is mapped.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Translates a container id to the id outside; `None` where it is not mapped.
    pub fn host_id(&self, container: u32) -> Option<u32> {
        translate(&self.ranges, container, |range| (range.container, range.host))
    }

    /// Translates an id outside to the container's id; `None` where it is not mapped.
    pub fn container_id(&self, host: u32) -> Option<u32> {
        translate(&self.ranges, host, |range| (range.host, range.container))
    }

    /// Formats the map for /proc/PID/uid_map: a line `container host size` for each range.
    pub fn text(&self) -> String {
        use std::fmt::Write;
        self.ranges.iter().fold(String::new(), |mut text, range| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{} {} {}", range.container, range.host, range.size);
            text
        })
    }

    /// Reports ranges that the kernel would refuse with a bare EINVAL. `path` is the list's JSON path.
    pub fn check(&self, path: &str, findings: &mut Findings) {
        if self.ranges.len() > MAX_RANGES {
            findings.deny(path, format!("{} mappings: the kernel takes {MAX_RANGES}", self.ranges.len()), "");
            return;
        }
        for (index, range) in self.ranges.iter().enumerate() {
            let at = format!("{path}[{index}]");
            if range.size == 0 {
                findings.deny(&at, "size is 0", "map at least one id");
                continue;
            }
            for (name, first) in [("containerID", range.container), ("hostID", range.host)] {
                // u32::MAX means "no id" to the kernel, so the last id must be below it.
                if first.checked_add(range.size).is_none() {
                    findings.deny(&at, format!("{name} + size goes past the last id, {}", u32::MAX - 1), "");
                }
            }
            for (other, earlier) in self.ranges[..index].iter().enumerate() {
                let clash = |a: u32, b: u32| {
                    u64::from(a) < u64::from(b) + u64::from(earlier.size)
                        && u64::from(b) < u64::from(a) + u64::from(range.size)
                };
                if clash(range.container, earlier.container) || clash(range.host, earlier.host) {
                    findings.deny(&at, format!("overlaps {path}[{other}]"), "map each id once");
                }
            }
        }
    }
}

fn translate(ranges: &[IdRange], id: u32, sides: impl Fn(&IdRange) -> (u32, u32)) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let (from, to) = sides(range);
        let offset = id.checked_sub(from).filter(|offset| *offset < range.size)?;
        to.checked_add(offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(ranges: &[(u32, u32, u32)]) -> IdMap {
        IdMap { ranges: ranges.iter().map(|&(container, host, size)| IdRange { container, host, size }).collect() }
    }

    fn faults(ranges: &[(u32, u32, u32)]) -> Vec<String> {
        let mut findings = Findings::default();
        map(ranges).check("linux.uidMappings", &mut findings);
        findings.violations.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ids_translate_both_ways() {
        let map = map(&[(0, 100_000, 10), (10, 5, 1)]);
        assert_eq!(map.text(), "0 100000 10\n10 5 1\n");
        assert_eq!(
            IdMap::parse("         0     100000         10\n        10          5          1\n"),
            Some(map.clone())
        );
        assert_eq!((IdMap::parse(""), IdMap::parse("0 x 1\n")), (Some(IdMap::default()), None));
        assert_eq!((map.host_id(9), map.host_id(10), map.host_id(11)), (Some(100_009), Some(5), None));
        assert_eq!((map.container_id(5), map.container_id(100_010)), (Some(10), None));
    }

    #[test]
    fn ranges_that_the_kernel_refuses_are_named() {
        assert!(faults(&[(0, 0, u32::MAX)]).is_empty());
        assert_eq!(faults(&[(0, 1, 0)]), ["linux.uidMappings[0]: size is 0 (map at least one id)"]);
        assert_eq!(
            faults(&[(0, 1000, 10), (9, 2000, 1)]),
            ["linux.uidMappings[1]: overlaps linux.uidMappings[0] (map each id once)"]
        );
        assert_eq!(faults(&[(0, 1000, 10), (20, 1009, 1)]).len(), 1);
        assert_eq!(faults(&[(1, 0, u32::MAX)]).len(), 1);
        assert_eq!(faults(&[(0, 0, 1); 341]).first().map(|fault| fault.contains("the kernel takes 340")), Some(true));
    }

    proptest! {
        #[test]
        fn a_map_without_faults_is_one_to_one(
            ranges in proptest::collection::vec((0u32..50, 0u32..50, 1u32..20), 0..6),
            id in 0u32..80,
        ) {
            prop_assume!(faults(&ranges).is_empty());
            let map = map(&ranges);
            if let Some(host) = map.host_id(id) {
                prop_assert_eq!(map.container_id(host), Some(id));
            }
        }
    }
}
