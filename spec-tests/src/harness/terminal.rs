//! Terminals as a caller of `create --console-socket` gets them: the runtime sends the ptmx over a socket.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::termios::{Winsize, tcsetwinsize};

use super::Fixture;
use super::command::deadline;

/// A console socket that waits for its terminal.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

/// The caller's end of a container's terminal.
#[derive(Debug)]
pub struct Terminal {
    ptmx: OwnedFd,
    message: String,
}

impl ConsoleSocket {
    /// Listens in the case's directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listen(fixture: &Fixture) -> anyhow::Result<ConsoleSocket> {
        let path = fixture.directory().join(format!("console-{}", fixture.id()));
        Ok(ConsoleSocket { listener: UnixListener::bind(&path)?, path })
    }

    /// For `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal that the runtime sent.
    ///
    /// # Errors
    /// When none came in time, or something else did.
    pub fn terminal(&self) -> anyhow::Result<Terminal> {
        readable(&self.listener, "a connection to the console socket")?;
        let (stream, _) = self.listener.accept()?;
        readable(&stream, "a message on the console socket")?;
        let (message, mut fds) = receive(&stream)?;
        ensure!(fds.len() == 1, "the console socket: expected one descriptor, found {}", fds.len());
        Ok(Terminal { ptmx: fds.remove(0), message })
    }
}

/// The text of one message, and the descriptors that came with it, at most four.
///
/// # Errors
/// The kernel's; EAGAIN where a socket that does not block has none.
pub fn receive(socket: impl AsFd) -> anyhow::Result<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(sent) = message {
            fds.extend(sent);
        }
    }
    Ok((String::from_utf8_lossy(&bytes[..received.bytes]).into_owned(), fds))
}

impl Terminal {
    /// The runtime's message with the descriptor: the terminal's name.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Sets rows and columns.
    ///
    /// # Errors
    /// When it is no terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> anyhow::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(&self.ptmx, size)?)
    }

    /// Types.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut left = text.as_bytes();
        while !left.is_empty() {
            let written = rustix::io::write(&self.ptmx, left)?;
            left = &left[written..];
        }
        Ok(())
    }

    /// The output until the last process closes the terminal.
    ///
    /// # Errors
    /// When the terminal is still open at the deadline.
    pub fn read_to_end(&self) -> anyhow::Result<String> {
        self.read_until(|_| false)
    }

    /// The output until `enough` accepts it, or no process has the terminal open any more.
    ///
    /// # Errors
    /// When neither comes in time.
    pub fn read_until(&self, enough: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut bytes = [0; 4096];
        while !enough(&text) {
            readable(&self.ptmx, "the terminal").with_context(|| format!("it printed {text:?}"))?;
            match rustix::io::read(&self.ptmx, &mut bytes) {
                // The last process has closed the other end.
                Ok(0) | Err(Errno::IO) => break,
                Ok(count) => text += &String::from_utf8_lossy(&bytes[..count]),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(text)
    }
}

fn readable(fd: &impl AsFd, what: &str) -> anyhow::Result<()> {
    let timeout = Timespec { tv_sec: i64::try_from(deadline().as_secs())?, tv_nsec: 0 };
    if poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout))? == 0 {
        bail!("waited {} s in vain for {what}", deadline().as_secs());
    }
    Ok(())
}
