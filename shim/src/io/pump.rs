//! Copying between descriptors on the server's one thread: by splice(2) between pipes, without a buffer of our own; by
//! a small buffer where a terminal or a file is at an end.
//!
//! A FIFO loses what is in it when its last end is closed, and who opens it for reading waits for a writer. A client that
//! opens its end in the background, as Docker and containerd do, may be later than all that a short process has to say, or
//! than its end: our writing end is kept for it then ([`handed_over`]). Another closes its end as soon as it hears of the
//! process's end, whatever it has not read yet (containerd's Go client, from Delete): so that end is not told before what
//! was written has been read ([`Life::readable`]).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use brig::error::{Context, Result};
use brig::sys::procfs::fd_path;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use super::patiently;
use super::watches::until;

/// The most that one splice moves, in bytes: a pipe's usual size.
const SPLICE: usize = 64 << 10;
/// The buffer where one is needed, in bytes.
const BUFFER: usize = 8 << 10;

/// A descriptor that the runtime polls. It does not block.
pub(super) type Polled = AsyncFd<OwnedFd>;

/// Registers a descriptor, in the directions that it is open for.
#[allow(deprecated, reason = "sound for an OwnedFd, which stays the same descriptor as long as it lives; the other way is unsafe")]
pub(super) fn polled(fd: OwnedFd) -> Result<Polled> {
    let unable = "unable to poll a stream";
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(std::io::Error::from).context(unable)?;
    let interest = match flags & OFlags::ACCMODE {
        OFlags::RDONLY => Interest::READABLE,
        OFlags::WRONLY => Interest::WRITABLE,
        _ => Interest::READABLE | Interest::WRITABLE,
    };
    AsyncFd::with_interest(fd, interest).context(unable)
}

/// Where bytes go.
#[derive(Debug)]
pub(super) enum Sink {
    /// Nowhere.
    Null,
    /// A pipe or terminal.
    Fd(Polled),
    /// A client's FIFO, open here at both ends.
    Fifo(Polled),
    /// A file, which may block.
    File(Arc<std::fs::File>),
}

impl Sink {
    pub(super) fn fd(fd: OwnedFd) -> Result<Sink> {
        polled(fd).map(Sink::Fd)
    }

    pub(super) fn fifo(fd: OwnedFd) -> Result<Sink> {
        polled(fd).map(Sink::Fifo)
    }

    async fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Sink::Null => Ok(()),
            Sink::Fd(fd) | Sink::Fifo(fd) => {
                let mut left = bytes;
                while !left.is_empty() {
                    let written = fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, left)?)).await?;
                    left = &left[written..];
                }
                Ok(())
            }
            Sink::File(file) => {
                let (file, bytes) = (Arc::clone(file), bytes.to_vec());
                let write = move || std::io::Write::write_all(&mut &*file, &bytes);
                tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
            }
        }
    }
}

/// How far the process is whose stream is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// It lives.
    Alive,
    /// It has ended, and nobody has been told.
    Ended,
    /// It is being deleted: whoever wants its output has come by then.
    Deleted,
}

/// The life of the process whose stream is copied, as the copy follows it.
#[derive(Debug)]
pub(super) struct Life {
    stage: watch::Receiver<Stage>,
    /// Dropped when all that the process wrote has been read, or nobody is there who would.
    unread: Option<oneshot::Sender<()>>,
}

impl Life {
    /// Of a stream whose reading nobody waits for.
    pub(super) fn new(stage: watch::Receiver<Stage>) -> Life {
        Life { stage, unread: None }
    }

    /// Of an output. The receiver is told when all that the process wrote before its end has been read.
    pub(super) fn of_output(stage: watch::Receiver<Stage>) -> (Life, oneshot::Receiver<()>) {
        let (unread, read) = oneshot::channel();
        (Life { stage, unread: Some(unread) }, read)
    }

    /// An error would say that nobody is left to come any further.
    async fn has_come_to(&mut self, stage: Stage) {
        let _ = self.stage.wait_for(|now| *now >= stage).await;
    }

    /// Waits until there is something to read. An output that others keep open after the end of the process is one that
    /// has nothing to read then: it is told when what was copied to `fifo` has been read.
    async fn readable<'a>(&mut self, source: &'a Polled, fifo: Option<&Polled>) -> std::io::Result<Guard<'a>> {
        if self.unread.is_some() {
            tokio::select! {
                biased;
                guard = source.readable() => return guard,
                () = self.has_come_to(Stage::Ended) => {}
            }
            if !is_readable(source.get_ref()) {
                if let Some(fifo) = fifo {
                    tokio::select! {
                        guard = source.readable() => return guard,
                        // Its copying goes on in any case.
                        read = until(fifo.get_ref(), is_empty) => if let Err(error) = read {
                            tracing::warn!("an end is told, and its output may not have been read: {error}");
                        },
                    }
                }
                self.unread = None;
            }
        }
        source.readable().await
    }
}

/// Copies until the end, through a buffer.
pub(super) async fn bytes(source: Polled, sink: Sink, mut life: Life) {
    copy_bytes(&source, &sink, &mut life).await;
    if let Sink::Fifo(fifo) = sink {
        handed_over(fifo.into_inner(), life).await;
    }
}

async fn copy_bytes(source: &Polled, sink: &Sink, life: &mut Life) {
    let fifo = match sink {
        Sink::Fifo(fifo) => Some(fifo),
        Sink::Null | Sink::Fd(_) | Sink::File(_) => None,
    };
    loop {
        match life.readable(source, fifo).await {
            Ok(guard) => drop(guard),
            Err(error) => return ended(&error),
        }
        // Made anew each time: nothing is kept while nothing comes.
        let mut buffer = vec![0; BUFFER];
        let read = source.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer[..])?)).await;
        match read {
            // EIO: the last user of a terminal's other side is gone.
            Ok(0) => return,
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return,
            Ok(read) => {
                if let Err(error) = sink.write(&buffer[..read]).await {
                    return ended(&error);
                }
            }
            Err(error) => return ended(&error),
        }
    }
}

