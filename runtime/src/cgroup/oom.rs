//! Out of memory: counts and notification.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use rustix::fs::OFlags;

use super::dir::{Dir, is_gone, keyed, read_from_start};
use crate::error::{Context, Result};
use crate::sys::SysError;

/// How many processes of the cgroup at `path` (cgroup2 if `unified`) the OOM killer has killed; 0 when the memory
/// controller is not there or the cgroup is gone.
pub(super) fn kills(path: &Path, unified: bool) -> Result<u64> {
    let file = if unified { "memory.events" } else { "memory.oom_control" };
    match Dir::open(path).and_then(|dir| dir.read(file)) {
        Ok(text) => Ok(keyed(&text, "oom_kill").unwrap_or(0)),
        Err(error) if is_gone(&error) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// How long those who watch a cgroup have to read what its last notification was about. The kernel holds one back for
/// 10 ms after the one before (cgroup_file_notify in kernel/cgroup/cgroup.c), and running out of memory makes many.
const TIME_TO_READ: Duration = Duration::from_millis(100);

/// Gives containerd's shim, conmon and the like the time to see that the OOM killer has been at work, before the cgroup
/// is removed: its last notification comes after the end of the process that was killed, and is lost with the cgroup.
/// Nothing tells whether they have read it, so this is a plain pause, for containers alone in which something was
/// killed.
pub(super) fn let_kills_be_seen() {
    std::thread::sleep(TIME_TO_READ);
}

/// What an [`OomWatch`] has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OomEvent {
    /// Nothing new.
    None,
    /// The cgroup ran out of memory this many times more.
    Oom(u64),
    /// The cgroup is empty or gone: there is nothing left to watch.
    Ended,
}

/// Watches one cgroup. Poll its descriptors with [`OomWatch::poll_fds`], then call [`OomWatch::check`].
#[derive(Debug)]
pub struct OomWatch {
    source: Source,
    kills: u64,
}

#[derive(Debug)]
enum Source {
    Unified { memory: OwnedFd, events: OwnedFd, seen: u64 },
    Legacy { eventfd: OwnedFd, control: PathBuf },
}

/// A file of a cgroup2 directory that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    /// memory.events
    Memory,
    /// cgroup.events
    Events,
}

/// What both files say.
#[derive(Debug, PartialEq, Eq)]
struct Counts {
    ooms: u64,
    kills: u64,
    populated: bool,
}

/// Reads both files; `None` when the cgroup is gone.
///
/// The order counts: a kill is counted before the process ends, so that counts which are read after the cgroup was
/// seen empty are the last ones. The other way about, a kill between the two reads is never seen.
fn counts(mut read: impl FnMut(File) -> Result<Option<String>, SysError>) -> Result<Option<Counts>, SysError> {
    let populated = read(File::Events)?.is_some_and(|text| keyed(&text, "populated") == Some(1));
    let number = |text: &str, key| keyed(text, key).unwrap_or(0);
    Ok(read(File::Memory)?.map(|text| Counts {
        ooms: number(&text, "oom"),
        kills: number(&text, "oom_kill"),
        populated,
    }))
}

impl OomWatch {
    /// Watches the cgroup2 directory at `path`.
    pub(super) fn unified(path: &Path) -> Result<OomWatch> {
        let what = || format!("cannot watch {} for out of memory", path.display());
        let dir = Dir::open(path).with_context(what)?;
        let memory = dir.file("memory.events", OFlags::RDONLY).with_context(what)?;
        let events = dir.file("cgroup.events", OFlags::RDONLY).with_context(what)?;
        let mut watch = OomWatch { source: Source::Unified { memory, events, seen: 0 }, kills: 0 };
        // The first reading is the base line, and arms the notification.
        watch.check().with_context(what)?;
        Ok(watch)
    }

