//! Out of memory: counts and notification.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dir::{Dir, is_gone, keyed, read_from_start};
use crate::error::{Context, Result};
use brig_sys::SysError;

/// The number of processes that the OOM killer has killed in the cgroup at `path` (cgroup2 if `is_v2`); 0 without the
/// memory controller and after the cgroup's removal.
pub(super) fn kills(path: &Path, is_v2: bool) -> Result<u64> {
    let file = if is_v2 { "memory.events" } else { "memory.oom_control" };
    match Dir::open(path).and_then(|dir| dir.read(file)) {
        Ok(text) => Ok(keyed(&text, "oom_kill").unwrap_or(0)),
        Err(error) if is_gone(&error) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// The time for watchers of a cgroup to read the cause of its last notification. The kernel delays a notification for
/// 10 ms after the previous one (cgroup_file_notify in kernel/cgroup/cgroup.c), and running out of memory causes many.
const TIME_TO_READ: Duration = Duration::from_millis(100);

/// Gives containerd's shim, conmon and similar watchers the time to see that the OOM killer has killed a process,
/// before the cgroup is removed: its last notification follows the exit of the killed process, and is lost with the
/// cgroup. No event reports that they have read it; therefore this is a plain pause, only for containers in which a
/// process was killed.
pub(super) fn pause_for_watchers() {
    std::thread::sleep(TIME_TO_READ);
}

/// The observation of an [`OomWatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// No new event.
    None,
    /// The cgroup ran out of memory this many times more.
    Oom(u64),
    /// The cgroup is empty or removed: no more events follow.
    Ended,
}

/// A watch of one cgroup. Poll its descriptors with [`OomWatch::poll_fds`], then call [`OomWatch::check`].
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    kills: u64,
}

#[derive(Debug)]
enum Source {
    V2 { files: Files, seen: Seen },
    V1 { eventfd: OwnedFd, control: PathBuf },
}

/// The open files of a cgroup2 directory.
#[derive(Debug)]
struct Files {
    memory: OwnedFd,
    events: OwnedFd,
    /// The parent's memory.events; the root of the hierarchy has none.
    parent: Option<OwnedFd>,
}

/// A file of [`Files`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    Memory,
    Events,
    Parent,
}

impl Files {
    /// Reads a file; `None` if its cgroup was removed, or has no such file.
    fn read(&self, file: File) -> Result<Option<String>, SysError> {
        let (fd, name) = match (file, &self.parent) {
            (File::Memory, _) => (&self.memory, "memory.events"),
            (File::Events, _) => (&self.events, "cgroup.events"),
            (File::Parent, Some(parent)) => (parent, "memory.events of the parent"),
            (File::Parent, None) => return Ok(None),
        };
        match read_from_start(fd.as_fd()) {
            Ok(text) => Ok(Some(text)),
            Err(Errno::NODEV) => Ok(None),
            Err(errno) => Err(SysError::new("read", name, errno)),
        }
    }
}

/// The state of a cgroup2 directory at the last read.
///
/// The kernel counts a kill in the cgroup, then in its parent, and kills after that; the process exits, the cgroup is
/// empty, and a manager removes it. The order of the reads ensures that every change between two reads is seen, in the
/// cgroup's counts or in its parent's, which include kills in its children, and outlive them:
///
/// | read | reason |
/// |---|---|
/// | the parent's count before the cgroup's own | a kill between the reads is new at a later read, not old |
/// | whether it is empty before its counts | counts that are read of an empty cgroup are the last ones |
/// | the parent's count again after the cgroup's removal | the parent has counted every kill in it by now |
#[derive(Debug, Default)]
struct Seen {
    /// Kills, or events at the limit with nothing to reclaim, whichever are more. A kill follows such an event, or the
    /// exit of another process, and either number may change first.
    count: u64,
    kills: u64,
    /// The parent's kills, without those that it counted after the cgroup's own counts were read, and possibly others.
    around: u64,
    /// The result of [`OomWatch::may_have_missed`].
    missed: bool,
}

