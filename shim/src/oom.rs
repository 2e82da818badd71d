//! Out of memory: which containers the kernel's killer has been in.
//!
//! All watches of this shim hang on one epoll instance, on cgroup2 the files memory.events and cgroup.events of each
//! container (they notify with POLLPRI), on v1 an eventfd each: no container takes an inotify instance, of which a user
//! has few. One task reads what has changed, and reports a container's id each time that its count of killed processes
//! has grown. On v1 the kernel tells only that there was no memory, which is reported as such.
//!
//! The end of a process that was killed may be seen before the notification, which the kernel delays (10 ms,
//! cgroup_file_notify): who reports an end calls [`Watcher::check`] first, so that the order is right.
//!
//! systemd removes the cgroup of a scope as soon as it is empty, and often before anyone here has read its counts.
//! Those of its parent tell then that there was a kill, there or beside it; that the container's init was killed, and
//! not by us, tells the rest ([`Watcher::check_killed`]).
#![forbid(unsafe_code)]

mod events;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brig_engine::cgroup::{OomEvent, OomWatch};
use brig_engine::error::{Context, Result};
use brig_sys::{SysError, SysResult};
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{PollFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::UnboundedSender;

pub use events::OomEvents;

/// As many notifications as are read at once.
const BATCH: usize = 32;

struct Entry {
    id: String,
    watch: OomWatch,
    /// Killed so far, as reported.
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
    /// Starts the task, in the present tokio runtime; ids go to `report`.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn start(report: UnboundedSender<String>) -> Result<Watcher> {
        let unable = "cannot watch for out of memory";
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| SysError::from_rustix("epoll_create1", "EPOLL_CLOEXEC", error))
            .context(unable)?;
        let polled = epoll.try_clone().context(unable)?;
        #[allow(deprecated, reason = "its replacement is unsafe code; an OwnedFd keeps to all that it asks for")]
        let polled = AsyncFd::with_interest(polled, Interest::READABLE).context(unable)?;
        let shared = Arc::new(Shared { epoll, entries: Mutex::default(), report });
        let task = tokio::spawn(watch(polled, Arc::clone(&shared)));
        Ok(Watcher { shared, task })
    }

    /// Watches a container from now on, until its cgroup is empty or gone, or [`Watcher::remove`].
    ///
    /// # Errors
    /// When its descriptors cannot be waited for.
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
                .map_err(|error| SysError::from_rustix("epoll_ctl", format!("EPOLL_CTL_ADD, {wanted:?}"), error))
                .with_context(|| format!("cannot watch {id} for out of memory"))?;
        }
        let reported = watch.kills();
        entries.by_number.insert(number, Entry { id: id.to_owned(), watch, reported });
        Ok(())
    }

    /// Reports at once what there is to report about a container. Call it before its end is told.
    ///
    /// True when its cgroup was removed before its last counts were read, and something has been killed, in it or
    /// beside it: its init has ended already, and how it did tells whether [`Watcher::check_killed`] is right.
    pub fn check(&self, id: &str) -> bool {
        let mut entries = self.shared.entries();
        let mut missed = false;
        for number in entries.of(id) {
            missed |= self.shared.look(&mut entries, number);
        }
        missed
    }

    /// The same for one whose init was killed, and not by us.
    pub fn check_killed(&self, id: &str) {
        self.check(id);
        let mut entries = self.shared.entries();
        for number in entries.of(id) {
            self.shared.report_missed(&mut entries, number);
        }
    }

    /// Watches a container no longer.
    pub fn remove(&self, id: &str) {
        let mut entries = self.shared.entries();
        for number in entries.of(id) {
            self.shared.forget(&mut entries, number);
        }
    }

    /// How many containers are watched.
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
    /// The entries, whatever happened to their last holder: each change is whole.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what there is to read of one container; see [`Watcher::check`].
    fn look(&self, entries: &mut Entries, number: u64) -> bool {
        let Some(entry) = entries.by_number.get_mut(&number) else { return false };
        let ended = loop {
            match entry.watch.check() {
                // What was read is not notified again: until there is nothing new.
                Ok(OomEvent::Oom(_)) => {}
                Ok(OomEvent::None) => break false,
                Ok(OomEvent::Ended) => break true,
                Err(error) => {
                    tracing::warn!(id = entry.id, "it is not watched for out of memory any more: {error}");
                    break true;
                }
            }
        };
        let kills = entry.watch.kills();
        if kills > entry.reported {
            entry.reported = kills;
            tracing::debug!(id = entry.id, kills, "out of memory");
            // Nobody listens any more: the shim ends.
            let _ = self.report.send(entry.id.clone());
        }
        // Of one that is gone the end itself may tell more.
        let missed = entry.watch.may_have_missed();
        match (ended, missed) {
            (true, true) => self.leave_alone(entry),
            (true, false) => self.forget(entries, number),
            (false, _) => {}
        }
        missed
    }

    /// What nobody could read is reported, if there was a kill.
    fn report_missed(&self, entries: &mut Entries, number: u64) {
        let Some(entry) = entries.by_number.get(&number) else { return };
        if entry.watch.may_have_missed() {
            tracing::debug!(id = entry.id, "out of memory, by the counts of its cgroup's parent");
            // Nobody listens any more: the shim ends.
            let _ = self.report.send(entry.id.clone());
            self.forget(entries, number);
        }
    }

    /// Its descriptors are waited for no more.
    fn leave_alone(&self, entry: &Entry) {
        for (fd, _) in entry.watch.descriptors() {
            // The second time it is not there.
            if let Err(error) = epoll::delete(&self.epoll, fd) {
                tracing::debug!(id = entry.id, "epoll_ctl(EPOLL_CTL_DEL): {error}");
            }
        }
    }

    fn forget(&self, entries: &mut Entries, number: u64) {
        if let Some(entry) = entries.by_number.remove(&number) {
            // They go from the set when they are closed, too; this only comes before.
            self.leave_alone(&entry);
        }
    }

    /// The containers that have something to read, by their numbers.
    fn ready(&self) -> SysResult<Vec<u64>> {
        let mut events = Vec::with_capacity(BATCH);
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&at_once)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(error) => Err(SysError::from_rustix("epoll_wait", "", error)),
        }
    }
}

async fn watch(polled: AsyncFd<OwnedFd>, shared: Arc<Shared>) {
    loop {
        let mut guard = match polled.readable().await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!("nothing is watched for out of memory any more: {error}");
                return;
            }
        };
        let ready = match shared.ready() {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!("nothing is watched for out of memory any more: {error}");
                return;
            }
        };
        if ready.is_empty() {
            guard.clear_ready();
            continue;
        }
        for number in ready {
            shared.look(&mut shared.entries(), number);
        }
        // A container that dies over and over does not keep the others' calls waiting.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
