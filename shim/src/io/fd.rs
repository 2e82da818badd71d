//! Descriptors of streams: pipes, FIFOs, and their registration with the async runtime.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use brig_engine::error::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A non-blocking descriptor that the async runtime polls.
pub(super) type Polled = AsyncFd<OwnedFd>;

/// Registers a descriptor, in the directions that it is open for.
#[allow(
    deprecated,
    reason = "sound for an OwnedFd, which stays the same descriptor as long as it lives; the other way is unsafe"
)]
pub(super) fn polled(fd: OwnedFd) -> Result<Polled> {
    let unable = "unable to poll a stream";
    let flags = rustix::fs::fcntl_getfl(&fd).context(unable)?;
    let interest = match flags & OFlags::ACCMODE {
        OFlags::RDONLY => Interest::READABLE,
        OFlags::WRONLY => Interest::WRITABLE,
        _ => Interest::READABLE | Interest::WRITABLE,
    };
    AsyncFd::with_interest(fd, interest).context(unable)
}

pub(super) fn null() -> Result<OwnedFd> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null").context("unable to open /dev/null")?;
    Ok(null.into())
}

/// Creates a pipe whose end for the process belongs to `ids`: (read end, write end).
pub(super) fn pipe(ids: (u32, u32)) -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context("pipe2")?;
    if ids != (0, 0) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(ids.0), rustix::fs::Gid::from_raw(ids.1));
        // Both ends are one inode.
        rustix::fs::fchown(&reader, Some(uid), Some(gid)).context("fchown")?;
    }
    Ok((reader, writer))
}

pub(super) fn set_nonblocking(fd: &OwnedFd) -> Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd).context("fcntl(F_GETFL)")?;
    rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK).context("fcntl(F_SETFL, O_NONBLOCK)")
}

pub(super) fn open_fifo(path: &Path, read: bool, write: bool) -> std::io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    Ok(OpenOptions::new().read(read).write(write).custom_flags(flags).open(path)?.into())
}

/// The path by which a descriptor's file can be opened anew.
pub(super) fn fd_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(super) fn is_readable(fd: &OwnedFd) -> bool {
    !polled_now(fd, PollFlags::IN).is_empty()
}

/// Waits until a descriptor is readable or hung up; false when `timeout` passes first.
pub(super) fn is_readable_within(fd: &OwnedFd, timeout: Duration) -> Result<bool> {
    let begin = Instant::now();
    loop {
        let left = Timespec::try_from(timeout.saturating_sub(begin.elapsed())).map_err(|_| Errno::INVAL);
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        match left.and_then(|left| poll(&mut fds, Some(&left))) {
            Ok(count) => return Ok(count > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}

/// The current result of poll(2); empty when it fails.
pub(super) fn polled_now(fd: &OwnedFd, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).map_or(PollFlags::empty(), |_| fds[0].revents())
}