impl Seen {
    fn read_events(
        &mut self,
        mut read: impl FnMut(File) -> Result<Option<String>, SysError>,
    ) -> Result<OomEvent, SysError> {
        let number = |text: Option<&String>, key| text.and_then(|text| keyed(text, key)).unwrap_or(0);
        let around = number(read(File::Parent)?.as_ref(), "oom_kill");
        let populated = number(read(File::Events)?.as_ref(), "populated") == 1;
        let Some(text) = read(File::Memory)? else {
            self.missed |= number(read(File::Parent)?.as_ref(), "oom_kill") > self.around;
            return Ok(OomEvent::Ended);
        };
        let kills = number(Some(&text), "oom_kill");
        // The parent counts a new kill of the cgroup too, or is about to.
        self.around = around.max(self.around + kills.saturating_sub(self.kills));
        self.kills = kills;
        let count = kills.max(number(Some(&text), "oom"));
        let new = count.saturating_sub(self.count);
        self.count = count;
        Ok(match (new, populated) {
            (1.., _) => OomEvent::Oom(new),
            (0, true) => OomEvent::None,
            (0, false) => OomEvent::Ended,
        })
    }
}

impl OomWatch {
    /// Watches the cgroup2 directory at `path`.
    pub(super) fn v2(path: &Path) -> Result<OomWatch> {
        let what = || format!("cannot watch {} for out of memory", path.display());
        let dir = Dir::open(path).with_context(what)?;
        let memory = dir.file("memory.events", OFlags::RDONLY).with_context(what)?;
        let events = dir.file("cgroup.events", OFlags::RDONLY).with_context(what)?;
        let above = path.parent().and_then(|above| Dir::open(above).ok());
        let above = above.and_then(|above| above.file("memory.events", OFlags::RDONLY).ok());
        let files = Files { memory, events, parent: above };
        let mut watch = OomWatch { source: Source::V2 { files, seen: Seen::default() }, kills: 0 };
        // The first read is the base line, and arms the notification.
        watch.check().with_context(what)?;
        Ok(watch)
    }

