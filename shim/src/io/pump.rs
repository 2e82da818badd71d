//! Copying between descriptors on the server's one thread: by splice(2) between pipes, without a buffer of our own; by
//! a small buffer where a terminal or a file is at an end. Clients' FIFOs are in [`fifo`](super::fifo).

use std::os::fd::OwnedFd;

use brig_engine::error::Result;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use tokio::io::Interest;
use tokio::sync::{oneshot, watch};

use super::fd::{Polled, is_readable, polled, polled_now};
use super::file::HostFile;
use super::timeouts::{OutputTimeouts, within};

/// The most that one splice moves, in bytes: a pipe's usual size.
const SPLICE: usize = 64 << 10;
/// The buffer where one is needed, in bytes.
const BUFFER: usize = 8 << 10;
/// The most that a terminal gives at once, in bytes (N_TTY_BUF_SIZE in drivers/tty/n_tty.c).
const TERMINAL: usize = 4 << 10;

/// Where bytes go.
#[derive(Debug)]
pub(super) enum Sink {
    /// Nowhere.
    Null,
    /// A pipe or terminal.
    Fd(Polled),
    /// A file, which may block.
    File(HostFile),
}

impl Sink {
    pub(super) fn fd(fd: OwnedFd) -> Result<Sink> {
        polled(fd).map(Sink::Fd)
    }

    async fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Sink::Null => Ok(()),
            Sink::Fd(fd) => {
                let mut left = bytes;
                while !left.is_empty() {
                    let written = fd.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, left)?)).await?;
                    left = &left[written..];
                }
                Ok(())
            }
            Sink::File(file) => file.write(bytes).await,
        }
    }
}

/// How far the process is whose stream is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The process runs, or was not started yet.
    Alive,
    /// The process has exited, and its exit has not been published.
    Exited,
    /// The process is being deleted: a client that wants its output has come by then.
    Deleted,
}

/// The stages of the process whose stream is copied, as the copy follows them.
#[derive(Debug)]
pub(super) struct Life {
    stage: watch::Receiver<Stage>,
    timeouts: OutputTimeouts,
    /// Dropped when all that the process wrote has been read, or no reader is there.
    unread: Option<oneshot::Sender<()>>,
}

impl Life {
    /// Of a stream whose reading no exit event waits for.
    pub(super) fn new(stage: watch::Receiver<Stage>) -> Life {
        Life { stage, timeouts: OutputTimeouts::default(), unread: None }
    }

    /// Of an output. The receiver ends when all that the process wrote before its exit has been read.
    pub(super) fn of_output(stage: watch::Receiver<Stage>, timeouts: OutputTimeouts) -> (Life, oneshot::Receiver<()>) {
        let (unread, read) = oneshot::channel();
        (Life { stage, timeouts, unread: Some(unread) }, read)
    }

    /// An error would say that the process's streams are gone, and then this copy is ended too.
    pub(super) async fn has_come_to(&mut self, stage: Stage) {
        let _ = self.stage.wait_for(|now| *now >= stage).await;
    }

    /// Waits until a reader that is there has had its time since the deletion began.
    pub(super) async fn reader_is_late(&mut self) {
        self.has_come_to(Stage::Deleted).await;
        within(self.timeouts.exit, std::future::pending::<()>()).await;
    }

    /// The exit event waits for this stream no longer.
    pub(super) fn all_is_read(&mut self) {
        self.unread = None;
    }

    /// The exit event waits for this stream, or will.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Waits until there is something to read. An output that others keep open after the exit of the process, and that
    /// has nothing to read then, has been read.
    async fn readable<'a>(&mut self, source: &'a Polled) -> std::io::Result<Guard<'a>> {
        if self.is_unread() {
            tokio::select! {
                biased;
                guard = source.readable() => return guard,
                () = self.has_come_to(Stage::Exited) => {}
            }
            if !is_readable(source.get_ref()) {
                self.all_is_read();
            }
        }
        source.readable().await
    }
}

/// Copies until the end, through a buffer.
pub(super) async fn bytes(source: Polled, sink: Sink, mut life: Life) {
    loop {
        let mut guard = match life.readable(&source).await {
            Ok(guard) => guard,
            Err(error) => return ended(&error),
        };
        // Made anew each time: nothing is kept while nothing comes.
        let mut buffer = vec![0; BUFFER];
        let Ok(read) = guard.try_io(|fd| Ok(rustix::io::read(fd, &mut buffer[..])?)) else { continue };
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
        tokio::task::yield_now().await;
    }
}

/// What one attempt to copy has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Some bytes were copied, or a signal came before any were.
    Moved,
    /// The source has nothing at the moment.
    Empty,
    /// The sink takes nothing at the moment.
    Full,
    /// The source has come to its end.
    End,
    /// The sink has no reader.
    NoReader,
    /// Another error of either.
    Failed(Errno),
}

/// An output of a process, of which copying to a pipe loses nothing wherever it is interrupted.
#[derive(Debug)]
pub(super) struct Source {
    fd: Polled,
    is_terminal: bool,
    /// What was read from a terminal and not taken by the sink.
    rest: Vec<u8>,
    /// Bytes that sinks have taken.
    moved: u64,
}

