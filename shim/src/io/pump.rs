//! Copies between descriptors on the server's one thread: by splice(2) between pipes, without a buffer of our own;
//! through a small buffer where one end is a terminal or a file. Clients' FIFOs are in [`fifo`](super::fifo).

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

/// The most bytes that one splice moves: a pipe's usual size.
const SPLICE: usize = 64 << 10;
/// The size of a buffer, in bytes, where one is needed.
const BUFFER: usize = 8 << 10;
/// The most bytes that a terminal returns at once (N_TTY_BUF_SIZE in drivers/tty/n_tty.c).
const TERMINAL: usize = 4 << 10;

/// The destination of bytes.
#[derive(Debug)]
pub(super) enum Sink {
    /// No destination: bytes are dropped.
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

/// The stage of the process whose stream is copied.
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
pub(super) struct CopyStage {
    stage: watch::Receiver<Stage>,
    timeouts: OutputTimeouts,
    /// Dropped when all of the process's output has been read, or there is no reader.
    unread: Option<oneshot::Sender<()>>,
}

impl CopyStage {
    /// The stages for a stream whose reading no exit event waits for.
    pub(super) fn new(stage: watch::Receiver<Stage>) -> CopyStage {
        CopyStage { stage, timeouts: OutputTimeouts::default(), unread: None }
    }

    /// The stages for an output. The receiver ends when all output from before the process's exit has been read.
    pub(super) fn of_output(
        stage: watch::Receiver<Stage>,
        timeouts: OutputTimeouts,
    ) -> (CopyStage, oneshot::Receiver<()>) {
        let (unread, read) = oneshot::channel();
        (CopyStage { stage, timeouts, unread: Some(unread) }, read)
    }

    /// Waits for a stage. An error means that the process's streams are gone, and this copy is aborted then.
    pub(super) async fn has_reached(&mut self, stage: Stage) {
        let _ = self.stage.wait_for(|now| *now >= stage).await;
    }

    /// Waits until the time of a present reader, from the start of the deletion, has expired.
    pub(super) async fn reader_is_late(&mut self) {
        self.has_reached(Stage::Deleted).await;
        within(self.timeouts.exit, std::future::pending::<()>()).await;
    }

    /// Releases the exit event, which waits for this stream no longer.
    pub(super) fn all_is_read(&mut self) {
        self.unread = None;
    }

    /// Whether the exit event waits for this stream, or will.
    pub(super) fn is_unread(&self) -> bool {
        self.unread.is_some()
    }

    /// Waits until there is something to read. An output that others keep open after the exit of the process, and that
    /// is empty then, counts as read.
    async fn readable<'a>(&mut self, source: &'a Polled) -> std::io::Result<Guard<'a>> {
        if self.is_unread() {
            tokio::select! {
                biased;
                guard = source.readable() => return guard,
                () = self.has_reached(Stage::Exited) => {}
            }
            if !is_readable(source.get_ref()) {
                self.all_is_read();
            }
        }
        source.readable().await
    }
}

/// Copies until the end, through a buffer.
pub(super) async fn bytes(source: Polled, sink: Sink, mut stages: CopyStage) {
    loop {
        let mut guard = match stages.readable(&source).await {
            Ok(guard) => guard,
            Err(error) => return log_copy_error(&error),
        };
        // Allocated anew each time: no memory is held while no bytes come.
        let mut buffer = vec![0; BUFFER];
        let Ok(read) = guard.try_io(|fd| Ok(rustix::io::read(fd, &mut buffer[..])?)) else { continue };
        match read {
            // EIO: the last user of a terminal's other side is gone.
            Ok(0) => return,
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => return,
            Ok(read) => {
                if let Err(error) = sink.write(&buffer[..read]).await {
                    return log_copy_error(&error);
                }
            }
            Err(error) => return log_copy_error(&error),
        }
        tokio::task::yield_now().await;
    }
}

/// The result of one attempt to copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Some bytes were copied, or a signal came before any were.
    Moved,
    /// The source has no bytes at the moment.
    Empty,
    /// The sink accepts no bytes at the moment.
    Full,
    /// The source has reached its end.
    End,
    /// The sink has no reader.
    NoReader,
    /// Another error of either descriptor.
    Failed(Errno),
}

/// An output of a process. Copying it to a pipe loses no bytes wherever it is interrupted.
#[derive(Debug)]
pub(super) struct Source {
    fd: Polled,
    is_terminal: bool,
    /// Bytes read from a terminal that the sink has not accepted.
    rest: Vec<u8>,
    /// The number of bytes that sinks have accepted.
    moved: u64,
}

