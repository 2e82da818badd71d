//! Events of the OOM killer, published before the exit that they explain.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use brig_engine::error::{ErrorKind, Result};
use containerd_shim_protos::events::task as events;
use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::Watcher;
use crate::events::Publisher;
use crate::reaper::Reaper;
use crate::runtime::{Runtime, blocking};

/// The watcher of all containers, and the publication of its reports to containerd.
#[derive(Debug)]
pub struct OomEvents {
    watcher: Watcher,
    /// The ids of containers in which the OOM killer has killed a process.
    reports: Mutex<UnboundedReceiver<String>>,
    publisher: Publisher,
}

impl OomEvents {
    /// Starts the watcher. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn start(publisher: Publisher) -> Result<Arc<OomEvents>> {
        let (report, reports) = mpsc::unbounded_channel();
        let events = Arc::new(OomEvents { watcher: Watcher::start(report)?, reports: Mutex::new(reports), publisher });
        let weak = Arc::downgrade(&events);
        // The watcher's task reports, and so does `publish_pending`; whichever runs first publishes.
        tokio::spawn(poll_fn(move |context| {
            let Some(events) = weak.upgrade() else { return Poll::Ready(()) };
            while let Poll::Ready(id) = events.reports().poll_recv(context) {
                let Some(id) = id else { return Poll::Ready(()) };
                events.publish(id);
            }
            Poll::Pending
        }));
        Ok(events)
    }

    fn reports(&self) -> MutexGuard<'_, UnboundedReceiver<String>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, container_id: String) {
        self.publisher.publish(events::TaskOOM { container_id, ..Default::default() });
    }

    /// Watches a container from now on. A host without a memory controller has nothing to watch.
    pub async fn watch(&self, reaper: &Arc<Reaper>, runtime: &Arc<Runtime>, id: &str) {
        let (runtime, of) = (Arc::clone(runtime), id.to_owned());
        let watch = blocking(reaper, move || runtime.oom_watch(&of));
        let added = watch.await.and_then(|watch| watch.map_or(Ok(()), |watch| self.watcher.add(id, watch)));
        match added {
            // Init has exited already.
            Err(error) if matches!(error.kind(), ErrorKind::NotRunning | ErrorKind::NotFound) => {}
            Err(error) => tracing::warn!(id, "OOM events are unavailable for this container: {error}"),
            Ok(()) => {}
        }
    }

    /// Reads the OOM killer's counts of a container whose init has exited; they are published in due course. `killed`:
    /// by a signal that this shim has not sent.
    pub fn check_exited(&self, id: &str, killed: bool) {
        if killed {
            self.watcher.check_killed(id);
        } else {
            self.watcher.check(id);
        }
    }

    /// Reads the counts of a container that is about to be killed. True when the OOM killer may have killed it first.
    pub fn check_before_kill(&self, id: &str) -> bool {
        self.watcher.check(id)
    }

    /// Publishes every report so far. Must precede the exit event of a process of container `id`.
    pub fn publish_pending(&self, id: &str) {
        self.watcher.check(id);
        // The lock is not held while a report is published.
        let next = || self.reports().try_recv();
        while let Ok(id) = next() {
            self.publish(id);
        }
    }

    /// Stops watching a container.
    pub fn forget(&self, id: &str) {
        self.watcher.remove(id);
    }

    /// The number of watched containers.
    pub fn count(&self) -> usize {
        self.watcher.count()
    }
}