/// Copies from a pipe to a client's FIFO, which is open here at both ends, until the end.
pub(super) async fn pipe(source: Polled, fifo: Polled, mut life: Life) {
    copy(&source, &fifo, Some(&mut life)).await;
    handed_over(fifo.into_inner(), life).await;
}

/// Closes a FIFO that is open here at both ends, and to which nothing more comes. One without another reader is kept for
/// it: a client that opens it later would wait for a writer for ever, and what is in it would be lost. What a reader has
/// not read yet is waited for, too: a client that hears of the deletion may let go of what it has just opened (Go's fifo
/// package does, where its open is not on record yet). A deletion ends either wait; what is in it then is waited for
/// [`patiently`].
async fn handed_over(fifo: OwnedFd, life: Life) {
    match hand_over(fifo, life).await {
        Ok(true) => {}
        Ok(false) => tracing::debug!("nobody reads a stream, whose last bytes are lost"),
        Err(error) => tracing::warn!("a stream's last bytes may be lost: {error}"),
    }
}

/// See [`handed_over`]. False if what is in it is lost.
async fn hand_over(fifo: OwnedFd, mut life: Life) -> std::io::Result<bool> {
    // While our own reader is there: without one a writer that does not block is refused (fifo(7)).
    let mut end = again(&fifo, OFlags::WRONLY)?;
    drop(fifo);
    if !has_reader(&end) {
        // The process's end waits for nobody who has not come.
        life.unread = None;
        tokio::select! {
            came = until(&end, has_reader) => came?,
            () = life.has_come_to(Stage::Deleted) => {}
        }
    }
    if is_empty(&end) {
        return Ok(true);
    }
    if has_reader(&end) {
        // It gets the end after the rest: from here on nobody writes, and this end keeps what it leaves.
        end = again(&end, OFlags::RDONLY)?;
    }
    tokio::select! {
        read = until(&end, is_empty) => return read.map(|()| true),
        () = life.has_come_to(Stage::Deleted) => {}
    }
    match patiently(until(&end, is_empty)).await {
        Some(read) => read.map(|()| true),
        None => Ok(is_empty(&end)),
    }
}

/// To be asked at the writing end of a FIFO.
fn has_reader(writer: &OwnedFd) -> bool {
    // A pipe without a reader has an error for its writers (poll(2)).
    !polled_now(writer, PollFlags::empty()).contains(PollFlags::ERR)
}

fn is_empty(fifo: &OwnedFd) -> bool {
    rustix::io::ioctl_fionread(fifo).is_ok_and(|count| count == 0)
}

/// Opens a FIFO once more, at this end.
fn again(fifo: &OwnedFd, end: OFlags) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::open(fd_path(fifo), end | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// Copies from a pipe to a pipe until the end, or until `closed`; and then what was written before, although the
/// source may have a writer still.
pub(super) async fn pipe_until(source: Polled, sink: Polled, closed: impl Future<Output = ()>) {
    // A splice is whole or not begun: nothing is lost between the two.
    tokio::select! {
        () = copy(&source, &sink, None) => {}
        () = closed => rest(&source, &sink).await,
    }
}

async fn copy(source: &Polled, sink: &Polled, mut life: Option<&mut Life>) {
    loop {
        let (mut from, mut to) = match both(source, sink, life.as_deref_mut()).await {
            Ok(guards) => guards,
            Err(error) => return ended(&error),
        };
        match splice(source, sink) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            // Which of the two made it stop is not told.
            Err(Errno::AGAIN) if is_readable(source.get_ref()) => to.clear_ready(),
            Err(Errno::AGAIN) => from.clear_ready(),
            Err(error) => return ended(&error.into()),
        }
    }
}

async fn rest(source: &Polled, sink: &Polled) {
    loop {
        let mut to = match sink.writable().await {
            Ok(guard) => guard,
            Err(error) => return ended(&error),
        };
        match splice(source, sink) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if is_readable(source.get_ref()) => to.clear_ready(),
            Err(Errno::AGAIN) => return,
            Err(error) => return ended(&error.into()),
        }
    }
}

fn splice(source: &Polled, sink: &Polled) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    rustix::pipe::splice(source.get_ref(), None, sink.get_ref(), None, SPLICE, flags)
}

type Guard<'a> = tokio::io::unix::AsyncFdReadyGuard<'a, OwnedFd>;

async fn both<'a>(
    source: &'a Polled,
    sink: &'a Polled,
    life: Option<&mut Life>,
) -> std::io::Result<(Guard<'a>, Guard<'a>)> {
    let from = match life {
        Some(life) => life.readable(source, Some(sink)).await?,
        None => source.readable().await?,
    };
    Ok((from, sink.writable().await?))
}

fn is_readable(fd: &OwnedFd) -> bool {
    !polled_now(fd, PollFlags::IN).is_empty()
}

/// What poll(2) says at this moment; nothing when it fails.
fn polled_now(fd: &OwnedFd, flags: PollFlags) -> PollFlags {
    let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).map_or(PollFlags::empty(), |_| fds[0].revents())
}

fn ended(error: &std::io::Error) {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // The process closed its input, or the logger died: its own affair.
        tracing::debug!("a stream's other side is closed");
    } else {
        tracing::warn!("a stream is no longer copied: {error}");
    }
}
