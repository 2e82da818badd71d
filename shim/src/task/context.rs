//! The parts of the server that a container uses.

use std::sync::Arc;
use std::time::Duration;

use crate::events::Publisher;
use crate::io::{OutputTimeouts, Owner};
use crate::oom::OomEvents;
use crate::reaper::Reaper;

/// The parts of the server that every container uses.
#[derive(Clone, Debug)]
pub struct TaskContext {
    /// containerd's namespace.
    pub namespace: Arc<str>,
    /// The server's reaper.
    pub reaper: Arc<Reaper>,
    /// The publisher of events to containerd.
    pub publisher: Publisher,
    /// The events of the OOM killer.
    pub oom: Arc<OomEvents>,
}

impl TaskContext {
    pub(super) fn owner(&self, container: &str, streams: StreamOptions, ready_timeout: Duration) -> Owner {
        let (namespace, container) = (self.namespace.to_string(), container.to_owned());
        Owner { namespace, container, ids: streams.ids, ready_timeout, timeouts: streams.timeouts }
    }
}

/// The set-up of the standard streams of a container's processes.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Owner and group of pipes.
    pub ids: (u32, u32),
    /// The limits for which unread output may delay an exit event and a deletion.
    pub timeouts: OutputTimeouts,
}
