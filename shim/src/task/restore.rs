//! The start of a container that was saved: CRIU brings it back, running.

use std::sync::Arc;
use std::time::Duration;

use brig_engine::error::Result;

use super::launch::launch;
use super::{Task, lock};
use crate::io::Owner;
use crate::process::Phase;
use crate::runtime::{Restoration, Saved};

impl Task {
    /// Brings it back. [`Task::start`] has the locks, and tells of it.
    ///
    /// # Errors
    /// It is as before: it can be tried again, or deleted.
    pub(super) async fn restore(self: &Arc<Self>, saved: Saved, patience: Duration) -> Result<()> {
        let (namespace, container) = (self.shim.namespace.clone(), self.id.clone());
        let owner = Owner { namespace, container, ids: self.ids, patience, timeouts: self.timeouts };
        let (runtime, id, bundle) = (Arc::clone(&self.runtime), self.id.clone(), self.bundle.clone());
        let make = move |streams| runtime.restore(Restoration { id, bundle, saved, streams });
        let (launched, copying, ended) = launch(&self.shim, &self.init.addresses, owner, true, make).await?;
        // Not running yet: of that the caller tells first.
        self.init.launched(Phase::Starting, launched, copying);
        *lock(&self.saved) = None;
        self.shim.watch_oom(&self.runtime, &self.id).await;
        self.watch(ended);
        Ok(())
    }
}
