//! Limits of the waits for clients that do not read.

use std::pin::pin;
use std::time::Duration;

/// The limits for which an output may delay the exit and the deletion of its process, if its reader does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutputTimeouts {
    /// The wait of the exit event until the process's output has been read; a deletion waits as long again.
    pub exit: Duration,
    /// The wait of a deletion until the output of the process, and of others that hold its stream, has been copied.
    pub delete: Duration,
}

impl Default for OutputTimeouts {
    fn default() -> OutputTimeouts {
        OutputTimeouts { exit: Duration::from_secs(2), delete: Duration::from_secs(10) }
    }
}

/// Waits for an action of a client, at most for `limit`. A machine that is suspended for a while uses up only a part of
/// it.
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
