//! OOM kills: the containers in which the kernel's OOM killer has killed a process.
//!
//! All watches of this shim are registered with one epoll instance: on cgroup2 the files memory.events and
//! cgroup.events of each container (they notify with POLLPRI), on v1 an eventfd each. No container takes an inotify
//! instance, of which a user has few. One task reads what has changed, and reports a container's id each time that its
//! count of killed processes has grown. On v1 the kernel notifies only that memory ran out, which is reported as such.
//!
//! The exit of a killed process may be seen before the notification, which the kernel delays (10 ms,
//! cgroup_file_notify): [`Watcher::check`] must precede the publication of an exit, so that the order is right.
//!
//! systemd removes the cgroup of a scope as soon as it is empty, often before its counts were read here. The counts of
//! its parent then show that there was a kill, there or beside it; that the container's init was killed, and not by
//! this shim, decides between the two ([`Watcher::check_killed`]).

mod events;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brig_engine::cgroup::{OomEvent, OomWatch};
use brig_engine::error::{Context, Result};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

pub use events::OomEvents;

/// The number of notifications that are read at once.
const BATCH: usize = 32;

struct Entry {
    id: String,
    watch: OomWatch,
    /// The number of kills that were reported.
    reported: u64,
}

struct Shared {
    epoll: OwnedFd,
    entries: Mutex<Entries>,
    report: UnboundedSender<String>,
}

#[derive(Default)]
struct Entries {
    by_number: HashMap<u64, Entry>,
    next: u64,
}

/// The watches of all containers. Its task ends with it.
pub struct Watcher {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watcher({} containers)", self.shared.entries().by_number.len())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// Starts the task, in the current tokio runtime; ids are sent to `report`.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn start(report: UnboundedSender<String>) -> Result<Watcher> {
        let unable = "cannot watch for out of memory";
        let epoll =
            epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll_create1(EPOLL_CLOEXEC)").context(unable)?;
        let polled = epoll.try_clone().context(unable)?;
        #[allow(deprecated, reason = "its replacement is unsafe code; an OwnedFd keeps to all that it asks for")]
        let polled = AsyncFd::with_interest(polled, Interest::READABLE).context(unable)?;
        let shared = Arc::new(Shared { epoll, entries: Mutex::default(), report });
        let task = tokio::spawn(watch(polled, Arc::clone(&shared)));
        Ok(Watcher { shared, task })
    }

    /// Watches a container until its cgroup is empty or gone, or [`Watcher::remove`].
    ///
    /// # Errors
    /// The watch's descriptors cannot be polled.
    pub fn add(&self, id: &str, watch: OomWatch) -> Result<()> {
        let mut entries = self.shared.entries();
        let number = entries.next;
        entries.next += 1;
        for (fd, flags) in watch.descriptors() {
            // The same bits in both (include/uapi/linux/eventpoll.h).
            let wanted = match flags {
                PollFlags::PRI => EventFlags::PRI,
                _ => EventFlags::IN,
            };
            epoll::add(&self.shared.epoll, fd, EventData::new_u64(number), wanted)
                .with_context(|| format!("epoll_ctl(EPOLL_CTL_ADD, {wanted:?})"))
                .with_context(|| format!("cannot watch {id} for out of memory"))?;
        }
        let reported = watch.kills();
        entries.by_number.insert(number, Entry { id: id.to_owned(), watch, reported });
        Ok(())
    }

    /// Reports pending kills of a container at once. Must precede the publication of its exit.
    ///
    /// True when its cgroup was removed before its last counts were read, and a process was killed, in it or beside it:
    /// its init has exited already, and its exit status decides whether [`Watcher::check_killed`] applies.
    pub fn check(&self, id: &str) -> bool {
        let mut entries = self.shared.entries();
        let mut missed = false;
        for number in entries.of(id) {
            missed |= self.shared.read_events(&mut entries, number);
        }
        missed
    }

    /// Reports pending kills of a container whose init was killed by a signal that this shim has not sent.
    pub fn check_killed(&self, id: &str) {
        self.check(id);
        let mut entries = self.shared.entries();
        for number in entries.of(id) {
            self.shared.report_missed(&mut entries, number);
        }
    }

    /// Stops watching a container.
    pub fn remove(&self, id: &str) {
        let mut entries = self.shared.entries();
        for number in entries.of(id) {
            self.shared.forget(&mut entries, number);
        }
    }

    /// The number of watched containers.
    pub fn count(&self) -> usize {
        self.shared.entries().by_number.len()
    }
}

