//! Cgroups for one test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use brig_engine::cgroup::Cgroup;
use brig_plan::Finished;
use brig_plan::cgroup::{CgroupManager, CgroupPlan, of_container};
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{Gated, host};

/// The plan of a cgroup at `path` with `linux.resources`.
pub fn plan_of(path: &str, resources: &Value) -> Result<Finished<CgroupPlan>, brig_engine::error::Error> {
    plan_of_config(json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "linux": {"cgroupsPath": path, "resources": resources},
    }))
}

/// The plan of the cgroup of this configuration.
pub fn plan_of_config(config: Value) -> Result<Finished<CgroupPlan>, brig_engine::error::Error> {
    let spec: Spec = serde_json::from_value(config).expect("a configuration");
    Ok(of_container(&spec, "brig-test", CgroupManager::Cgroupfs, &host())?)
}

/// A cgroup that is removed at the end of the test, with everything in it.
pub struct Scratch(pub Cgroup);

impl Scratch {
    pub fn new(name: &str, resources: &Value) -> Scratch {
        let path = format!("/brig-test-{name}-{}", std::process::id());
        Scratch(Cgroup::create(&plan_of(&path, resources).expect("a plan")).expect("a cgroup"))
    }

    pub fn enter(&mut self, process: &Gated) {
        if self.0.clone_target().is_some() {
            let path = &self.0.record().paths[""];
            std::fs::write(path.join("cgroup.procs"), process.pid().to_string()).expect("the cgroup takes a process");
        }
        self.0.attach(process.pid()).expect("the process enters");
    }

    pub fn path(&self, controller: &str) -> PathBuf {
        let paths: BTreeMap<String, PathBuf> = self.0.record().paths;
        paths.get(controller).or_else(|| paths.get("")).expect("a directory").clone()
    }

    pub fn read(&self, controller: &str, file: &str) -> String {
        let path = self.path(controller).join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.trim().to_owned()
    }

    pub fn gone(&self) -> bool {
        self.0.record().paths.values().all(|path| !path.exists())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.0.kill_all(libc::SIGKILL);
        let _ = self.0.destroy();
    }
}
