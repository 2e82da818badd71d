//! Bytes between the caller's standard streams and those of a foreground container: its terminal, or pipes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};

use brig_engine::error::{Context, Result};
use brig_sys::signal::Signals;
use brig_sys::tty;

/// What one read may bring. A write of this much does not block after poll found room in a pipe (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// What the container's side is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A terminal's master, which serves both directions and stays open.
    Terminal,
    /// A pipe, which is closed once the caller's side is: the container sees the end of file, or is refused a write.
    Pipe,
}

/// One direction: bytes that were read and not yet written.
struct Pump {
    /// `None` once nothing more comes from it.
    from: Option<File>,
    /// `None` once it takes nothing more. What a terminal says is read and dropped then, so that the container does not
    /// wait for it.
    to: Option<File>,
    side: Side,
    bytes: [u8; CHUNK],
    start: usize,
    end: usize,
}

impl Pump {
    fn new(from: impl Into<File>, to: impl Into<File>, side: Side) -> Pump {
        Pump { from: Some(from.into()), to: Some(to.into()), side, bytes: [0; CHUNK], start: 0, end: 0 }
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// What this direction waits for now.
    fn wait(&self) -> Option<PollFd<'_>> {
        if self.is_empty() {
            self.from.as_ref().map(|from| PollFd::new(from, PollFlags::IN))
        } else {
            self.to.as_ref().map(|to| PollFd::new(to, PollFlags::OUT))
        }
    }

    /// Moves what can be moved, after poll found that something can.
    fn run(&mut self) {
        if self.is_empty() {
            self.read();
        } else {
            self.write();
        }
        let is_over = self.is_empty() && self.from.is_none() || self.to.is_none();
        if is_over && self.side == Side::Pipe {
            (self.from, self.to) = (None, None);
        }
    }

    fn read(&mut self) {
        let Some(from) = &mut self.from else { return };
        match from.read(&mut self.bytes) {
            Ok(count @ 1..) => (self.start, self.end) = (0, if self.to.is_some() { count } else { 0 }),
            Err(error) if is_transient(&error) => {}
            // A master whose slaves are all closed reads as EIO. Any other error ends the stream as well.
            Ok(0) | Err(_) => self.from = None,
        }
    }

    fn write(&mut self) {
        let Some(to) = &mut self.to else { return };
        match to.write(&self.bytes[self.start..self.end]) {
            Ok(count) => self.start += count,
            Err(error) if is_transient(&error) => {}
            Err(_) => (self.to, self.start) = (None, self.end),
        }
    }

