//! Standard streams of containers' processes: from the addresses in a request to file descriptors, and the copying
//! between them.
//!
//! | address | standard input | standard output and error |
//! |---|---|---|
//! | empty | /dev/null | /dev/null |
//! | a path, `fifo://` | copied from the FIFO, of which a writer is held open until CloseIO | copied to the FIFO, which is held open at both ends: a reader may go and come again |
//! | `file://` | the file | copied to the file's end |
//! | `binary://`, `binary-v2://` | | the logger reads the pipes itself |
//!
//! A process never gets a FIFO or a file of the host itself, always a pipe or a terminal: it could reopen, truncate or
//! misconfigure what it holds.

mod fd;
mod fifo;
mod file;
mod logger;
mod open;
mod pump;
mod stdin;
mod timeouts;
mod watches;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::reaper::Reaper;
use crate::runtime::Streams;
use file::HostFile;
use logger::{Logger, Spawned};

use fd::{null, pipe, set_nonblocking};
use fifo::Fifo;
pub use logger::READY;
use open::{open_input, open_output};
use pump::{CopyStage, Sink, Source, Stage};
pub use stdin::StdinEnds;
pub use timeouts::OutputTimeouts;

/// The addresses of a process's standard streams, as requested.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// The address of standard input.
    pub stdin: String,
    /// The address of standard output.
    pub stdout: String,
    /// The address of standard error; not used with a terminal.
    pub stderr: String,
    /// Whether the process has a terminal.
    pub terminal: bool,
}

/// The container that streams belong to.
#[derive(Clone, Debug)]
pub struct Owner {
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id.
    pub container: String,
    /// Owner and group of the pipes.
    pub ids: (u32, u32),
    /// The time that a logger may take until it is ready: at most that of the call that starts it.
    pub ready_timeout: Duration,
    /// The limits for which unread output may delay an exit event and a deletion.
    pub timeouts: OutputTimeouts,
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Null,
    Path(PathBuf),
    File(PathBuf),
    Binary(logger::Command),
}

impl Address {
    fn parse(address: &str) -> Result<Address> {
        let Some((scheme, rest)) = address.split_once("://") else {
            return Ok(if address.is_empty() { Address::Null } else { Address::Path(address.into()) });
        };
        match scheme {
            "fifo" => Ok(Address::Path(path(rest)?)),
            "file" => Ok(Address::File(path(rest)?)),
            "binary" | "binary-v2" => Ok(Address::Binary(logger::Command::parse(rest)?)),
            _ => {
                let message = format!("unknown scheme in {address:?}: fifo, file, binary or binary-v2 was expected");
                Err(Error::new(ErrorKind::InvalidConfig, message))
            }
        }
    }
}

/// The path of an address, without its query.
fn path(rest: &str) -> Result<PathBuf> {
    let path = logger::unescape(rest.split_once('?').map_or(rest, |(path, _)| path))?;
    if !path.starts_with('/') {
        return Err(Error::new(ErrorKind::InvalidConfig, format!("{path:?} in a stream's address is not absolute")));
    }
    Ok(path.into())
}

/// The destination of an output.
#[derive(Debug)]
enum Output {
    Null,
    Fifo(Fifo),
    File(HostFile),
    /// The writing end of the pipe whose reading end the logger has.
    Logger(OwnedFd),
    /// For standard error: the destination of standard output.
    Same,
}

/// The source of standard input.
#[derive(Debug)]
enum Input {
    Null,
    /// Opened by the start of the process ([`StdinEnds::open`]). A client whose writes succeed may reach the end of its
    /// input and send CloseIO at once: before Create is answered, containerd would not know the task, and the request
    /// would be lost.
    Fifo(PathBuf),
    File(std::fs::File),
}

/// Open streams, before the process exists.
#[derive(Debug)]
pub struct Opened {
    input: Input,
    outputs: [Output; 2],
    logger: Option<Spawned>,
    terminal: bool,
    ids: (u32, u32),
    timeouts: OutputTimeouts,
}

/// The streams to be copied once the process exists.
#[derive(Debug)]
pub struct Prepared {
    /// The FIFO of standard input.
    input: Option<PathBuf>,
    /// The ends of that FIFO, once opened.
    ends: Option<StdinEnds>,
    /// Our end of the process's standard input, without a terminal.
    stdin: Option<OwnedFd>,
    outputs: Vec<(OwnedFd, Output)>,
    /// With a terminal: the destination of its output.
    terminal: Option<Output>,
    logger: Option<Spawned>,
    timeouts: OutputTimeouts,
}

