//! The tables in `data` and the cases agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ALL;
use crate::harness::{Case, Level};

/// A row of data/requirements: what the specification asks for in one place.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    section: String,
    says: String,
    level: Level,
    #[serde(default)]
    cases: Vec<String>,
    /// Why there is no case.
    none: Option<String>,
}

/// A row of data/reference-failures.json: why a reference runtime fails a case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Explanation {
    case: String,
    runtime: String,
    bed: String,
    why: String,
    /// The result depends on a race.
    #[serde(default)]
    sometimes: bool,
    /// Instead of a case (which is `*` then): all cases of the sections that begin so, up to a `*`.
    section: Option<String>,
    /// Instead of a case: every failure whose text this pattern fits.
    says: Option<String>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases() -> impl Iterator<Item = &'static Case> {
    ALL.iter().copied().flatten()
}

fn requirements() -> Vec<(String, Requirement)> {
    let directory = data().join("requirements");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&directory).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let rows = |path: PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        read::<Vec<Requirement>>(&path).into_iter().map(move |row| (file.clone(), row))
    };
    paths.into_iter().flat_map(rows).collect()
}

#[test]
fn requirements_name_cases_or_a_reason() {
    let names: BTreeSet<&str> = cases().map(|case| case.name).collect();
    let mut faults = Vec::new();
    for (file, row) in requirements() {
        let place = format!("{file}: {} {:?}", row.section, row.says);
        if row.cases.is_empty() != row.none.as_deref().is_some_and(|why| !why.trim().is_empty()) {
            faults.push(format!("{place}: expected either cases or a reason why there is none"));
        }
        // Attacks stand in no chapter of the specification.
        let is_attack = row.level == Level::Security && !row.section.contains(".md");
        if !is_attack && !matches!(row.level, Level::Must | Level::Should) {
            faults.push(format!("{place}: {:?} is no level of the specification", row.level));
        }
        let unknown = row.cases.iter().filter(|name| !names.contains(name.as_str()));
        faults.extend(unknown.map(|name| format!("{place}: there is no case {name:?}")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_case_of_the_specification_tests_a_requirement() {
    let named: BTreeSet<String> = requirements().into_iter().flat_map(|(_, row)| row.cases).collect();
    let tables: BTreeSet<String> = requirements().iter().map(|(_, row)| chapter(&row.section)).collect();
    let specified = cases().filter(|case| matches!(case.level, Level::Must | Level::Should));
    let lost: Vec<&str> = specified
        .filter(|case| tables.contains(&chapter(case.section)) && !named.contains(case.name))
        .map(|case| case.name)
        .collect();
    assert!(lost.is_empty(), "in no table of data/requirements: {lost:#?}");
}

#[test]
fn each_attack_is_in_the_table_of_attacks() {
    let named: BTreeSet<(String, String)> = requirements()
        .into_iter()
        .flat_map(|(_, row)| row.cases.into_iter().map(move |case| (row.section.clone(), case)))
        .collect();
    let attacks = cases().filter(|case| case.level == Level::Security && !case.section.contains(':'));
    let lost: Vec<&str> = attacks
        .filter(|case| !case.section.contains(".md"))
        .filter(|case| !named.contains(&(case.section.to_owned(), case.name.to_owned())))
        .map(|case| case.name)
        .collect();
    assert!(lost.is_empty(), "in no row of data/requirements/security.json: {lost:#?}");
}

fn chapter(section: &str) -> String {
    section.split('#').next().unwrap_or(section).to_owned()
}

#[test]
fn sections_are_sections_of_the_specification() {
    let anchors: BTreeMap<String, BTreeSet<String>> = read(&data().join("anchors.json"));
    let is_known = |section: &str| match section.split_once('#') {
        Some((file, anchor)) => anchors.get(file).is_some_and(|known| known.contains(anchor)),
        // A rule of runc's command line, or of security.
        None => !section.contains(".md"),
    };
    let mut unknown: Vec<String> = cases()
        .filter(|case| !is_known(case.section) || (specified(case) && !case.section.contains('#')))
        .map(|case| format!("{}: {}", case.name, case.section))
        .collect();
    let rows = requirements().into_iter().filter(|(_, row)| !is_known(&row.section));
    unknown.extend(rows.map(|(file, row)| format!("{file}: {}", row.section)));
    assert!(unknown.is_empty(), "data/anchors.json has no such section: {unknown:#?}");
}

fn specified(case: &Case) -> bool {
    matches!(case.level, Level::Must | Level::Should)
}

#[test]
fn explanations_are_for_cases_and_reference_runtimes() {
    let path = data().join("reference-failures.json");
    if !path.exists() {
        return;
    }
    let names: BTreeSet<&str> = cases().map(|case| case.name).collect();
    let beds =
        ["*", "host", "v2view", "uml", "uml-systemd", "uml-systemd-v1", "uml-systemd-hybrid", "uml-selinux", "qemu"];
    let mut seen = BTreeSet::new();
    let mut faults = Vec::new();
    for row in read::<Vec<Explanation>>(&path) {
        let section = row.section.as_deref().unwrap_or_default();
        let says = row.says.as_deref().unwrap_or_default();
        let place = format!("{}{section}{says} / {} / {}", row.case, row.runtime, row.bed);
        let start = section.strip_suffix('*').filter(|start| !start.is_empty() && !start.contains('*'));
        match start {
            Some(start) if row.case == "*" => {
                // `features` is optional (features.md): a reference runtime without the command fails its whole chapter.
                let optional = |section: &str, level| level == Level::Runc || section.starts_with("features");
                if !row.sometimes
                    || !cases().any(|case| case.section.starts_with(start) && optional(case.section, case.level))
                {
                    faults.push(format!(
                        "{place}: only commands that a reference runtime need not have are excused by the section, sometimes"
                    ));
                }
            }
            None if names.contains(row.case.as_str()) && section.is_empty() && says.is_empty() => {}
            // A failure of any case must be recognisable by its text.
            None if row.case == "*" && row.sometimes && says.split_whitespace().count() > 3 => {}
            _ => faults.push(format!("{place}: there is no such case")),
        }
        if !["runc 1.1.5", "crun 1.8.1", "youki 0.7"].contains(&row.runtime.as_str()) {
            faults.push(format!("{place}: not a reference runtime, or not its version"));
        }
        if !row.bed.split(',').all(|bed| beds.contains(&bed.trim())) {
            faults.push(format!("{place}: the beds are {beds:?}"));
        }
        if row.why.split_whitespace().count() < 4 {
            faults.push(format!("{place}: {:?} is no explanation", row.why));
        }
        if !seen.insert(place.clone()) {
            faults.push(format!("{place}: explained twice"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
