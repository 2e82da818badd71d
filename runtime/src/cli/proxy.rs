//! Bytes between the caller's standard streams and the terminal of a foreground container.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};

use crate::error::{Context, Result};
use crate::sys::tty;

/// What one read may bring. A write of this much does not block after poll found room in a pipe (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// One direction: bytes that were read and not yet written.
struct Pump {
    from: File,
    to: File,
    bytes: [u8; CHUNK],
    start: usize,
    end: usize,
    /// Nothing more comes from `from`.
    drained: bool,
    /// Nobody takes what goes to `to`: it is read and dropped, so that the container does not wait for it.
    deaf: bool,
}

impl Pump {
    fn new(from: File, to: File) -> Pump {
        Pump { from, to, bytes: [0; CHUNK], start: 0, end: 0, drained: false, deaf: false }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What this direction waits for now.
    fn wait(&self) -> Option<PollFd<'_>> {
        if !self.is_empty() {
            Some(PollFd::new(&self.to, PollFlags::OUT))
        } else if !self.drained {
            Some(PollFd::new(&self.from, PollFlags::IN))
        } else {
            None
        }
    }

    /// Moves what can be moved, after poll found that something can.
    fn run(&mut self) {
        if self.is_empty() {
            if self.drained {
                return;
            }
            match self.from.read(&mut self.bytes) {
                Ok(0) => self.drained = true,
                Ok(count) => (self.start, self.end) = (0, count),
                Err(error) if is_transient(&error) => {}
                // A master whose slaves are all closed reads as EIO. Any other error ends the stream as well.
                Err(_) => self.drained = true,
            }
            return;
        }
        if self.deaf {
            self.start = self.end;
            return;
        }
        match self.to.write(&self.bytes[self.start..self.end]) {
            Ok(count) => self.start += count,
            Err(error) if is_transient(&error) => {}
            Err(_) => self.deaf = true,
        }
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The proxy between a pseudoterminal's master and the caller. The caller's terminal is raw while it lives.
pub struct Proxy {
    input: Pump,
    output: Pump,
    master: OwnedFd,
    /// The caller's terminal, whose size is passed on.
    outer: Option<OwnedFd>,
    _raw: Option<tty::RawMode<OwnedFd>>,
}

impl Proxy {
    /// Takes over the caller's standard streams.
    pub fn new(master: OwnedFd) -> Result<Proxy> {
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().context("duplicate a standard stream");
        // Poll says when there is something, but another reader of the same terminal may be quicker.
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| crate::sys::SysError::from_rustix("ioctl", "FIONBIO", error))?;
        let streams = [copy(io::stdin().as_fd())?, copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?];
        let raw = tty::RawMode::new(copy(streams[0].as_fd())?)?;
        let outer = streams.iter().find(|stream| tty::size(stream.as_fd()).is_ok());
        let outer = outer.map(|stream| copy(stream.as_fd())).transpose()?;
        let [stdin, stdout, _] = streams;
        let proxy = Proxy {
            input: Pump::new(stdin.into(), copy(master.as_fd())?.into()),
            output: Pump::new(copy(master.as_fd())?.into(), stdout.into()),
            master,
            outer,
            _raw: raw,
        };
        proxy.resize();
        Ok(proxy)
    }

    /// Gives the container's terminal the size of the caller's.
    pub fn resize(&self) {
        let Some(outer) = &self.outer else { return };
        // The caller's terminal may have hung up; a wrong size is not worth ending the container for.
        let set = tty::size(outer.as_fd()).and_then(|(rows, columns)| tty::set_size(self.master.as_fd(), rows, columns));
        if let Err(error) = set {
            tracing::debug!("resize the terminal: {error}");
        }
    }

    /// What to poll, for input and output.
    pub fn waits(&self) -> [Option<PollFd<'_>>; 2] {
        [self.input.wait(), self.output.wait()]
    }

    /// Moves bytes in the directions that are ready.
    pub fn run(&mut self, ready: [bool; 2]) {
        if ready[0] {
            self.input.run();
        }
        if ready[1] {
            self.output.run();
        }
    }

    /// Writes out what the container wrote before it ended. Poll on a master looks behind the line discipline's
    /// queue, so nothing is still on its way once it finds nothing.
    pub fn drain(mut self) {
        while !self.output.drained || !self.output.is_empty() {
            let limit = self.output.is_empty().then(rustix::time::Timespec::default);
            let Some(wait) = self.output.wait() else { return };
            match rustix::event::poll(&mut [wait], limit.as_ref()) {
                Ok(0) => return,
                Ok(_) => self.output.run(),
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}