impl Entries {
    fn of(&self, id: &str) -> Vec<u64> {
        self.by_number.iter().filter(|(_, entry)| entry.id == id).map(|(number, _)| *number).collect()
    }
}

impl Shared {
    /// Locks the entries, and ignores poisoning: each change is complete.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the pending events of one container; see [`Watcher::check`].
    fn read_events(&self, entries: &mut Entries, number: u64) -> bool {
        let Some(entry) = entries.by_number.get_mut(&number) else { return false };
        let ended = loop {
            match entry.watch.check() {
                // Events that were read are not notified again, so reading continues until there is none.
                Ok(OomEvent::Oom(_)) => {}
                Ok(OomEvent::None) => break false,
                Ok(OomEvent::Ended) => break true,
                Err(error) => {
                    tracing::warn!(id = entry.id, "OOM events of this container are no longer watched: {error}");
                    break true;
                }
            }
        };
        let kills = entry.watch.kills();
        if kills > entry.reported {
            entry.reported = kills;
            tracing::debug!(id = entry.id, kills, "OOM kill");
            // There is no receiver any more: the shim is exiting.
            let _ = self.report.send(entry.id.clone());
        }
        // For a cgroup that is gone, init's exit may decide the rest.
        let missed = entry.watch.may_have_missed();
        match (ended, missed) {
            (true, true) => self.unregister(entry),
            (true, false) => self.forget(entries, number),
            (false, _) => {}
        }
        missed
    }

    /// Reports kills whose counts could not be read.
    fn report_missed(&self, entries: &mut Entries, number: u64) {
        let Some(entry) = entries.by_number.get(&number) else { return };
        if entry.watch.may_have_missed() {
            tracing::debug!(id = entry.id, "OOM kill, by the counts of the parent cgroup");
            // There is no receiver any more: the shim is exiting.
            let _ = self.report.send(entry.id.clone());
            self.forget(entries, number);
        }
    }

    /// Removes the watch's descriptors from epoll.
    fn unregister(&self, entry: &Entry) {
        for (fd, _) in entry.watch.descriptors() {
            // On a second call they are not registered.
            if let Err(error) = epoll::delete(&self.epoll, fd) {
                tracing::debug!(id = entry.id, "epoll_ctl(EPOLL_CTL_DEL): {error}");
            }
        }
    }

    fn forget(&self, entries: &mut Entries, number: u64) {
        if let Some(entry) = entries.by_number.remove(&number) {
            // Closing removes them from epoll too; this precedes it.
            self.unregister(&entry);
        }
    }

    /// The numbers of the containers that have events to read.
    fn ready(&self) -> Result<Vec<u64>> {
        let mut events = Vec::with_capacity(BATCH);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(error) => Err(error).context("epoll_wait"),
        }
    }
}

async fn watch(polled: AsyncFd<OwnedFd>, shared: Arc<Shared>) {
    loop {
        let mut guard = match polled.readable().await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!("OOM events are no longer watched: {error}");
                return;
            }
        };
        let ready = match shared.ready() {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!("OOM events are no longer watched: {error}");
                return;
            }
        };
        if ready.is_empty() {
            guard.clear_ready();
            continue;
        }
        for number in ready {
            shared.read_events(&mut shared.entries(), number);
        }
        // A container that is killed over and over must not delay the calls of others.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
