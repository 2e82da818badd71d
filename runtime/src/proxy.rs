//! The copy loop between the caller's standard streams and those of a foreground container: its terminal, or pipes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};

use brig_engine::error::{Context, Result};
use brig_sys::signal::Signals;
use brig_sys::tty;

/// Buffer size of one read. A write of this size does not block after poll found room in a pipe (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// The kind of the container's stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A terminal's master, which serves both directions and stays open.
    Terminal,
    /// A pipe, which is closed once the caller's side is: the container then reads the end of file, or gets EPIPE.
    Pipe,
}

/// One direction: bytes that were read but not yet written.
struct Pump {
    /// `None` after the end of file.
    from: Option<File>,
    /// `None` once the reader has closed it. A terminal's output is then read and dropped, so that the container does
    /// not block on it.
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

    /// The event that this direction waits for.
    fn wait(&self) -> Option<PollFd<'_>> {
        if self.is_empty() {
            self.from.as_ref().map(|from| PollFd::new(from, PollFlags::IN))
        } else {
            self.to.as_ref().map(|to| PollFd::new(to, PollFlags::OUT))
        }
    }

    /// Reads or writes once, after poll found the descriptor ready.
    fn run(&mut self) {
        if self.is_empty() {
            self.read();
        } else {
            self.write();
        }
        let is_finished = self.is_empty() && self.from.is_none() || self.to.is_none();
        if is_finished && self.side == Side::Pipe {
            (self.from, self.to) = (None, None);
        }
    }

    fn read(&mut self) {
        let Some(from) = &mut self.from else { return };
        match from.read(&mut self.bytes) {
            Ok(count @ 1..) => (self.start, self.end) = (0, if self.to.is_some() { count } else { 0 }),
            Err(error) if is_transient(&error) => {}
            // Reading a master whose slaves are all closed fails with EIO. Any other error ends the stream as well.
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

    /// Queues bytes for writing, after the end of file.
    fn append(&mut self, bytes: &[u8]) {
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// The container's terminal and the caller's, which is in raw mode while this value exists.
struct Terminal {
    master: OwnedFd,
    /// The caller's terminal, whose size the container's follows.
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
    /// Connects the caller's standard streams to the terminal with this master.
    pub fn new(master: OwnedFd) -> Result<Proxy> {
        // Nonblocking: after poll, another reader of the same terminal may be first.
        rustix::io::ioctl_fionbio(&master, true).map_err(|error| brig_sys::SysError::new("ioctl", "FIONBIO", error))?;
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

    /// Connects the caller's standard streams to pipes for standard input, output and error.
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

    /// Whether the container has a terminal, whose size follows the caller's.
    pub fn has_terminal(&self) -> bool {
        self.terminal.is_some()
    }

    /// Sets the size of the container's terminal to that of the caller's.
    pub fn resize(&self) {
        let Some(Terminal { master, outer: Some(outer), .. }) = &self.terminal else { return };
        // The caller's terminal may have hung up; a wrong size is no reason to fail the container.
        let set = tty::size(outer.as_fd()).and_then(|(rows, columns)| tty::set_size(master.as_fd(), rows, columns));
        if let Err(error) = set {
            tracing::debug!("resize the terminal: {error}");
        }
    }

    /// The events to poll for, of input and both outputs.
    pub fn waits(&self) -> [Option<PollFd<'_>>; 3] {
        let [output, error] = &self.outputs;
        [&self.input, output, error].map(|pump| pump.as_ref().and_then(Pump::wait))
    }

    /// Copies bytes in the directions that are ready.
    pub fn run(&mut self, ready: [bool; 3]) {
        let [output, error] = &mut self.outputs;
        for (pump, _) in [&mut self.input, output, error].into_iter().zip(ready).filter(|(_, ready)| *ready) {
            pump.as_mut().map(Pump::run);
        }
        self.pass_end_of_file();
    }

    /// Sends the container's terminal an end of file once the caller's has hung up, because no input can follow.
    fn pass_end_of_file(&mut self) {
        let is_finished = |pump: &mut Pump| pump.from.is_none() && pump.is_empty();
        let (Some(terminal), Some(mut input)) = (&self.terminal, self.input.take_if(is_finished)) else { return };
        // Within a line, the first end-of-file character flushes the line, and the second is the end (termios(3),
        // VEOF).
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

    /// Writes the rest of the container's output after its exit. Poll on a master sees past the line discipline's
    /// queue, so nothing is in transit once poll finds nothing. A process that the container left behind may still
    /// hold a pipe: the pipe is read to its end, as runc does, unless a signal asks this command to exit.
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
                Err(error) => return Err(brig_sys::SysError::new("poll", "", error).into()),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            let streams = polled.map(|polled| polled && ready.next().unwrap_or(false));
            if ready.next().unwrap_or(false) && self.asks_to_exit(signals)? {
                return Ok(());
            }
            self.run(streams);
        }
    }

    /// Whether a pending signal asks for an exit. A terminal is drained without waiting, so none is needed.
    fn asks_to_exit(&self, signals: &mut Signals) -> Result<bool> {
        let mut found = false;
        while let Some(signal) = signals.read()? {
            found |= matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT);
        }
        Ok(found && self.terminal.is_none())
    }
}
