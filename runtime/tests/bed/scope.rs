//! Scopes of systemd, for tests of its cgroup manager.

use std::process::Command;

use brig_plan::Finished;
use brig_plan::cgroup::{CgroupManager, CgroupPlan, of_container};
use oci_spec::runtime::{LinuxResources, Spec};
use serde_json::{Value, json};

/// The plan of the scope `brig-NAME.scope` in `brigtest.slice`.
pub fn plan_of(name: &str, resources: &Value, annotations: &Value) -> Finished<CgroupPlan> {
    let config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "annotations": annotations,
        "linux": {"cgroupsPath": format!("brigtest.slice:brig:{name}"), "resources": resources},
    });
    let spec: Spec = serde_json::from_value(config).expect("a configuration");
    of_container(&spec, name, CgroupManager::Systemd, &super::host()).expect("no violation")
}

/// A unit's property, as systemctl shows it.
pub fn show(unit: &str, property: &str) -> String {
    let output = Command::new("systemctl").args(["show", "--value", "-p", property, unit]).output().expect("systemctl");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `linux.resources`.
pub fn resources(value: Value) -> LinuxResources {
    serde_json::from_value(value).expect("resources")
}