impl Opened {
    /// Opens the addresses. Must not run on the server's thread, because it blocks until a logger is ready; must run
    /// under a hold of the reaper, because a logger is a child.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for an invalid address, else the failure with the address.
    pub fn open(addresses: &Addresses, owner: &Owner) -> Result<Opened> {
        let input = open_input(Address::parse(&addresses.stdin)?)
            .with_context(|| format!("unable to open standard input {:?}", addresses.stdin))?;
        let stdout = Address::parse(&addresses.stdout)?;
        let stderr = if addresses.terminal { Address::Null } else { Address::parse(&addresses.stderr)? };
        let unable = |what: &str, address: &str| format!("unable to open standard {what} {address:?}");
        let (outputs, logger) = match (stdout, stderr) {
            (Address::Binary(command), _) => {
                let (logger, stdout, stderr) = Spawned::start(&command, owner)?;
                ([Output::Logger(stdout), Output::Logger(stderr)], Some(logger))
            }
            (_, Address::Binary(_)) => {
                let message = "standard error has a logger, and standard output has none: one logger takes both";
                return Err(Error::new(ErrorKind::InvalidConfig, message));
            }
            (stdout, stderr) => {
                // One pipe keeps the order of the two, and each FIFO has one writer here, which can detect whether it
                // has a reader.
                let same = stdout != Address::Null && stdout == stderr;
                let stderr = if same {
                    Output::Same
                } else {
                    open_output(stderr).with_context(|| unable("error", &addresses.stderr))?
                };
                let stdout = open_output(stdout).with_context(|| unable("output", &addresses.stdout))?;
                ([stdout, stderr], None)
            }
        };
        let (terminal, ids, timeouts) = (addresses.terminal, owner.ids, owner.timeouts);
        Ok(Opened { input, outputs, logger, terminal, ids, timeouts })
    }

    /// Splits into the process's ends, and the streams to be copied from our ends.
    pub fn split(self) -> Result<(Streams, Prepared)> {
        let (logger, timeouts) = (self.logger, self.timeouts);
        let mut prepared =
            Prepared { input: None, ends: None, stdin: None, outputs: Vec::new(), terminal: None, logger, timeouts };
        let [stdout, stderr] = self.outputs;
        if self.terminal {
            if let Input::Fifo(path) = self.input {
                prepared.input = Some(path);
            }
            prepared.terminal = Some(stdout);
            return Ok((Streams::Terminal, prepared));
        }
        let stdin = match self.input {
            Input::Null => null()?,
            Input::File(file) => file.into(),
            Input::Fifo(path) => {
                let (theirs, ours) = pipe(self.ids)?;
                set_nonblocking(&ours)?;
                prepared.stdin = Some(ours);
                prepared.input = Some(path);
                theirs
            }
        };
        let mut output = |output: Output| -> Result<OwnedFd> {
            match output {
                Output::Null | Output::Same => null(),
                Output::Logger(writer) => Ok(writer),
                output => {
                    let (ours, theirs) = pipe(self.ids)?;
                    set_nonblocking(&ours)?;
                    prepared.outputs.push((ours, output));
                    Ok(theirs)
                }
            }
        };
        let stdout = output(stdout)?;
        let stderr = match stderr {
            Output::Same => stdout.try_clone().context("unable to copy an fd")?,
            stderr => output(stderr)?,
        };
        Ok((Streams::Fds([stdin, stdout, stderr]), prepared))
    }
}

impl Prepared {
    /// Opens standard input of a process that runs at once. Must not run on the server's thread.
    ///
    /// # Errors
    /// The FIFO cannot be opened.
    pub fn open_stdin(&mut self) -> Result<()> {
        self.ends = self.input.as_deref().map(StdinEnds::open).transpose()?;
        Ok(())
    }

    /// Starts copying; standard input follows where it was not opened. `terminal` is the master, for a process that has
    /// a terminal.
    ///
    /// # Errors
    /// A descriptor cannot be polled.
    pub fn start(mut self, terminal: Option<OwnedFd>, reaper: &Arc<Reaper>) -> Result<Copying> {
        let ends = self.ends.take();
        let mut copying = self.start_outputs(terminal, reaper)?;
        if let Some(ends) = ends {
            copying.copy_stdin(ends)?;
        }
        Ok(copying)
    }

    fn start_outputs(self, terminal: Option<OwnedFd>, reaper: &Arc<Reaper>) -> Result<Copying> {
        let mut copying = Copying {
            stdin: JoinSet::new(),
            outputs: JoinSet::new(),
            waiting: None,
            writer: None,
            close_stdin: None,
            closed: false,
            logger: self.logger.map(|logger| Logger::watch(logger, reaper)),
            terminal: None,
            unread: Vec::new(),
            stage: watch::Sender::new(Stage::Alive),
            timeouts: self.timeouts,
        };
        if let Some(master) = terminal {
            set_nonblocking(&master)?;
            let copy = || master.try_clone().context("unable to copy an fd");
            if let Some(path) = self.input {
                copying.waiting = Some(PendingStdin { path, to: copy()?, is_terminal: true });
            }
            copying.copy(Source::terminal(copy()?)?, self.terminal.unwrap_or(Output::Null))?;
            copying.terminal = Some(master);
            return Ok(copying);
        }
        if let (Some(path), Some(to)) = (self.input, self.stdin) {
            copying.waiting = Some(PendingStdin { path, to, is_terminal: false });
        }
        for (ours, output) in self.outputs {
            copying.copy(Source::pipe(ours)?, output)?;
        }
        Ok(copying)
    }
}