    /// Bytes to be written next, once nothing more is read.
    fn append(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The container's terminal and the caller's, which is raw while this exists.
struct Terminal {
    master: OwnedFd,
    /// The caller's terminal, whose size is passed on.
    outer: Option<OwnedFd>,
    _raw: Option<tty::RawMode<OwnedFd>>,
}

/// The proxy between the caller's standard streams and the container's.
pub struct Proxy {
    input: Option<Pump>,
    outputs: [Option<Pump>; 2],
    terminal: Option<Terminal>,
}

fn copy(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().context("duplicate a standard stream")
}

impl Proxy {
    /// Takes over the caller's standard streams, for the terminal of this master.
    pub fn new(master: OwnedFd) -> Result<Proxy> {
        // Poll says when there is something, but another reader of the same terminal may be quicker.
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| brig_sys::SysError::from_rustix("ioctl", "FIONBIO", error))?;
        let streams = [copy(io::stdin().as_fd())?, copy(io::stdout().as_fd())?, copy(io::stderr().as_fd())?];
        let raw = tty::RawMode::new(copy(streams[0].as_fd())?)?;
        let outer = streams.iter().find(|stream| tty::size(stream.as_fd()).is_ok());
        let outer = outer.map(|stream| copy(stream.as_fd())).transpose()?;
        let [stdin, stdout, _] = streams;
        let input = Pump::new(stdin, copy(master.as_fd())?, Side::Terminal);
        let output = Pump::new(copy(master.as_fd())?, stdout, Side::Terminal);
        let terminal = Some(Terminal { master, outer, _raw: raw });
        let proxy = Proxy { input: Some(input), outputs: [Some(output), None], terminal };
        proxy.resize();
        Ok(proxy)
    }

    /// The same for pipes to standard input, and from standard output and error.
    pub fn of_pipes([input, output, error]: [OwnedFd; 3]) -> Result<Proxy> {
        Ok(Proxy {
            input: Some(Pump::new(copy(io::stdin().as_fd())?, input, Side::Pipe)),
            outputs: [
                Some(Pump::new(output, copy(io::stdout().as_fd())?, Side::Pipe)),
                Some(Pump::new(error, copy(io::stderr().as_fd())?, Side::Pipe)),
            ],
            terminal: None,
        })
    }

    /// The container has a terminal, whose size follows the caller's.
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Gives the container's terminal the size of the caller's.
    pub fn resize(&self) {
        let Some(Terminal { master, outer: Some(outer), .. }) = &self.terminal else { return };
        // The caller's terminal may have hung up; a wrong size is not worth ending the container for.
        let set = tty::size(outer.as_fd()).and_then(|(rows, columns)| tty::set_size(master.as_fd(), rows, columns));
        if let Err(error) = set {
            tracing::debug!("resize the terminal: {error}");
        }
    }

    /// What to poll, for input and both outputs.
    pub fn waits(&self) -> [Option<PollFd<'_>>; 3] {
        let [output, error] = &self.outputs;
        [&self.input, output, error].map(|pump| pump.as_ref().and_then(Pump::wait))
    }

    /// Moves bytes in the directions that are ready.
    pub fn run(&mut self, ready: [bool; 3]) {
        let [output, error] = &mut self.outputs;
        for (pump, _) in [&mut self.input, output, error].into_iter().zip(ready).filter(|(_, ready)| *ready) {
            pump.as_mut().map(Pump::run);
        }
        self.pass_end_of_file();
    }

    /// Once the caller's terminal has hung up, the container's gets an end of file, for nothing more will come.
    fn pass_end_of_file(&mut self) {
        let is_over = |pump: &mut Pump| pump.from.is_none() && pump.is_empty();
        let (Some(terminal), Some(mut input)) = (&self.terminal, self.input.take_if(is_over)) else { return };
        // In the middle of a line the first mark hands that over, and the second is the end (termios(3), VEOF).
        let is_in_line = input.end > 0 && !matches!(input.bytes[input.end - 1], b'\n' | b'\r');
        match tty::end_of_file(terminal.master.as_fd()) {
            Ok(Some(mark)) => {
                input.append(&[mark; 2][..1 + usize::from(is_in_line)]);
                input.run();
            }
            Ok(None) => {}
            Err(error) => tracing::debug!("the end of file of standard input: {error}"),
        }
    }

    /// Writes out what the container wrote before it exited. Poll on a master looks behind the line discipline's
    /// queue, so nothing is still on its way once it finds nothing. A pipe may still be held by a process that the
    /// container's has left behind: it is read to its end, as runc does, unless a signal asks this command to exit.
    pub fn drain(mut self, signals: &mut Signals) -> Result<()> {
        self.input = None;
        loop {
            let is_queued = self.outputs.iter().flatten().any(|pump| !pump.is_empty());
            let limit = (self.terminal.is_some() && !is_queued).then(rustix::time::Timespec::default);
            let waits = self.waits();
            let polled = waits.each_ref().map(Option::is_some);
            if polled == [false; 3] {
                return Ok(());
            }
            let mut fds: Vec<_> = waits.into_iter().flatten().collect();
            fds.push(PollFd::new(&*signals, PollFlags::IN));
            match rustix::event::poll(&mut fds, limit.as_ref()) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(brig_sys::SysError::from_rustix("poll", "", error).into()),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            let streams = polled.map(|polled| polled && ready.next().unwrap_or(false));
            if ready.next().unwrap_or(false) && self.asks_to_exit(signals)? {
                return Ok(());
            }
            self.run(streams);
        }
    }

    /// One of the signals that came asks for an exit. A terminal is drained without waiting, whatever comes.
    fn asks_to_exit(&self, signals: &mut Signals) -> Result<bool> {
        let mut found = false;
        while let Some(signal) = signals.read()? {
            found |= matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT);
        }
        Ok(found && self.terminal.is_none())
    }
}
