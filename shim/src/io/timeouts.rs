//! Limits of the waits for clients that do not read.

use std::pin::pin;
use std::time::Duration;

/// How long an output may hold up the exit and the deletion of its process, where it has a reader that does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputTimeouts {
    /// The exit event waits that long until the process's output has been read; a deletion, as long again.
    pub exit: Duration,
    /// A deletion waits that long until the output of the process, and of others that hold its stream, has been copied.
    pub delete: Duration,
}

impl Default for OutputTimeouts {
    fn default() -> OutputTimeouts {
        OutputTimeouts { exit: Duration::from_secs(2), delete: Duration::from_secs(10) }
    }
}

/// Waits for an action of a client, at most for `limit`, of which a machine that stands still for a while uses up a
/// part only.
pub(super) async fn within<T>(limit: Duration, done: impl Future<Output = T>) -> Option<T> {
    const STEPS: u32 = 20;
    let mut done = pin!(done);
    for _ in 0..STEPS {
        if let Ok(done) = tokio::time::timeout(limit / STEPS, done.as_mut()).await {
            return Some(done);
        }
    }
    None
}
