//! The gate: the fifo at which a created container waits for `start`.
//!
//! Both ends are opened without waiting for each other. Init inherits an end that reads and writes, so its read
//! never sees an end of file; it blocks on one byte. `start` opens the other end for writing, which fails with
//! ENXIO when no init waits any more, writes the byte, and removes the fifo: with it, the status `created` is gone.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Mode;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::sys::SysError;

/// Makes the fifo and opens init's end, close-on-exec.
pub fn make(path: &Path) -> Result<OwnedFd> {
    let error = |call: &'static str| move |error| SysError::from_rustix(call, path.display().to_string(), error);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(error("mknodat"))?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(error("open"))?)
}

/// Init's side: waits for the byte.
pub fn wait(gate: OwnedFd) -> Result<()> {
    let mut byte = [0];
    std::fs::File::from(gate).read_exact(&mut byte).context("unable to wait for start")
}

/// The side of `start`.
///
/// # Errors
/// [`ErrorKind::InvalidState`] when init has ended.
pub fn open(path: &Path) -> Result<()> {
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let unable = || format!("unable to open the gate {}", path.display());
    let mut gate = match std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(Error::new(ErrorKind::InvalidState, "cannot start a container that has stopped"));
        }
        other => other.with_context(unable)?,
    };
    gate.write_all(&[0]).with_context(unable)?;
    std::fs::remove_file(path).with_context(|| format!("unable to remove the gate {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_holds_until_it_is_opened_and_refuses_when_nobody_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        let end = make(&path).unwrap();
        let waiter = std::thread::spawn(move || wait(end));
        open(&path).unwrap();
        waiter.join().unwrap().unwrap();
        assert!(!path.exists());
        drop(make(&path).unwrap());
        assert_eq!(open(&path).unwrap_err().kind(), ErrorKind::InvalidState);
    }
}
