//! The reaper of this process: it reports the exit of each watched child to its watcher, and reaps orphans.
//!
//! An exited child is inspected first and left a zombie, so that its pid cannot be reused before its owner is
//! determined. Three kinds of children exit here:
//!
//! - containers' processes and loggers, which are watched: the watcher receives their exit;
//! - orphans of containers, which this process adopts as a subreaper: they are reaped without a report;
//! - children of a call in progress (hooks, a foreign runtime, a container that fails to start), for which the call
//!   itself waits. While any call [holds](Reaper::hold) the reaper, an unwatched child is left to it. The call watches
//!   the process that it started before it releases the hold, so no exit is missed however early it comes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use brig_sys::process::{self, Exit};
use rustix::io::Errno;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

/// The exit of a child: its status and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The status as a shell reports it: the code, or 128 + the signal.
    pub status: u32,
    /// The time at which it was reaped.
    pub at: SystemTime,
}

impl Ended {
    /// An exit at the current time.
    pub fn now(status: u32) -> Ended {
        Ended { status, at: SystemTime::now() }
    }

    fn of(exit: Exit) -> Ended {
        Ended::now(u32::try_from(exit.status()).unwrap_or(255))
    }
}

/// The reaper; the module describes it.
#[derive(Debug, Default)]
pub struct Reaper {
    children: Mutex<Children>,
    /// Notified when a child may have exited for which no further SIGCHLD comes.
    again: Notify,
}

#[derive(Debug, Default)]
struct Children {
    watched: HashMap<i32, oneshot::Sender<Ended>>,
    holds: usize,
}

/// A hold of the reaper: unwatched children are left to the call that has it.
#[derive(Debug)]
pub struct Hold(Arc<Reaper>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.children().holds -= 1;
        self.0.again.notify_one();
    }
}

impl Reaper {
    fn children(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a hold. Must precede a call that may start children.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.children().holds += 1;
        Hold(Arc::clone(self))
    }

    /// Watches the child `pid`, which was started under `hold`. The receiver gets its exit.
    pub fn watch(&self, _hold: &Hold, pid: i32) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        self.children().watched.insert(pid, sender);
        receiver
    }

    /// The number of watched children.
    pub fn watched(&self) -> usize {
        self.children().watched.len()
    }

    /// Reaps for as long as the process runs. The adoption of orphans is set up elsewhere (PR_SET_CHILD_SUBREAPER).
    ///
    /// # Errors
    /// The handler of SIGCHLD cannot be installed.
    pub async fn run(self: Arc<Self>) -> std::io::Result<()> {
        let mut sigchld = signal(SignalKind::child())?;
        loop {
            self.scan();
            tokio::select! {
                _ = sigchld.recv() => {}
                () = self.again.notified() => {}
            }
        }
    }

    /// Reaps every exited child that is not a call's own.
    fn scan(&self) {
        loop {
            let (pid, exit) = match process::peek_exited() {
                Ok(Some(ended)) => ended,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("unable to find exited children: {error}");
                    return;
                }
            };
            let mut children = self.children();
            if let Some(watcher) = children.watched.remove(&pid) {
                drop(children);
                reap(pid);
                tell(watcher, exit);
            } else if children.holds == 0 {
                drop(children);
                reap(pid);
                tracing::debug!(pid, "reaped an orphan: {exit:?}");
            } else {
                // It hides the exited children behind it, so the watched ones are queried one by one. The release of
                // the hold starts another scan.
                self.scan_watched(children);
                return;
            }
        }
    }

    fn scan_watched(&self, mut children: MutexGuard<Children>) {
        let pids: Vec<i32> = children.watched.keys().copied().collect();
        for pid in pids {
            let exit = match process::reap(pid) {
                Ok(None) => continue,
                Ok(Some(exit)) => exit,
                Err(error) => {
                    tracing::error!("unable to read the exit of process {pid}: {error}");
                    Exit::Code(255)
                }
            };
            if let Some(watcher) = children.watched.remove(&pid) {
                tell(watcher, exit);
            }
        }
    }
}

fn reap(pid: i32) {
    match process::reap(pid) {
        // The call that started it has waited for it in the meantime.
        Err(error) if error.errno() != Errno::CHILD => tracing::error!("unable to reap the process {pid}: {error}"),
        _ => {}
    }
}

fn tell(watcher: oneshot::Sender<Ended>, exit: Exit) {
    if watcher.send(Ended::of(exit)).is_err() {
        tracing::debug!("reaped a process whose watcher is gone: {exit:?}");
    }
}
