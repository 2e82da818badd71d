//! Annotations that become unit properties affect nothing of the host but the container's own unit.
//!
//! A manager that passes on the annotations of a pod, as CRI-O did, lets the creator of the pod choose them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use anyhow::ensure;
use serde_json::json;

use super::unless_refused;
use crate::harness::{Case, Fixture, Level, Need, wait_until};

const SECTION: &str = "CVE-2024-3154";

/// Where systemd is asked for the container's cgroup.
pub const CASES: &[Case] = &[
    Case::new("an annotation starts and stops no unit of the host", SECTION, Level::Security, units)
        .on(&[Need::Systemd]),
    Case::new(
        "an annotation takes no process of the host into the container's unit",
        SECTION,
        Level::Security,
        processes,
    )
    .on(&[Need::Systemd]),
    Case::new("an annotation gives systemd no action for the exit of a container", SECTION, Level::Security, actions)
        .on(&[Need::Systemd]),
];

/// A unit of the host, which is removed on drop.
struct Unit<'a>(&'a Fixture, String);

impl<'a> Unit<'a> {
    fn make(fixture: &'a Fixture, program: &str) -> anyhow::Result<Unit<'a>> {
        let unit = Unit(fixture, format!("{}.service", fixture.id()));
        fs::write(unit.file(), format!("[Service]\nExecStart={program}\nRemainAfterExit=yes\n"))?;
        fixture.tool("systemctl", &["daemon-reload"])?.ok()?;
        Ok(unit)
    }

    fn file(&self) -> std::path::PathBuf {
        Path::new("/run/systemd/system").join(&self.1)
    }

    fn is_active(&self) -> anyhow::Result<bool> {
        Ok(self.0.tool("systemctl", &["is-active", "--quiet", &self.1])?.code == 0)
    }
}

impl Drop for Unit<'_> {
    fn drop(&mut self) {
        let _ = self.0.tool("systemctl", &["stop", &self.1]);
        let _ = fs::remove_file(self.file());
        let _ = self.0.tool("systemctl", &["daemon-reload"]);
    }
}

/// Runs a container with the property as an annotation; whether it was taken.
fn with_property(fixture: &Fixture, name: &str, value: &str) -> anyhow::Result<bool> {
    let mut bundle = fixture.bundle()?;
    let mut annotations = json!({});
    annotations[format!("org.systemd.property.{name}")] = json!(value);
    bundle.set("/annotations", annotations).args(&["/probe", "exit", "0"]);
    Ok(unless_refused(fixture.run(&bundle)?)?.is_some())
}

fn units(fixture: &Fixture) -> anyhow::Result<()> {
    let unit = Unit::make(fixture, "/bin/sleep 1000")?;
    let value = format!("['{}']", unit.1);
    for name in ["Wants", "Requires", "OnSuccess"] {
        with_property(fixture, name, &value)?;
        wait_until("systemd to have no job for the unit", || {
            let jobs = fixture.tool("systemctl", &["list-jobs", "--no-legend"])?.ok()?.stdout;
            Ok((!jobs.contains(&unit.1)).then_some(()))
        })?;
        ensure!(!unit.is_active()?, "{name}: expected {} not to be started", unit.1);
    }
    fixture.tool("systemctl", &["start", &unit.1])?.ok()?;
    with_property(fixture, "Conflicts", &value)?;
    ensure!(unit.is_active()?, "Conflicts: expected {} to run on", unit.1);
    Ok(())
}

/// A process of the host, killed in the end.
struct Bystander(Child);

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn processes(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bystander = Bystander(Command::new("sleep").arg("1000").spawn()?);
    let place = format!("/proc/{}/cgroup", bystander.0.id());
    let before = fs::read_to_string(&place)?;
    with_property(fixture, "PIDs", &format!("[uint32 {}]", bystander.0.id()))?;
    let after = fs::read_to_string(&place)?;
    ensure!(bystander.0.try_wait()?.is_none(), "a process of the host was killed with the container");
    ensure!(after == before, "a process of the host was moved from {before} to {after}");
    Ok(())
}

/// Some of them power the machine off, which no test can observe: a property that is not refused counts as effective.
fn actions(fixture: &Fixture) -> anyhow::Result<()> {
    for (name, value) in [("SuccessAction", "'none'"), ("FailureAction", "'none'"), ("JobTimeoutAction", "'none'")] {
        ensure!(!with_property(fixture, name, value)?, "{name}: expected a refusal, found it taken");
    }
    Ok(())
}
