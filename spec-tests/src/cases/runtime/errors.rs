//! runtime.md, Errors and Warnings: an error changes nothing. The search for leaks follows each case.

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Bundle, Case, Fixture, Level};

const SECTION: &str = "runtime.md#errors";

/// Failures of create, from its first step to its last.
pub const CASES: &[Case] = &[
    Case::new("a create that fails by its configuration leaves nothing", SECTION, Level::Must, |fixture| {
        leaves_nothing(fixture, |bundle| {
            bundle.set("/process/rlimits", json!([{ "type": "RLIMIT_X", "soft": 1, "hard": 1 }]))
        })
    }),
    Case::new("a create that fails by a mount leaves nothing", SECTION, Level::Must, |fixture| {
        leaves_nothing(fixture, |bundle| bundle.mount("/tmp", "tmpfs", "tmpfs", &["nosuchoption"]))
    }),
    Case::new("a create that fails by a namespace to join leaves nothing", SECTION, Level::Must, |fixture| {
        leaves_nothing(fixture, |bundle| bundle.namespace("network", Some("/nowhere/at/all")))
    }),
    Case::new("a create that fails by a hook leaves nothing", SECTION, Level::Must, |fixture| {
        leaves_nothing(fixture, |bundle| bundle.hook("createRuntime", "failing", &["exit", "1"]))
    }),
    Case::new("a create that fails by a hook in the container leaves nothing", SECTION, Level::Must, |fixture| {
        leaves_nothing(fixture, |bundle| bundle.hook("createContainer", "failing", &["exit", "1"]))
    }),
    Case::new("a create that fails by a sysctl leaves nothing", SECTION, Level::Must, |fixture| {
        leaves_nothing(fixture, |bundle| bundle.set("/linux/sysctl", json!({ "net.no.such.thing": "1" })))
    }),
    Case::new("an id whose create has failed can be used again", SECTION, Level::Must, again),
    Case::new("a create that fails leaves the root file system unchanged", SECTION, Level::Must, root_untouched),
];

fn leaves_nothing(fixture: &Fixture, change: fn(&mut Bundle) -> &mut Bundle) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]);
    change(&mut bundle);
    fixture.refused(&bundle).map(drop)
}

fn again(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "exit", "0"]).mount("/tmp", "tmpfs", "tmpfs", &["nosuchoption"]).write()?;
    let id = fixture.id();
    let path = bundle.path().to_string_lossy().into_owned();
    fixture.call(&["create", "--bundle", &path, &id])?.refused()?;
    bundle.set("/mounts/5/options", json!([])).write()?;
    fixture.call(&["run", "--bundle", &path, &id])?.ok().context("the second time").map(drop)
}

fn root_untouched(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.hook("createRuntime", "failing", &["exit", "1"]);
    let list = |bundle: &Bundle, inside: &str| -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(bundle.rootfs(inside))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != "log");
        names.sort();
        Ok(names)
    };
    let before = (list(&bundle, "/")?, list(&bundle, "/dev")?);
    fixture.refused(&bundle)?;
    let after = (list(&bundle, "/")?, list(&bundle, "/dev")?);
    ensure!(before == after, "the root file system: expected {before:?} as before, found {after:?}");
    Ok(())
}