impl Source {
    /// Creates a source from the reading end of a pipe.
    pub(super) fn pipe(fd: OwnedFd) -> Result<Source> {
        Ok(Source { fd: polled(fd)?, is_terminal: false, rest: Vec::new(), moved: 0 })
    }

    /// Creates a source from the master of a terminal.
    pub(super) fn terminal(fd: OwnedFd) -> Result<Source> {
        Ok(Source { fd: polled(fd)?, is_terminal: true, rest: Vec::new(), moved: 0 })
    }

    /// Converts to the source of [`bytes`].
    pub(super) fn into_polled(self) -> Polled {
        self.fd
    }

    /// Copies available bytes to a pipe, without blocking.
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
            // The error does not say which of the two would block.
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

    /// The number of bytes copied so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// Whether there are bytes to copy.
    pub(super) fn has_bytes(&self) -> bool {
        !self.rest.is_empty() || rustix::io::ioctl_fionread(self.fd.get_ref()).is_ok_and(|count| count > 0)
    }

    /// Waits until the result is no longer [`Step::Empty`].
    pub(super) async fn readable(&self) -> std::io::Result<()> {
        self.fd.async_io(Interest::READABLE, |fd| now_or_later(is_readable(fd))).await
    }

    /// Lets other tasks run before the next step.
    pub(super) async fn pause(&self) {
        if self.is_terminal {
            // A read of a terminal that has no more bytes waits for the kernel's worker that fills it (n_tty_read,
            // tty_buffer_flush_work), and this thread with it: by the next turn the worker has run.
            tokio::task::yield_now().await;
        } else {
            tokio::task::consume_budget().await;
        }
    }
}

/// Waits until a pipe accepts bytes.
pub(super) async fn writable(pipe: &Polled) -> std::io::Result<()> {
    pipe.async_io(Interest::WRITABLE, |fd| now_or_later(!polled_now(fd, PollFlags::OUT).is_empty())).await
}

fn now_or_later(is_so: bool) -> std::io::Result<()> {
    if is_so { Ok(()) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
}

/// Copies from a pipe to a pipe until the end, or until `closed`; then copies the bytes written before, although the
/// source may still have a writer.
pub(super) async fn pipe_until(source: Polled, sink: Polled, closed: impl Future<Output = ()>) {
    // A splice is complete or not started: no bytes are lost between the two.
    tokio::select! {
        () = copy(&source, &sink) => {}
        () = closed => copy_rest(&source, &sink).await,
    }
}

async fn copy(source: &Polled, sink: &Polled) {
    loop {
        let (mut from, mut to) = match both_ready(source, sink).await {
            Ok(guards) => guards,
            Err(error) => return log_copy_error(&error),
        };
        match splice(source.get_ref(), sink.get_ref()) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            // The error does not say which of the two would block.
            Err(Errno::AGAIN) if is_readable(source.get_ref()) => to.clear_ready(),
            Err(Errno::AGAIN) => from.clear_ready(),
            Err(error) => return log_copy_error(&error.into()),
        }
    }
}

async fn copy_rest(source: &Polled, sink: &Polled) {
    loop {
        let mut to = match sink.writable().await {
            Ok(guard) => guard,
            Err(error) => return log_copy_error(&error),
        };
        match splice(source.get_ref(), sink.get_ref()) {
            Ok(0) => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) if is_readable(source.get_ref()) => to.clear_ready(),
            Err(Errno::AGAIN) => return,
            Err(error) => return log_copy_error(&error.into()),
        }
    }
}

fn splice(source: &OwnedFd, sink: &OwnedFd) -> rustix::io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    rustix::pipe::splice(source, None, sink, None, SPLICE, flags)
}

type Guard<'a> = tokio::io::unix::AsyncFdReadyGuard<'a, OwnedFd>;

async fn both_ready<'a>(source: &'a Polled, sink: &'a Polled) -> std::io::Result<(Guard<'a>, Guard<'a>)> {
    Ok((source.readable().await?, sink.writable().await?))
}

fn log_copy_error(error: &std::io::Error) {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        // The process has closed its input, or the logger has exited: neither is an error of the shim.
        tracing::debug!("a stream was closed by its other side");
    } else {
        tracing::warn!("copying a stream failed: {error}");
    }
}