/// Standard input whose FIFO is not open yet.
#[derive(Debug)]
struct PendingStdin {
    path: PathBuf,
    /// Our end of the process's standard input, or its terminal.
    to: OwnedFd,
    is_terminal: bool,
}

/// The streams of a running process, and of an exited one until its output is copied. Dropping it ends all copying.
#[derive(Debug)]
pub struct Copying {
    stdin: JoinSet<()>,
    outputs: JoinSet<()>,
    waiting: Option<PendingStdin>,
    /// Our own writer of the FIFO of standard input: without it the FIFO would end with its first writer.
    writer: Option<OwnedFd>,
    /// Notifies the copying of standard input that no more bytes come.
    close_stdin: Option<oneshot::Sender<()>>,
    /// Whether standard input was closed already.
    closed: bool,
    logger: Option<Logger>,
    terminal: Option<OwnedFd>,
    /// One receiver for each output, which ends when all of the process's output has been read.
    unread: Vec<oneshot::Receiver<()>>,
    /// Notifies the copying of outputs of the process's stage.
    stage: watch::Sender<Stage>,
    timeouts: OutputTimeouts,
}

impl Copying {
    /// Starts copying an output.
    fn copy(&mut self, source: Source, output: Output) -> Result<()> {
        let (stages, read) = CopyStage::of_output(self.stage.subscribe(), self.timeouts);
        let sink = match output {
            Output::Fifo(fifo) => {
                self.outputs.spawn(fifo.copy(source, stages)?);
                self.unread.push(read);
                return Ok(());
            }
            Output::Null | Output::Same => Sink::Null,
            Output::Logger(fd) => {
                set_nonblocking(&fd)?;
                Sink::fd(fd)?
            }
            Output::File(file) => Sink::File(file),
        };
        self.outputs.spawn(pump::bytes(source.into_polled(), sink, stages));
        self.unread.push(read);
        Ok(())
    }

    /// Notes that the process has exited. The returned future waits until present readers have read its output, or the
    /// output is in its file, at most for [`OutputTimeouts::exit`]. False when some output is unread.
    pub fn process_exited(&mut self) -> impl Future<Output = bool> + use<> {
        self.stage.send_replace(Stage::Exited);
        let limit = self.timeouts.exit;
        let unread = std::mem::take(&mut self.unread);
        let all = async {
            for output in unread {
                // The copying drops the sender, which is the notification.
                let _ = output.await;
            }
        };
        async move { timeouts::within(limit, all).await.is_some() }
    }

    /// The FIFO of standard input that is not open yet, if any.
    pub fn unopened_stdin(&self) -> Option<PathBuf> {
        self.waiting.as_ref().map(|waiting| waiting.path.clone())
    }

    /// Copies from the opened FIFO of standard input.
    ///
    /// # Errors
    /// The FIFO cannot be polled. The call can be repeated then.
    pub fn copy_stdin(&mut self, ends: StdinEnds) -> Result<()> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        let StdinEnds { reader, writer } = ends;
        let reader = fd::polled(reader)?;
        let sink = waiting.to.try_clone().context("unable to copy an fd")?;
        if waiting.is_terminal {
            self.stdin.spawn(pump::bytes(reader, Sink::fd(sink)?, CopyStage::new(self.stage.subscribe())));
        } else {
            let (close, closed) = oneshot::channel();
            self.close_stdin = Some(close);
            // The sender is dropped without a message when all copying ends, and this task is aborted then.
            let closed = async {
                if closed.await.is_err() {
                    std::future::pending().await
                }
            };
            self.stdin.spawn(pump::pipe_until(reader, fd::polled(sink)?, closed));
        }
        self.writer = Some(writer);
        self.waiting = None;
        if self.closed {
            self.close_stdin();
        }
        Ok(())
    }

    /// Ends standard input after the bytes written so far: a client may keep its end of the FIFO open until the process
    /// has exited (ctr does). A terminal's input has no end.
    pub fn close_stdin(&mut self) {
        self.closed = true;
        self.writer = None;
        if let Some(close) = self.close_stdin.take() {
            // There is no receiver when the process has closed its input or has exited.
            let _ = close.send(());
        }
    }

    /// Sets the terminal's size in character cells. A no-op without a terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        match &self.terminal {
            Some(master) => {
                let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                tcsetwinsize(master, size).context("unable to resize the terminal")
            }
            None => Ok(()),
        }
    }

    /// Waits until all output is copied, at most for [`OutputTimeouts::delete`], and closes all streams. False when
    /// some output is unread. A client that has not opened the output by now is not waited for.
    pub async fn drain(mut self) -> bool {
        self.stage.send_replace(Stage::Deleted);
        let outputs = &mut self.outputs;
        let all = async { while outputs.join_next().await.is_some() {} };
        let complete = tokio::time::timeout(self.timeouts.delete, all).await.is_ok();
        self.outputs.abort_all();
        self.stdin.abort_all();
        if let Some(logger) = self.logger.take() {
            logger.wait_exit().await;
        }
        complete
    }
}

#[cfg(test)]
mod tests;