    /// Watches the v1 memory directory at `path` (Documentation/admin-guide/cgroup-v1/memory.rst, OOM Control).
    pub(super) fn v1(path: &Path) -> Result<OomWatch> {
        let what = || format!("cannot watch {} for out of memory", path.display());
        let dir = Dir::open(path).with_context(what)?;
        let control = dir.file("memory.oom_control", OFlags::RDONLY).with_context(what)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SysError::new("eventfd2", "", errno))
            .with_context(what)?;
        // The kernel holds its own references to both descriptors; `control` may be closed afterwards.
        let line = format!("{} {}", eventfd.as_raw_fd(), control.as_fd().as_raw_fd());
        dir.write("cgroup.event_control", &line).with_context(what)?;
        let source = Source::V1 { eventfd, control: path.join("cgroup.event_control") };
        Ok(OomWatch { source, kills: 0 })
    }

    /// The descriptors, and the events to poll them for.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        self.descriptors().into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect()
    }

    /// The descriptors as plain pairs, for other event loops. cgroup files notify with POLLPRI.
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        match &self.source {
            Source::V2 { files, .. } => {
                vec![(files.memory.as_fd(), PollFlags::PRI), (files.events.as_fd(), PollFlags::PRI)]
            }
            Source::V1 { eventfd, .. } => vec![(eventfd.as_fd(), PollFlags::IN)],
        }
    }

    /// The number of processes that the OOM killer had killed at the last [`OomWatch::check`]. A v1 eventfd reports
    /// only out-of-memory events: there this is their number since the watch began.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// Checks whether the cgroup was removed before its last counts could be read, and a process was killed meanwhile,
    /// in it or beside it. systemd removes a scope's cgroup as soon as it is empty.
    pub fn may_have_missed(&self) -> bool {
        match &self.source {
            Source::V2 { seen, .. } => seen.missed,
            Source::V1 { .. } => false,
        }
    }

    /// Returns the events since the last call, without blocking.
    ///
    /// # Errors
    /// A read that fails for another reason than the cgroup's removal.
    pub fn check(&mut self) -> Result<OomEvent> {
        match &mut self.source {
            Source::V2 { files, seen } => {
                let event = seen.read_events(|file| files.read(file))?;
                self.kills = seen.kills;
                Ok(event)
            }
            Source::V1 { eventfd, control } => {
                let mut count = [0u8; 8];
                // After the removal no more events follow this read.
                let was_gone = !control.exists();
                let signals = match rustix::io::read(&*eventfd, &mut count) {
                    Ok(_) => u64::from_ne_bytes(count),
                    Err(rustix::io::Errno::AGAIN) => 0,
                    Err(errno) => return Err(SysError::new("read", "eventfd", errno).into()),
                };
                // The kernel also signals when the cgroup is removed, once.
                let times = if was_gone || !control.exists() { signals.saturating_sub(1) } else { signals };
                self.kills += times;
                Ok(match times {
                    1.. => OomEvent::Oom(times),
                    0 if was_gone || signals > 0 => OomEvent::Ended,
                    0 => OomEvent::None,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of a cgroup and beside it, in the kernel's order where it has one.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Step {
        /// The cgroup's count of kills increases.
        Own,
        /// The parent's count of kills increases, for the same kill.
        Parent,
        /// The last process exits.
        Exit,
        /// The cgroup is removed.
        Remove,
        /// A process beside the cgroup is killed.
        Beside,
    }

    /// The files of a simulated cgroup, in which some steps happen before each read.
    struct World {
        /// The number of reads before each step.
        steps: Vec<(usize, Step)>,
        reads: usize,
        taken: Vec<Step>,
    }

    impl World {
        fn count(&self, which: &[Step]) -> usize {
            self.taken.iter().filter(|step| which.contains(step)).count()
        }

        fn take_until(&mut self, enough: impl Fn(&World, usize) -> bool) {
            while let Some((when, step)) = self.steps.first().copied() {
                if enough(self, when) {
                    return;
                }
                self.steps.remove(0);
                self.taken.push(step);
            }
        }

        fn read(&mut self, file: File) -> Option<String> {
            self.take_until(|world, when| when > world.reads);
            self.reads += 1;
            let gone = self.taken.contains(&Step::Remove);
            let kills = match file {
                File::Parent => self.count(&[Step::Parent, Step::Beside]),
                _ if gone => return None,
                File::Events if self.taken.contains(&Step::Exit) => return Some("populated 0\nfrozen 0\n".to_owned()),
                File::Events => return Some("populated 1\nfrozen 0\n".to_owned()),
                File::Memory => self.count(&[Step::Own]),
            };
            Some(format!("max 3\noom {kills}\noom_kill {kills}\noom_group_kill 0\n"))
        }
    }

    /// Simulates a watcher: it checks at first, some times while the process runs, and after its exit, until it is
    /// notified that no more events follow.
    fn watch(steps: Vec<(usize, Step)>, looks: usize) -> Seen {
        let mut world = World { steps, reads: 0, taken: Vec::new() };
        let mut seen = Seen::default();
        for _ in 0..=looks {
            if seen.read_events(|file| Ok(world.read(file))).unwrap() == OomEvent::Ended {
                return seen;
            }
        }
        world.take_until(|world, _| world.taken.contains(&Step::Exit));
        while seen.read_events(|file| Ok(world.read(file))).unwrap() != OomEvent::Ended {}
        seen
    }

    /// All sequences of `steps` in their order, the first step after `least` reads.
    fn orders(steps: &[Step], least: usize, most: usize) -> Vec<Vec<(usize, Step)>> {
        let Some((first, rest)) = steps.split_first() else { return vec![Vec::new()] };
        let mut all = Vec::new();
        for when in least..=most {
            for mut order in orders(rest, when, most) {
                order.insert(0, (when, *first));
                all.push(order);
            }
        }
        all
    }

    /// The number of reads of one check that finds the cgroup, which is also that of the first check.
    const READS: usize = 3;

    #[test]
    fn a_kill_is_reported_once_whatever_happens_between_two_reads() {
        use Step::{Beside, Exit, Own, Parent, Remove};
        let mut tried = 0;
        for looks in 0..=2 {
            let most = READS * (looks + 2) + 1;
            for order in orders(&[Own, Parent, Exit, Remove], READS, most) {
                let seen = watch(order.clone(), looks);
                assert_eq!((seen.kills == 1, seen.missed), (!seen.missed, seen.kills == 0), "{looks}: {order:?}");
                tried += 1;
            }
            for order in orders(&[Beside, Own, Parent, Exit, Remove], 0, most) {
                if order[1].0 >= READS {
                    let seen = watch(order.clone(), looks);
                    assert!(seen.kills == 1 || seen.missed, "{looks}: {order:?}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 1000, "{tried}");
    }

    #[test]
    fn an_exit_without_a_kill_is_no_oom_event() {
        for looks in 0..=2 {
            for order in orders(&[Step::Exit, Step::Remove], READS, READS * (looks + 2) + 1) {
                let seen = watch(order.clone(), looks);
                assert_eq!((seen.kills, seen.missed), (0, false), "{looks}: {order:?}");
            }
        }
    }

    #[test]
    fn a_kill_beside_the_cgroup_before_the_last_check_is_not_counted() {
        let seen = watch(
            vec![(0, Step::Beside), (READS, Step::Beside), (2 * READS, Step::Exit), (2 * READS, Step::Remove)],
            1,
        );
        assert_eq!((seen.kills, seen.missed), (0, false));
    }
}
