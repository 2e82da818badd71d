//! What a container needs of the server.

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
    /// The one reaper.
    pub reaper: Arc<Reaper>,
    /// The way to containerd.
    pub publisher: Publisher,
    /// The OOM killer's events.
    pub oom: Arc<OomEvents>,
}

impl TaskContext {
    pub(super) fn owner(&self, container: &str, streams: StreamOptions, ready_timeout: Duration) -> Owner {
        let (namespace, container) = (self.namespace.to_string(), container.to_owned());
        Owner { namespace, container, ids: streams.ids, ready_timeout, timeouts: streams.timeouts }
    }
}

/// How the standard streams of a container's processes are set up.
#[derive(Clone, Copy, Debug)]
pub struct StreamOptions {
    /// Owner and group of pipes.
    pub ids: (u32, u32),
    /// How long unread output may hold up an exit event and a deletion.
    pub timeouts: OutputTimeouts,
}
