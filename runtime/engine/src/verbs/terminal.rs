//! The terminal and the standard streams of a process to start, on the side of the caller.

use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};

use super::{Console, Stdio};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::launch::request::{Newlines, TerminalSettings};
use crate::rootfs;
use brig_plan::init::InitPlan;
use brig_plan::process::ProcessPlan;
use brig_sys::{socket, tty};

/// The terminal of a process to start. Empty for a process without one.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    /// The settings for init.
    pub settings: TerminalSettings,
    /// The socket over which init sends the terminal's master.
    pub console: Option<OwnedFd>,
    /// The caller's end of that socket, with [`Console::Caller`] and [`Console::Proxied`].
    pub receiver: Option<OwnedFd>,
}

impl Terminal {
    /// Prepares the terminal of `process`, if it has one.
    ///
    /// A proxied terminal gets its size and its newline translation before the program starts: the proxy, which runs
    /// beside the program, would be too late.
    ///
    /// # Errors
    /// When the terminal has no destination, or that cannot be reached.
    pub(super) fn open(process: &ProcessPlan, console: &Console) -> Result<Terminal> {
        check_console(process.terminal, console)?;
        if !process.terminal {
            return Ok(Terminal::default());
        }
        let settings = match console {
            Console::Proxied => {
                TerminalSettings { size: callers_size().or(process.console_size), newlines: Newlines::Raw }
            }
            _ => TerminalSettings { size: process.console_size, newlines: Newlines::Translated },
        };
        let (console, receiver) = match console {
            Console::None => (None, None),
            Console::Socket(path) => {
                let socket = socket::connect(path)
                    .with_context(|| format!("unable to connect to the console socket {}", path.display()))?;
                (Some(socket), None)
            }
            Console::Caller | Console::Proxied => {
                let (receiver, sender) = socket::packet_pair()?;
                (Some(sender), Some(receiver))
            }
        };
        Ok(Terminal { settings, console, receiver })
    }
}

/// Receives the terminal's master, which init sent before it was ready.
///
/// # Errors
/// When init has sent none.
pub(super) fn receive(receiver: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    let Some(socket) = receiver else { return Ok(None) };
    let (_, fds) = socket::receive(socket.as_fd(), 4096).context("unable to receive the terminal")?;
    fds.into_iter().next().ok_or_else(|| Error::other("init sent no terminal")).map(Some)
}

/// The size of the caller's terminal, which any of its standard streams may be.
fn callers_size() -> Option<(u16, u16)> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|stream| tty::size(stream).ok())
}

/// Checks that the terminal has a destination: a socket, or the caller's terminal.
pub(super) fn check_console(terminal: bool, console: &Console) -> Result<()> {
    let text = match (terminal, console) {
        (true, Console::None) => "cannot allocate tty if brig will detach without setting console socket",
        (false, Console::Socket(_)) => "cannot use console socket if brig will not detach or allocate tty",
        (true, Console::Proxied) if !std::io::stdin().is_terminal() => {
            "process.terminal (or --tty) asks for a terminal, and standard input is none: run it from a terminal, give \
             --console-socket and -d (--detach), or ask for no terminal"
        }
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::InvalidConfig, text))
}

/// Creates the pipes of [`Stdio::Proxied`], and returns the caller's ends. Init gives them to the container's user.
///
/// A user namespace needs pipes, because its processes could not open the caller's streams again. So does a stream that
/// is a terminal or another device: a container could change the host's inode through it, and put input into a
/// terminal.
pub(super) fn make_pipes(stdio: &mut Stdio, init: &InitPlan) -> Result<Option<[OwnedFd; 3]>> {
    if !matches!(stdio, Stdio::Proxied) || init.process.terminal {
        return Ok(None);
    }
    let is_device = |fd| rustix::fs::fstat(fd).is_ok_and(|stat| rootfs::is_other_device(&stat));
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    if !init.has_user_namespace() && ![stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().any(is_device) {
        return Ok(None);
    }
    let pipe = || std::io::pipe().context("unable to make a pipe for a standard stream");
    let [stdin, stdout, stderr] = [pipe()?, pipe()?, pipe()?];
    *stdio = Stdio::Fds([stdin.0.into(), stdout.1.into(), stderr.1.into()]);
    Ok(Some([stdin.1.into(), stdout.0.into(), stderr.0.into()]))
}
