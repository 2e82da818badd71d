//! Calls in progress: the threads that they run on, and the end of a wait whose caller has gone.
//!
//! No call waits for a thread that a call of another container occupies, and a short call waits for no long one:
//!
//! | calls | at once | further calls wait |
//! |---|---|---|
//! | kill, state, pids, stats, resize | [`MAX_SHORT_CALLS`] for each container | for those of the same container |
//! | start, pause, resume, update, checkpoint, delete | one for each container | for that one |
//! | starts of execs | [`MAX_EXEC_STARTS`] for each container | for those of the same container |
//! | creates | [`MAX_CREATES`] for the shim | for other creates |
//! | writes to files | one for each stream | for that one |
//!
//! A waiting call has no thread. It is given up when its caller goes, by a closed connection or at its deadline. A call
//! that has started runs to its end: half a verb would leave the container in an intermediate state.

use brig_engine::error::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::Instrument;

/// The number of short calls of one container that run at the same time.
pub const MAX_SHORT_CALLS: usize = 4;
/// The number of execs of one container that are started at the same time.
pub const MAX_EXEC_STARTS: usize = 16;
/// The number of containers that are created at the same time.
pub const MAX_CREATES: usize = 128;

/// The number of threads for calls that block. The bounds above keep the real number far below, in proportion to the
/// containers: a free thread is reused, and one without work exits.
pub const MAX_THREADS: usize = 1 << 15;

tokio::task_local! {
    /// Closed when the caller of this task has gone.
    static CALLER: watch::Receiver<()>;
}

/// Runs `call` to its end even if its caller goes, which drops the returned future.
///
/// # Errors
/// The errors of `call`.
pub async fn run_to_end<T: Send + 'static>(call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    // Dropped with this future.
    let (_here, caller) = watch::channel(());
    match tokio::spawn(CALLER.scope(caller, call).in_current_span()).await {
        Ok(result) => result,
        Err(error) => Err(Error::other(format!("the call did not end: {error}"))),
    }
}

/// Waits for `wait` as long as the caller of this call is connected. Outside a call, the wait is unbounded.
///
/// # Errors
/// [`ErrorKind::TimedOut`] when the caller has gone.
pub async fn unless_abandoned<T>(wait: impl Future<Output = T>) -> Result<T> {
    let Ok(mut caller) = CALLER.try_with(Clone::clone) else { return Ok(wait.await) };
    tokio::select! {
        biased;
        // Nothing is ever sent: a change means that the sender was dropped.
        _ = caller.changed() => Err(Error::new(ErrorKind::TimedOut, "the caller has gone, and the call is not begun")),
        done = wait => Ok(done),
    }
}

/// Acquires a permit among the calls that `permits` lets run at the same time.
///
/// # Errors
/// The errors of [`unless_abandoned`].
pub async fn acquire(permits: &Semaphore) -> Result<SemaphorePermit<'_>> {
    unless_abandoned(permits.acquire()).await?.map_err(|error| Error::other(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn a_call_that_waits_is_given_up_with_its_caller_and_one_that_has_begun_is_not() {
        let permits = Arc::new(Semaphore::new(1));
        let (began, has_began) = oneshot::channel();
        let (go_on, gate) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let (first, second) = (Arc::clone(&permits), Arc::clone(&permits));
        let running = tokio::spawn(run_to_end(async move {
            let _permit = acquire(&first).await?;
            let _ = began.send(());
            let _ = gate.await;
            let _ = done.send(());
            Ok(())
        }));
        has_began.await.unwrap();
        let (given_up, is_given_up) = oneshot::channel();
        let waiting = tokio::spawn(run_to_end(async move {
            let _ = given_up.send(acquire(&second).await.map(drop));
            Ok(())
        }));
        tokio::task::yield_now().await;
        running.abort();
        waiting.abort();
        assert_eq!(is_given_up.await.unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
        go_on.send(()).unwrap();
        is_done.await.unwrap();
        assert_eq!(permits.available_permits(), 1);
    }

    #[tokio::test]
    async fn work_outside_a_call_waits_for_its_turn() {
        let permits = Semaphore::new(1);
        drop(acquire(&permits).await.unwrap());
        assert!(run_to_end(async { Err::<(), _>(Error::other("no")) }).await.is_err());
    }
}
