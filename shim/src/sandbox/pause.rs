//! The process that holds a pod's namespaces: it waits for signals, and reaps orphans.
//!
//! The program is the shim's own binary under the name `pause`, bound read-only into an otherwise empty root: there is
//! no image to pull, and nothing to write to.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use brig_engine::error::{Context, Result};
use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::WaitOptions;

/// Whether a process of this name runs as the pause process.
pub fn is_pause(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| Path::new(name) == Path::new("/pause"))
}

/// Runs the pause process: it exits with status 0 on SIGTERM or SIGINT.
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
    // Blocked, no signal but SIGKILL and faults ends this process, and one that arrives before the wait stays pending.
    SigSet::all().thread_block().map_err(std::io::Error::from).context("unable to block signals")?;
    report_ready()?;
    let awaited: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGCHLD].into_iter().collect();
    loop {
        match awaited.wait().map_err(std::io::Error::from).context("unable to wait for a signal")? {
            Signal::SIGCHLD => reap(),
            _ => return Ok(()),
        }
    }
}

/// Writes the message that the start of the sandbox waits for ([`super::ready`]), and closes the descriptor, so that
/// nothing is copied for the rest of the pod's life.
fn report_ready() -> Result<()> {
    match std::io::stdout().write_all(b"ready\n") {
        // No reader is waiting any more.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        result => result.context("unable to report that the pause process is ready")?,
    }
    rustix::stdio::dup2_stdout(rustix::stdio::stdin()).context("unable to close its output")
}

/// Reaps every exited child: with a pid namespace of the pod, orphans become this process's children.
fn reap() {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(None) | Err(Errno::CHILD) => return,
            Ok(Some(_)) | Err(_) => {}
        }
    }
}
