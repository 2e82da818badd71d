//! state, list, ps, statistics: what only looks.

use oci_spec::runtime::Spec;

use super::{Container, Engine, State, Status};
use crate::cgroup::{OomWatch, Stats};
use crate::error::{ErrorKind, Result};
use brig_plan::passwd;
use crate::state::{Verb, allow};
use crate::store;

impl Engine {
    /// What the container is at this moment.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn state(&self, id: &str) -> Result<State> {
        self.load(id)?.state()
    }

    /// Every container of this root, sorted by id. One that goes away meanwhile is left out; one whose record is
    /// damaged is left out with a warning.
    pub fn list(&self) -> Result<Vec<State>> {
        self.each(Container::state)
    }

    /// The ids of [`Engine::list`], without a look at what the containers are doing.
    pub fn list_ids(&self) -> Result<Vec<String>> {
        self.each(|container| Ok(container.record.id.clone()))
    }

    fn each<T>(&self, look: impl Fn(&Container) -> Result<T>) -> Result<Vec<T>> {
        let mut found = Vec::new();
        for id in store::ids(&self.root)? {
            match self.load(&id).and_then(|container| look(&container)) {
                Ok(one) => found.push(one),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("{id}: {error}"),
            }
        }
        Ok(found)
    }

    /// The ids on record, sorted, those of half-made containers too.
    pub fn ids(&self) -> Result<Vec<String>> {
        store::ids(&self.root)
    }

    /// The pids of every process of the container, in the caller's pid namespace. None once it has stopped.
    pub fn ps(&self, id: &str) -> Result<Vec<i32>> {
        let container = self.load(id)?;
        let status = container.status()?;
        if matches!(status, Status::Stopped | Status::Creating) {
            return Ok(Vec::new());
        }
        let pids = container.cgroup().pids()?;
        // Without a cgroup of its own only init is known.
        if pids.is_empty() { Ok(vec![container.record.init_process_pid]) } else { Ok(pids) }
    }

    /// Statistics of its cgroup.
    ///
    /// # Errors
    /// [`ErrorKind::NotRunning`] once it has stopped.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        let container = self.load(id)?;
        allow(Verb::Events, container.status()?, id)?;
        container.cgroup().stats()
    }

    /// Watches for the out-of-memory killer; `None` without a memory controller.
    pub fn oom_watch(&self, id: &str) -> Result<Option<OomWatch>> {
        let container = self.load(id)?;
        allow(Verb::Events, container.status()?, id)?;
        container.cgroup().oom_watch()
    }

    /// The configuration that the container was made from.
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

/// The user's name by the host's passwd file, else the number.
fn owner(uid: u32) -> String {
    if uid == 0 {
        return "root".to_owned();
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd::name(&passwd, uid).map_or_else(|| uid.to_string(), str::to_owned)
}
