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
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use brig_engine::process::{self, Pidfd};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

/// The status of a process whose own status cannot be read.
pub const UNKNOWN_STATUS: u32 = 255;

/// The exit of a child: its status and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The status as a shell reports it: the code, or 128 + the signal.
    pub status: u32,
    /// The time at which it was reaped.
    pub at: SystemTime,
}

impl Exit {
    /// An exit at the current time.
    pub fn now(status: u32) -> Exit {
        Exit { status, at: SystemTime::now() }
    }

    fn of(status: ExitStatus) -> Exit {
        let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Exit::now(number.and_then(|number| u32::try_from(number).ok()).unwrap_or(UNKNOWN_STATUS))
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
    watched: HashMap<i32, Watched>,
    holds: usize,
}

/// A watched child. Its pid is a key to find it by; its exit is read by the pidfd.
#[derive(Debug)]
struct Watched {
    pidfd: Arc<Pidfd>,
    watcher: oneshot::Sender<Exit>,
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
    pub fn watch(&self, _hold: &Hold, pid: i32, pidfd: Arc<Pidfd>) -> oneshot::Receiver<Exit> {
        let (watcher, receiver) = oneshot::channel();
        self.children().watched.insert(pid, Watched { pidfd, watcher });
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
            let exited = match process::exited_child() {
                Ok(Some(exited)) => exited,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("{error}");
                    return;
                }
            };
            let mut children = self.children();
            if children.check_watched(exited.pid()) {
                continue;
            }
            if children.holds == 0 {
                drop(children);
                let (pid, status) = (exited.pid(), exited.status());
                match exited.reap() {
                    Ok(()) => tracing::debug!(pid, "reaped an orphan: {status}"),
                    Err(error) => tracing::error!("process {pid}: {error}"),
                }
            } else {
                // It hides the exited children behind it, so the watched ones are queried one by one. The release of
                // the hold starts another scan.
                let pids: Vec<i32> = children.watched.keys().copied().collect();
                for pid in pids {
                    children.check_watched(pid);
                }
                return;
            }
        }
    }
}

impl Children {
    /// Reaps the child that is watched as `pid`, if it has exited, and reports its exit. False when it is running, or
    /// none is watched.
    fn check_watched(&mut self, pid: i32) -> bool {
        let Some(watched) = self.watched.get(&pid) else { return false };
        let exit = match watched.pidfd.try_wait() {
            Ok(None) => return false,
            Ok(Some(status)) => Exit::of(status),
            // The pid may belong to another process by now, which is not touched.
            Err(error) => {
                tracing::error!("process {pid}: {error}");
                Exit::now(UNKNOWN_STATUS)
            }
        };
        if let Some(watched) = self.watched.remove(&pid)
            && watched.watcher.send(exit).is_err()
        {
            tracing::debug!(pid, "reaped a process whose watcher is gone: status {}", exit.status);
        }
        true
    }
}
