//! The process that a pod's namespaces live with: it waits, and takes leave of orphans.
//!
//! It is this very binary under the name `pause`, bound read-only into an otherwise empty root: there is no image to
//! pull, and nothing to write to.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use brig_engine::error::{Context, Result};
use brig_sys::signal::{Hold, Signals};
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Whether the process of this name is to be the pause process.
pub fn is_pause(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| Path::new(name) == Path::new("/pause"))
}

/// The pause process: ends with SIGTERM or SIGINT, 0 then.
pub fn main() -> i32 {
    match wait() {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("pause: {error}");
            1
        }
    }
}

fn wait() -> Result<()> {
    let hold = Hold::new()?;
    let mut signals = Signals::open(&hold)?;
    tell_ready()?;
    loop {
        match signals.read()? {
            Some(libc::SIGTERM | libc::SIGINT) => return Ok(()),
            Some(_) => reap(),
            None => {
                brig_sys::process::poll_readable(signals.as_fd(), None)?;
            }
        }
    }
}

/// The word that the start of the sandbox waits for ([`super::ready`]), and the end of what it is said on: nothing is
/// copied for the rest of the pod's life.
fn tell_ready() -> Result<()> {
    match std::io::stdout().write_all(b"ready\n") {
        // Nobody waits any longer.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        told => told.context("unable to tell that it is ready")?,
    }
    rustix::stdio::dup2_stdout(rustix::stdio::stdin())
        .map_err(std::io::Error::from)
        .context("unable to close its output")
}

/// Takes every child that has ended: with a pid namespace of the pod, orphans become this process's.
fn reap() {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            Ok(_) | Err(_) => {}
        }
    }
}