    /// Watches the v1 memory directory at `path` (Documentation/admin-guide/cgroup-v1/memory.rst, OOM Control).
    pub(super) fn legacy(path: &Path) -> Result<OomWatch> {
        let what = || format!("cannot watch {} for out of memory", path.display());
        let dir = Dir::open(path).with_context(what)?;
        let control = dir.file("memory.oom_control", OFlags::RDONLY).with_context(what)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SysError::from_rustix("eventfd2", "", errno))
            .with_context(what)?;
        // The kernel keeps what it needs of both descriptors; `control` may be closed afterwards.
        let line = format!("{} {}", eventfd.as_raw_fd(), control.as_fd().as_raw_fd());
        dir.write("cgroup.event_control", &line).with_context(what)?;
        let source = Source::Legacy { eventfd, control: path.join("cgroup.event_control") };
        Ok(OomWatch { source, kills: 0 })
    }

    /// The descriptors, and what to poll them for.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        self.descriptors().into_iter().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)).collect()
    }

    /// The same as plain pairs, for other event loops. cgroup files notify with POLLPRI.
    pub fn descriptors(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        match &self.source {
            Source::Unified { memory, events, .. } => {
                vec![(memory.as_fd(), PollFlags::PRI), (events.as_fd(), PollFlags::PRI)]
            }
            Source::Legacy { eventfd, .. } => vec![(eventfd.as_fd(), PollFlags::IN)],
        }
    }

    /// How many processes the killer had killed at the last [`OomWatch::check`]. A v1 eventfd tells only of moments
    /// without memory: there it is how many of those there were since the watch began.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// What has happened since the last call. It does not block.
    ///
    /// # Errors
    /// A read that fails for another reason than the cgroup's end.
    pub fn check(&mut self) -> Result<OomEvent> {
        match &mut self.source {
            Source::Unified { memory, events, seen } => {
                let read = |file: File| {
                    let fd = match file {
                        File::Memory => &*memory,
                        File::Events => &*events,
                    };
                    match read_from_start(fd.as_fd()) {
                        Ok(text) => Ok(Some(text)),
                        Err(Errno::ENODEV) => Ok(None),
                        Err(errno) => Err(SysError::new("read", "memory.events or cgroup.events", errno)),
                    }
                };
                let Some(counts) = counts(read)? else { return Ok(OomEvent::Ended) };
                self.kills = counts.kills;
                // An event is a moment at the limit with nothing to reclaim; a kill follows it, or the end of a
                // sibling. Either number may move first.
                let count = counts.ooms.max(counts.kills);
                let new = count.saturating_sub(*seen);
                *seen = count;
                match (new, counts.populated) {
                    (1.., _) => Ok(OomEvent::Oom(new)),
                    (0, true) => Ok(OomEvent::None),
                    (0, false) => Ok(OomEvent::Ended),
                }
            }
            Source::Legacy { eventfd, control } => {
                let mut count = [0u8; 8];
                match rustix::io::read(&*eventfd, &mut count) {
                    // The kernel also signals when the cgroup is removed.
                    Ok(_) if !control.exists() => Ok(OomEvent::Ended),
                    Ok(_) => {
                        let times = u64::from_ne_bytes(count);
                        self.kills += times;
                        Ok(OomEvent::Oom(times))
                    }
                    Err(rustix::io::Errno::AGAIN) => Ok(OomEvent::None),
                    Err(errno) => Err(SysError::from_rustix("read", "eventfd", errno).into()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_between_two_reads_is_counted_before_the_cgroup_is_taken_for_ended() {
        // Killed, ended and empty, all after the first read.
        let mut reads = 0;
        let now = counts(|file| {
            reads += 1;
            let text = match (file, reads) {
                (File::Memory, 1) => "oom 1\noom_kill 0\n",
                (File::Memory, _) => "oom 1\noom_kill 1\n",
                (File::Events, 1) => "populated 1\nfrozen 0\n",
                (File::Events, _) => "populated 0\nfrozen 0\n",
            };
            Ok(Some(text.to_owned()))
        });
        assert_eq!(now.unwrap(), Some(Counts { ooms: 1, kills: 1, populated: true }));
        let gone = counts(|file| Ok((file == File::Events).then(|| "populated 0\n".to_owned())));
        assert_eq!(gone.unwrap(), None);
    }
}
