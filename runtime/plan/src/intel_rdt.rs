//! linux.intelRdt (config-linux.md, IntelRdt): a group of the resctrl file system, and its schemata.

use oci_spec::runtime::{Linux, LinuxIntelRdt};

use serde::Serialize;

use super::{Findings, Finished, Refused};

/// The resctrl group of a container.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct IntelRdtPlan {
    /// The `closID` of the configuration: a shared group, which outlives the container. `/` is the root group.
    pub class: Option<String>,
    /// The container's id: the name of its own group when there is no closID, and of its monitoring group.
    pub id: String,
    /// Schemata that an existing group of that name must already have, and that a new one gets: l3CacheSchema, then
    /// memBwSchema.
    pub fixed: Vec<String>,
    /// The `schemata` lines, written last and in any case.
    pub schemata: Vec<String>,
    /// Whether to create a monitoring group.
    pub monitoring: bool,
}

/// Plans linux.intelRdt of the container `id` alone, as [`crate::container::build`] does with the rest.
///
/// # Errors
/// One error that lists every violation.
pub fn of_group(linux: Option<&Linux>, id: &str) -> Result<Option<Finished<IntelRdtPlan>>, Refused> {
    let mut findings = Findings::default();
    let plan = build(linux, id, &mut findings);
    findings.into_result()?;
    Ok(plan.map(Finished::new))
}

/// Plans linux.intelRdt of the container `id`. Violations go to `findings`.
pub(crate) fn build(linux: Option<&Linux>, id: &str, findings: &mut Findings) -> Option<IntelRdtPlan> {
    let rdt = linux?.intel_rdt().as_ref()?;
    let class = rdt.clos_id().clone().filter(|class| !class.is_empty());
    if class.as_deref().is_some_and(|class| matches!(class, "." | "..") || class.len() > 1 && class.contains('/')) {
        findings.deny("linux.intelRdt.closID", format!("invalid intelRdt.ClosID {class:?}"), "use a plain name, or /");
    }
    Some(IntelRdtPlan {
        class,
        id: id.to_owned(),
        fixed: fixed(rdt, findings),
        schemata: lines("linux.intelRdt.schemata", rdt.schemata().iter().flatten(), findings),
        monitoring: rdt.enable_monitoring().unwrap_or(false),
    })
}

fn fixed(rdt: &LinuxIntelRdt, findings: &mut Findings) -> Vec<String> {
    let mut list = Vec::new();
    for (field, prefix, value) in [
        ("linux.intelRdt.l3CacheSchema", "L3:", rdt.l3_cache_schema()),
        ("linux.intelRdt.memBwSchema", "MB:", rdt.mem_bw_schema()),
    ] {
        let Some(value) = value.as_ref().filter(|value| !value.is_empty()) else { continue };
        // With code and data prioritisation the cache has two resources (L3CODE, L3DATA), which only the kernel
        // knows.
        if prefix == "MB:" && !value.trim_start().starts_with(prefix) {
            findings.deny(field, format!("{value:?} does not start with {prefix}"), "");
        }
        list.extend(lines(field, std::iter::once(value), findings));
    }
    list
}

fn lines<'a>(field: &str, values: impl Iterator<Item = &'a String>, findings: &mut Findings) -> Vec<String> {
    let mut list = Vec::new();
    for value in values {
        if value.contains('\n') {
            findings.deny(field, format!("{value:?} is more than one line"), "");
        }
        list.push(value.clone());
    }
    list
}

/// Whether the group's `schemata` file already contains `line`, such as `L3:0=7f0;1=1f`. The file has more domains,
/// and numbers with leading zeros.
pub fn agrees(line: &str, schemata: &str) -> bool {
    let split = |line: &str| -> Option<(String, Vec<(String, String)>)> {
        let (resource, domains) = line.trim().split_once(':')?;
        let domain = |domain: &str| {
            let (number, value) = domain.split_once('=')?;
            let value = value.trim().trim_start_matches('0').to_ascii_lowercase();
            Some((number.trim().to_owned(), value))
        };
        Some((resource.trim().to_owned(), domains.split(';').filter_map(domain).collect()))
    };
    let Some((resource, wanted)) = split(line) else { return false };
    let found = schemata.lines().filter_map(split).find(|(name, _)| *name == resource);
    found.is_some_and(|(_, found)| wanted.iter().all(|domain| found.contains(domain)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rdt: &str) -> (Option<IntelRdtPlan>, Vec<String>) {
        let linux: Linux = serde_json::from_str(&format!(r#"{{"intelRdt":{rdt}}}"#)).unwrap();
        let mut findings = Findings::default();
        let plan = build(Some(&linux), "box", &mut findings);
        (plan, findings.violations.into_iter().map(|violation| violation.path).collect())
    }

    #[test]
    fn lines_are_in_the_order_in_which_they_are_written() {
        let (plan, faults) = read(
            r#"{"closID":"gold","memBwSchema":"MB:0=20","l3CacheSchema":"L3:0=f","schemata":["L2:0=1","MB:0=30"],
                "enableMonitoring":true}"#,
        );
        assert_eq!(faults, [""; 0]);
        let text = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let expected = IntelRdtPlan {
            class: Some("gold".to_owned()),
            id: "box".to_owned(),
            fixed: text(&["L3:0=f", "MB:0=20"]),
            schemata: text(&["L2:0=1", "MB:0=30"]),
            monitoring: true,
        };
        assert_eq!(plan, Some(expected));
        assert_eq!(read("{}").0, Some(IntelRdtPlan { id: "box".to_owned(), ..IntelRdtPlan::default() }));
    }

    #[test]
    fn faults_name_the_field() {
        for bad in [".", "..", "a/b", "../x"] {
            assert_eq!(read(&format!(r#"{{"closID":"{bad}"}}"#)).1, ["linux.intelRdt.closID"], "{bad}");
        }
        assert_eq!(read(r#"{"closID":"/"}"#).1, [""; 0]);
        assert_eq!(read(r#"{"memBwSchema":"L3:0=1"}"#).1, ["linux.intelRdt.memBwSchema"]);
        assert_eq!(read(r#"{"l3CacheSchema":"L3:0=1\nMB:0=1"}"#).1, ["linux.intelRdt.l3CacheSchema"]);
        assert_eq!(read(r#"{"schemata":["a","b\nc"]}"#).1, ["linux.intelRdt.schemata"]);
    }

    #[test]
    fn a_schema_agrees_with_a_file_that_has_more_domains() {
        let file = "    MB:0=100;1= 20\n    L3:0=00f;1=7FF\n";
        assert!(agrees("L3:0=f", file) && agrees("L3:1=7ff;0=0f", file) && agrees("MB:1=20", file));
        assert!(
            !agrees("L3:0=ff", file) && !agrees("L3:2=f", file) && !agrees("L2:0=f", file) && !agrees("nonsense", file)
        );
    }
}
