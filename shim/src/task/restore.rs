//! The start of a checkpointed container: CRIU restores it, running.

use std::sync::Arc;
use std::time::Duration;

use brig_engine::error::Result;

use super::launch::launch;
use super::{Task, lock};
use crate::process::Phase;
use crate::runtime::{Checkpoint, RestoreRequest};

impl Task {
    /// Restores the container. [`Task::start`] has the locks, and publishes the start.
    ///
    /// # Errors
    /// The container is unchanged: its start can be tried again, or it can be deleted.
    pub(super) async fn restore(self: &Arc<Self>, checkpoint: Checkpoint, ready_timeout: Duration) -> Result<()> {
        let owner = self.context.owner(&self.id, self.streams, ready_timeout);
        let (runtime, id, bundle) = (Arc::clone(&self.runtime), self.id.clone(), self.bundle.clone());
        let restore = move |streams| runtime.restore(RestoreRequest { id, bundle, checkpoint, streams });
        let (process, copying) = launch(&self.context.reaper, &self.init.addresses, owner, true, restore).await?;
        // The phase is not Running yet: the caller publishes the start first.
        self.init.launched(Phase::Starting, &process, copying);
        *lock(&self.checkpoint) = None;
        self.context.oom.watch(&self.context.reaper, &self.runtime, &self.id).await;
        self.watch(process.exit);
        Ok(())
    }
}
