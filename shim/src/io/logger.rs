//! `binary://` loggers: a program that reads a process's output from pipes, in the manner of containerd's logging
//! package: descriptor 3 is standard output, 4 is standard error, and closing 5 (or writing to it) reports that it is
//! ready. The environment has CONTAINER_ID and CONTAINER_NAMESPACE, the arguments are the address's query.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::process::Pidfd;
use command_fds::{CommandFdExt, FdMapping};

use super::fd::is_readable_within;
use super::{Owner, pipe};
use crate::reaper::Reaper;

/// The time that a logger may take until it is ready, for a call that waits longer.
pub const READY: Duration = Duration::from_secs(10);
/// The time that a logger may take to exit after its pipes are closed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time that a logger may take to exit after SIGTERM.
const TERMINATION_TIMEOUT: Duration = Duration::from_secs(12);

/// The program and arguments of an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Command {
    /// Parses an address behind its `//`: the program's path, then each key of the query with its value, in order.
    pub(super) fn parse(rest: &str) -> Result<Command> {
        let (_, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut arguments = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            arguments.push(unescape(key)?);
            if !value.is_empty() {
                arguments.push(unescape(value)?);
            }
        }
        Ok(Command { program: super::path(rest)?, arguments })
    }
}

/// Percent-decoding (RFC 3986, section 2.1).
pub(super) fn unescape(text: &str) -> Result<String> {
    let wrong = || Error::new(ErrorKind::InvalidConfig, format!("{text:?} in a stream's address is badly escaped"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(wrong()) };
        bytes.push(u8::try_from(high * 16 + low).map_err(|_| wrong())?);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// A logger that is ready. Dropping it before it is [watched](Logger::watch) kills it.
#[derive(Debug)]
pub(super) struct Spawned(Option<(i32, Arc<Pidfd>)>);

impl Spawned {
    /// Starts the logger, waits until it is ready, and returns it with the write ends of its two pipes.
    pub(super) fn start(command: &Command, owner: &Owner) -> Result<(Spawned, OwnedFd, OwnedFd)> {
        let unable = || format!("unable to start the logger {}", command.program.display());
        let (stdout, to_stdout) = pipe(owner.ids)?;
        let (stderr, to_stderr) = pipe(owner.ids)?;
        let (ready, is_ready) = pipe((0, 0))?;
        let mut spawned = std::process::Command::new(&command.program);
        spawned
            .args(&command.arguments)
            .env("CONTAINER_ID", &owner.container)
            .env("CONTAINER_NAMESPACE", &owner.namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .fd_mappings(vec![
                FdMapping { parent_fd: stdout, child_fd: 3 },
                FdMapping { parent_fd: stderr, child_fd: 4 },
                FdMapping { parent_fd: is_ready, child_fd: 5 },
            ])
            .map_err(|error| Error::other(error.to_string()).context(unable()))?;
        let child = spawned.spawn().with_context(unable)?;
        // Only the logger holds its ends now, so its exit is seen on all three.
        drop(spawned);
        let pid = i32::try_from(child.id()).map_err(|_| Error::other("a pid out of range"))?;
        // The caller holds the reaper, so the pid still belongs to the child.
        let logger = Spawned(Some((pid, Arc::new(Pidfd::open(pid)?))));
        if !is_readable_within(&ready, owner.ready_timeout)? {
            let message = format!("it was not ready within {:?}", owner.ready_timeout);
            return Err(Error::new(ErrorKind::TimedOut, message).context(unable()));
        }
        Ok((logger, to_stdout, to_stderr))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if let Some((_, pidfd)) = self.0.take() {
            signal(&pidfd, libc::SIGKILL);
        }
    }
}

fn signal(pidfd: &Pidfd, signal: i32) {
    match pidfd.send_signal(signal) {
        Err(error) if error.kind() != ErrorKind::NoSuchProcess => tracing::warn!("unable to kill a logger: {error}"),
        _ => {}
    }
}

/// A watched logger, which exits with the streams.
#[derive(Debug)]
pub(super) struct Logger {
    pidfd: Option<Arc<Pidfd>>,
    exit: Option<tokio::sync::oneshot::Receiver<crate::reaper::Exit>>,
}

impl Logger {
    pub(super) fn watch(mut spawned: Spawned, reaper: &Arc<Reaper>) -> Logger {
        let Some((pid, pidfd)) = spawned.0.take() else { return Logger { pidfd: None, exit: None } };
        let hold = reaper.hold();
        let exit = reaper.watch(&hold, pid, Arc::clone(&pidfd));
        Logger { pidfd: Some(pidfd), exit: Some(exit) }
    }

    /// Waits for the logger's exit. Its pipes are closed, which ends most loggers, and it has some time for its last
    /// writes. One that continues gets SIGTERM, and SIGKILL after a further timeout; no caller waits for that.
    pub(super) async fn wait_exit(mut self) {
        if let Some(exit) = &mut self.exit
            && tokio::time::timeout(EXIT_TIMEOUT, exit).await.is_ok()
        {
            self.exit = None;
        }
    }

    fn terminate(&mut self) {
        let (Some(pidfd), Some(exit)) = (self.pidfd.take(), self.exit.take()) else { return };
        tokio::spawn(async move {
            signal(&pidfd, libc::SIGTERM);
            if tokio::time::timeout(TERMINATION_TIMEOUT, exit).await.is_err() {
                tracing::warn!("killing a logger that did not exit within {TERMINATION_TIMEOUT:?} of SIGTERM");
                signal(&pidfd, libc::SIGKILL);
            }
        });
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        self.terminate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_arguments_in_order() {
        let command = Command::parse("/usr/bin/log%20ger?--file=%2Fvar%2Flog&flag&b=1").unwrap();
        assert_eq!(command.program, PathBuf::from("/usr/bin/log ger"));
        assert_eq!(command.arguments, ["--file", "/var/log", "flag", "b", "1"]);
        for wrong in ["relative", "/a%2", "/a%zz", "/a?b=%ff"] {
            assert_eq!(Command::parse(wrong).unwrap_err().kind(), ErrorKind::InvalidConfig, "{wrong}");
        }
    }
}