impl Source {
    /// The reading end of a pipe.
    pub(super) fn pipe(fd: OwnedFd) -> Result<Source> {
        Ok(Source { fd: polled(fd)?, is_terminal: false, rest: Vec::new(), moved: 0 })
    }

    /// The master of a terminal.
    pub(super) fn terminal(fd: OwnedFd) -> Result<Source> {
        Ok(Source { fd: polled(fd)?, is_terminal: true, rest: Vec::new(), moved: 0 })
    }

    /// For [`bytes`].
    pub(super) fn into_polled(self) -> Polled {
        self.fd
    }

    /// Copies what is there to a pipe, without blocking.
    pub(super) fn step(&mut self, sink: &OwnedFd) -> Step {
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return self.write(sink, &rest);
        }
        if self.is_terminal {
            let mut buffer = [0; TERMINAL];
            return match rustix::io::read(self.fd.get_ref(), &mut buffer) {
                // EIO: the last user of a terminal's other side is gone.
                Ok(0) | Err(Errno::IO) => Step::End,
                Ok(count) => self.write(sink, &buffer[..count]),
                Err(Errno::AGAIN) => Step::Empty,
                Err(Errno::INTR) => Step::Moved,
                Err(error) => Step::Failed(error),
            };
        }
        match splice(self.fd.get_ref(), sink) {
            Ok(0) => Step::End,
            Ok(count) => {
                self.moved += count as u64;
                Step::Moved
            }
            Err(Errno::INTR) => Step::Moved,
            // Which of the two made it stop is not told.
            Err(Errno::AGAIN) if is_readable(self.fd.get_ref()) => Step::Full,
            Err(Errno::AGAIN) => Step::Empty,
            Err(Errno::PIPE) => Step::NoReader,
            Err(error) => Step::Failed(error),
        }
    }

    fn write(&mut self, sink: &OwnedFd, bytes: &[u8]) -> Step {
        let written = rustix::io::write(sink, bytes);
        let count = written.unwrap_or(0);
        self.moved += count as u64;
        self.rest.extend_from_slice(&bytes[count..]);
        match written {
            Ok(_) | Err(Errno::INTR) => Step::Moved,
            Err(Errno::AGAIN) => Step::Full,
            Err(Errno::PIPE) => Step::NoReader,
            Err(error) => Step::Failed(error),
        }
    }

    /// How many bytes were copied so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// There are bytes to copy.
    pub(super) fn has_bytes(&self) -> bool {
        !self.rest.is_empty() || rustix::io::ioctl_fionread(self.fd.get_ref()).is_ok_and(|count| count > 0)
    }

    /// Waits until [`Step::Empty`] is over.
    pub(super) async fn readable(&self) -> std::io::Result<()> {
        self.fd.async_io(Interest::READABLE, |fd| now_or_later(is_readable(fd))).await
    }

    /// Lets others go on before the next step.
    pub(super) async fn pause(&self) {
        if self.is_terminal {
            // A read of a terminal that has nothing more waits for the kernel's worker that fills it (n_tty_read,
            // tty_buffer_flush_work), and this thread with it: by the next turn it has run.
            tokio::task::yield_now().await;
        } else {
            tokio::task::consume_budget().await;
        }
    }
}

/// Waits until a pipe takes something.
pub(super) async fn writable(pipe: &Polled) -> std::io::Result<()> {
    pipe.async_io(Interest::WRITABLE, |fd| now_or_later(!polled_now(fd, PollFlags::OUT).is_empty())).await
}

fn now_or_later(is_so: bool) -> std::io::Result<()> {
    if is_so { Ok(()) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
}

/// Copies from a pipe to a pipe until the end, or until `closed`; and then what was written before, although the
/// source may have a writer still.
pub(super) async fn pipe_until(source: Polled, sink: Polled, closed: impl Future<Output = ()>) {
    // A splice is whole or not begun: nothing is lost between the two.
    tokio::select! {
        () = copy(&source, &sink) => {}
        () = closed => rest(&source, &sink).await,
    }
}

async fn copy(source: &Polled, sink: &Polled) {
    loop {
        let (mut from, mut to) = match both(source, sink).await {
            Ok(guards) => guards,
            Err(error) => return ended(&error),
        };
        match splice(source.get_ref(), sink.get_ref()) {
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
        match splice(source.get_ref(), sink.get_ref()) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if is_readable(source.get_ref()) => to.clear_ready(),
            Err(Errno::AGAIN) => return,
            Err(error) => return ended(&error.into()),
        }
    }
}

fn splice(source: &OwnedFd, sink: &OwnedFd) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    rustix::pipe::splice(source, None, sink, None, SPLICE, flags)
}

type Guard<'a> = tokio::io::unix::AsyncFdReadyGuard<'a, OwnedFd>;

async fn both<'a>(source: &'a Polled, sink: &'a Polled) -> std::io::Result<(Guard<'a>, Guard<'a>)> {
    Ok((source.readable().await?, sink.writable().await?))
}

fn ended(error: &std::io::Error) {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // The process closed its input, or the logger died: its own affair.
        tracing::debug!("a stream's other side is closed");
    } else {
        tracing::warn!("a stream is no longer copied: {error}");
    }
}
