//! state, list, ps, statistics: the read-only verbs.

use oci_spec::runtime::Spec;

use super::{Container, Engine, State, Status};
use crate::cgroup::{OomWatch, Stats};
use crate::error::{ErrorKind, Result};
use crate::state::{Verb, allow};
use crate::store;
use brig_plan::passwd;

impl Engine {
    /// The container's current state.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id.
    pub fn state(&self, id: &str) -> Result<State> {
        self.load(id)?.state()
    }

    /// The state of every container of this root, sorted by id. A container that is deleted meanwhile is left out;
    /// one whose record is damaged is left out with a warning.
    ///
    /// # Errors
    /// The root directory cannot be read.
    pub fn list(&self) -> Result<Vec<State>> {
        self.each(Container::state)
    }

    /// The ids of [`Engine::list`], without the cost of the states.
    ///
    /// # Errors
    /// The root directory cannot be read.
    pub fn list_ids(&self) -> Result<Vec<String>> {
        self.each(|container| Ok(container.record.id.clone()))
    }

    fn each<T>(&self, query: impl Fn(&Container) -> Result<T>) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for id in store::ids(&self.root)? {
            match self.load(&id).and_then(|container| query(&container)) {
                Ok(one) => found.push(one),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("{id}: {error}"),
            }
        }
        Ok(found)
    }

    /// The ids on record, sorted; includes containers that are being created or were left half created.
    ///
    /// # Errors
    /// The root directory cannot be read.
    pub fn ids(&self) -> Result<Vec<String>> {
        store::ids(&self.root)
    }

    /// The pids of the container's processes, in the caller's pid namespace; empty once it has stopped.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id; else the record or the cgroup cannot be read.
    pub fn ps(&self, id: &str) -> Result<Vec<i32>> {
        let container = self.load(id)?;
        let status = container.status()?;
        if matches!(status, Status::Stopped | Status::Creating) {
            return Ok(Vec::new());
        }
        let pids = container.cgroup().pids()?;
        // Without its own cgroup, only init is known.
        if pids.is_empty() { Ok(vec![container.record.init_process_pid]) } else { Ok(pids) }
    }

    /// The statistics of the container's cgroup.
    ///
    /// # Errors
    /// [`ErrorKind::NotRunning`] once the container has stopped.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let container = self.load(id)?;
        allow(Verb::Events, container.status()?, id)?;
        container.cgroup().stats()
    }

    /// Creates a watch for OOM kills in the container; `None` without a memory controller.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id, [`ErrorKind::NotRunning`] once the container has stopped.
    pub fn oom_watch(&self, id: &str) -> Result<Option<OomWatch>> {
        let container = self.load(id)?;
        allow(Verb::Events, container.status()?, id)?;
        container.cgroup().oom_watch()
    }

    /// The configuration with which the container was created.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id; else the stored configuration cannot be read.
    pub fn spec(&self, id: &str) -> Result<Spec> {
        self.load(id)?.spec()
    }
}

impl Container {
    fn state(&self) -> Result<State> {
        let status = self.status()?;
        let record = &self.record;
        let live = !matches!(status, Status::Stopped | Status::Creating);
        Ok(State {
            oci_version: record.oci_version.clone(),
            id: self.id.clone(),
            pid: if live { record.init_process_pid } else { 0 },
            status,
            bundle: record.bundle.clone(),
            rootfs: record.config.rootfs.clone(),
            created: record.created.clone(),
            annotations: Some(record.annotations.clone()).filter(|annotations| !annotations.is_empty()),
            owner: owner(record.owner),
        })
    }
}

/// The user's name in the host's passwd file, else the number.
fn owner(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd::name(&passwd, uid).map_or_else(|| uid.to_string(), str::to_owned)
}
