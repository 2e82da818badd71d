//! The one reaper of this process: it tells whoever watches a child how the child ended, and reaps orphans.
//!
//! A child that has ended is first looked at and left a zombie, so that its pid still means it and no other while it
//! is decided whose it is. Three kinds of children end here:
//!
//! - containers' processes and loggers, which are watched: their end goes to the watcher;
//! - orphans of containers, which this process adopts as a subreaper: they are just reaped;
//! - children of a call that is at work (hooks, a foreign runtime, a container that fails to start), for which the
//!   call itself waits. While any call [holds](Reaper::hold) the reaper, a child that nobody watches is left to it. The
//!   call watches what it made before it lets go, so no end can be missed however early it comes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use brig_sys::process::{self, Exit};
use nix::errno::Errno;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};

/// How and when a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The status as a shell would say it: the code, or 128 + the signal.
    pub status: u32,
    /// When it was reaped.
    pub at: SystemTime,
}

impl Ended {
    /// An end at this moment.
    pub fn now(status: u32) -> Ended {
        Ended { status, at: SystemTime::now() }
    }

    fn of(exit: Exit) -> Ended {
        Ended::now(u32::try_from(exit.status()).unwrap_or(255))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Reaper {
    children: Mutex<Children>,
    /// There may be something to reap that no SIGCHLD will tell of again.
    again: Notify,
}

#[derive(Debug, Default)]
struct Children {
    watched: HashMap<i32, oneshot::Sender<Ended>>,
    holds: usize,
}

/// Leaves children that nobody watches to the call that holds this.
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

    /// To be taken before a call that may make children.
    pub fn hold(self: &Arc<Self>) -> Hold {
        self.children().holds += 1;
        Hold(Arc::clone(self))
    }

    /// Tells of the end of the child `pid`, which was made while `hold` was held.
    pub fn watch(&self, _hold: &Hold, pid: i32) -> oneshot::Receiver<Ended> {
        let (sender, receiver) = oneshot::channel();
        self.children().watched.insert(pid, sender);
        receiver
    }

    /// How many children are watched.
    pub fn watched(&self) -> usize {
        self.children().watched.len()
    }

    /// Reaps for as long as the process lives. Adopting orphans is set up elsewhere (PR_SET_CHILD_SUBREAPER).
    ///
    /// # Errors
    /// SIGCHLD cannot be listened to.
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

    /// Reaps all that have ended and are not a call's own.
    fn scan(&self) {
        loop {
            let (pid, exit) = match process::peek_ended() {
                Ok(Some(ended)) => ended,
                Ok(None) => return,
                Err(error) => {
                    tracing::error!("unable to look for children that have ended: {error}");
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
                // It hides those behind it: they are asked one by one. The end of the hold brings us back.
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
                    tracing::error!("the end of the process {pid} was not seen: {error}");
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
        // Whoever made it has waited for it in between.
        Err(error) if error.errno() != Errno::ECHILD => tracing::error!("unable to reap the process {pid}: {error}"),
        _ => {}
    }
}

fn tell(watcher: oneshot::Sender<Ended>, exit: Exit) {
    if watcher.send(Ended::of(exit)).is_err() {
        tracing::debug!("nobody waits any more for a process that ended: {exit:?}");
    }
}
