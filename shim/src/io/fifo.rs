//! Copies an output to a client's FIFO, in three stages of its process.
//!
//! | stage | our ends of the FIFO | without a reader |
//! |---|---|---|
//! | [`Alive`](Stage::Alive) | both | bytes stay in the FIFO for the next reader, as over a restart of the daemon; the process blocks when it is full |
//! | [`Exited`](Stage::Exited) | the writing one | the exit is published at once; the rest stays for a reader that comes before the deletion |
//! | [`Deleted`](Stage::Deleted) | the writing one | the rest is dropped: at once where a reader was there and has gone |
//!
//! With both ends open this process is a reader itself, so the kernel cannot report whether there is another; with the
//! writing end alone, poll(2) reports an error for as long as there is none.
//!
//! A FIFO loses its content when its last end is closed, and a client that opens it for reading waits for a writer. A
//! client that opens its end in the background, as Docker and containerd do, may be later than all that a short process
//! writes, or than its exit: so the writing end stays open for it. Another closes its end as soon as it is notified of
//! the exit, whatever it has not read yet (containerd's Go client, from Delete), or drops an end that it has just
//! opened when it is notified of the deletion (Go's fifo package): so both wait until a present reader has read
//! everything, but no longer than [`OutputTimeouts`](super::OutputTimeouts) allow.

use std::os::fd::OwnedFd;
use std::path::Path;

use brig_engine::error::Result;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};

use super::fd::{Polled, fd_path, open_fifo, polled, polled_now};
use super::pump::{CopyStage, Source, Stage, Step, writable};
use super::watches::until;

/// A client's FIFO, open at both ends.
#[derive(Debug)]
pub(super) struct Fifo {
    fd: OwnedFd,
    had_reader: bool,
}

impl Fifo {
    pub(super) fn open(path: &Path) -> std::io::Result<Fifo> {
        // Without a reader this open is refused (fifo(7)). It must outlive the next one: a client whose open has waited
        // for it would otherwise read the end of the FIFO.
        let writer = open_fifo(path, false, true).ok();
        Ok(Fifo { fd: open_fifo(path, true, true)?, had_reader: writer.is_some() })
    }

    /// Copies `source` to the FIFO, until the end of either.
    pub(super) fn copy(self, source: Source, stages: CopyStage) -> Result<impl Future<Output = ()> + use<>> {
        let fifo = polled(self.fd)?;
        let output = Output { source, stages, had_reader: self.had_reader };
        Ok(async move {
            match output.copy(fifo).await {
                Ok(true) => {}
                Ok(false) => tracing::debug!("dropping the last bytes of an output: it has no reader"),
                Err(error) => tracing::warn!("copying an output failed, its last bytes may be lost: {error}"),
            }
        })
    }
}

/// An output that is copied to a client's FIFO.
#[derive(Debug)]
struct Output {
    source: Source,
    stages: CopyStage,
    /// Whether a reader was seen, or bytes that it has read.
    had_reader: bool,
}

impl Output {
    /// Copies through all stages. False if output is lost.
    async fn copy(mut self, fifo: Polled) -> std::io::Result<bool> {
        let at_end = tokio::select! {
            biased;
            copied = while_alive(&mut self.source, &fifo) => copied.map(|()| true)?,
            () = self.stages.has_reached(Stage::Exited) => false,
        };
        // This must precede the close of our own reader: without one a non-blocking writer is refused (fifo(7)).
        let end = writing_end(fifo.get_ref())?;
        drop(fifo);
        Ok((at_end || self.after_exit(&end).await?) && self.hand_over(&end).await?)
    }

    /// Copies the remaining output of the exited process, and what other holders of its output write, to present
    /// readers. False if output was dropped.
    async fn after_exit(&mut self, end: &OwnedFd) -> std::io::Result<bool> {
        loop {
            if !self.has_reader(end) && !self.reader_comes(end).await? {
                return Ok(false);
            }
            match self.source.step(end) {
                Step::Moved => self.source.pause().await,
                Step::End => return Ok(true),
                // The next iteration sees it too.
                Step::NoReader => {}
                Step::Full => until(end, |end| is_writable(end) || !has_reader(end)).await?,
                Step::Empty => {
                    if is_empty(end) {
                        self.stages.all_is_read();
                    }
                    let unread = self.stages.is_unread();
                    tokio::select! {
                        ready = self.source.readable() => ready?,
                        changed = until(end, |end| !has_reader(end) || (unread && is_empty(end))) => changed?,
                    }
                }
                Step::Failed(error) => return Err(error.into()),
            }
        }
    }

    /// Holds the writing end of a FIFO, to which nothing more is written, until a reader has come and has read its
    /// content. False if that is lost.
    async fn hand_over(&mut self, end: &OwnedFd) -> std::io::Result<bool> {
        loop {
            if !self.has_reader(end) && !self.reader_comes(end).await? {
                return Ok(is_empty(end));
            }
            if is_empty(end) {
                return Ok(true);
            }
            tokio::select! {
                changed = until(end, |end| is_empty(end) || !has_reader(end)) => changed?,
                () = self.stages.reader_is_late() => return Ok(is_empty(end)),
            }
        }
    }

    fn has_reader(&mut self, end: &OwnedFd) -> bool {
        let has_reader = has_reader(end);
        self.had_reader |= has_reader;
        has_reader
    }

    /// Waits for a reader, without delaying the exit event. False when the deletion comes first: a client that wants
    /// the output has opened it by then, unless it opens its end in the background, for which there is a grace period.
    async fn reader_comes(&mut self, end: &OwnedFd) -> std::io::Result<bool> {
        self.stages.all_is_read();
        self.had_reader |= self.source.moved() > unread_bytes(end);
        let is_awaited = !self.had_reader && (!is_empty(end) || self.source.has_bytes());
        let stages = &mut self.stages;
        let deleted = async {
            match is_awaited {
                true => stages.reader_is_late().await,
                false => stages.has_reached(Stage::Deleted).await,
            }
        };
        tokio::select! {
            biased;
            came = until(end, has_reader) => came.map(|()| true),
            () = deleted => Ok(false),
        }
    }
}

/// Copies until the end of `source`, with a reader or without. May be dropped at any time.
async fn while_alive(source: &mut Source, fifo: &Polled) -> std::io::Result<()> {
    loop {
        match source.step(fifo.get_ref()) {
            Step::Moved => source.pause().await,
            Step::Empty => source.readable().await?,
            Step::Full => writable(fifo).await?,
            Step::End => return Ok(()),
            Step::Failed(error) => return Err(error.into()),
            // This process is a reader itself.
            Step::NoReader => return Err(std::io::ErrorKind::BrokenPipe.into()),
        }
    }
}

/// Whether the FIFO of this writing end has a reader.
fn has_reader(end: &OwnedFd) -> bool {
    // A pipe without a reader reports an error to its writers (poll(2)).
    !polled_now(end, PollFlags::empty()).contains(PollFlags::ERR)
}

fn is_writable(end: &OwnedFd) -> bool {
    polled_now(end, PollFlags::OUT).contains(PollFlags::OUT)
}

fn is_empty(end: &OwnedFd) -> bool {
    unread_bytes(end) == 0
}

/// The number of unread bytes.
fn unread_bytes(end: &OwnedFd) -> u64 {
    rustix::io::ioctl_fionread(end).unwrap_or(0)
}

/// Opens the writing end of a FIFO that is open at both ends.
fn writing_end(fifo: &OwnedFd) -> std::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(fd_path(fifo), flags, Mode::empty())?)
}
