//! The gate: the fifo at which a created container waits for `start`.
//!
//! Both ends are opened without waiting for each other. Init inherits an end that reads and writes, so its read never
//! sees an end of file; it blocks on one byte. `start` opens the other end for writing, which fails with ENXIO if no
//! init waits any more, writes the byte, and removes the fifo: with the fifo, the status `created` disappears. Init
//! holds its end until the program's exec closes it, which is how `start` detects that the program runs. Init writes an
//! error before that, such as a hook's, into the fifo, for a reader at the other end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Mode;

use crate::error::{Context, Error, ErrorKind, Result};
use brig_sys::SysError;

/// Creates the fifo and opens init's end, close-on-exec.
pub fn create(path: &Path) -> Result<OwnedFd> {
    let error = |call: &'static str| move |error| SysError::new(call, path.display().to_string(), error);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(error("mknodat"))?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(error("open"))?)
}

/// Waits for the byte, in init. The returned end is open until the program is executed.
pub fn wait(gate: OwnedFd) -> Result<OwnedFd> {
    let mut gate = File::from(gate);
    gate.read_exact(&mut [0]).context("unable to wait for start")?;
    Ok(gate.into())
}

/// Reports, in init, that the startContainer hooks have succeeded. An init that is killed during one of them leaves no
/// such byte.
///
/// # Errors
/// The kernel's.
pub fn report_hooks(gate: &OwnedFd) -> Result<()> {
    let written = rustix::io::write(gate, &[HOOKS_DONE]).map_err(|error| SysError::new("write", "the gate", error));
    written.map(drop).context("unable to report to start that the startContainer hooks have succeeded")
}

/// The byte that [`report_hooks`] writes; no error begins with it.
const HOOKS_DONE: u8 = 1;

/// The remaining actions before a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The startContainer hooks of the container.
    Hooks,
    /// The exec alone.
    Exec,
}

/// Writes the reason why the program will not run, in init, for a `start` that waits. A reader is optional; the fifo
/// holds the text.
///
/// # Errors
/// The kernel's.
pub fn report(gate: OwnedFd, error: &Error) -> Result<()> {
    let text = error.to_string();
    // A fifo takes this length at once, whether or not a reader exists: one byte is free after the gate was opened.
    let message = &text.as_bytes()[..text.len().min(MAX_ERROR_LEN)];
    File::from(gate).write_all(message).context("unable to report the error to start")
}

/// The maximum length of init's error; far below the capacity of a fifo (pipe(7), 16 pages).
const MAX_ERROR_LEN: usize = 4096;

/// The opened gate, from the side of `start`: the reading end, on which init is the only writer.
pub struct Opened(File);

impl Opened {
    /// Waits until the program was executed, or init has exited before.
    ///
    /// # Errors
    /// Init's reason why the program does not run; or the death of init before its hooks had succeeded.
    pub fn wait_executed(mut self, before: Before) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        // The reading end of a fifo without a writer is hung up, which poll(2) reports without a request.
        let mut gate = [PollFd::new(&self.0, PollFlags::empty())];
        while let Err(error) = poll(&mut gate, None) {
            if error != rustix::io::Errno::INTR {
                return Err(SysError::new("poll", "the gate", error).into());
            }
        }
        let mut message = Vec::new();
        self.0.read_to_end(&mut message).context("unable to read the error of init at the gate")?;
        // The byte that opens the gate is still there if init was killed before it read it.
        let message = String::from_utf8_lossy(&message);
        let (message, hooks_done) = match message.trim_start_matches('\0').strip_prefix(char::from(HOOKS_DONE)) {
            Some(rest) => (rest, true),
            None => (message.trim_start_matches('\0'), false),
        };
        match message {
            "" if before == Before::Hooks && !hooks_done => {
                Err(Error::other("the container's init was killed before its hooks.startContainer had finished"))
            }
            "" => Ok(()),
            said => Err(Error::other(said)),
        }
    }
}

/// Opens the gate, from the side of `start`.
///
/// # Errors
/// [`ErrorKind::InvalidState`] if init has exited.
pub fn open(path: &Path) -> Result<Opened> {
    let nonblocking = libc::O_NONBLOCK;
    let unable = || format!("unable to open the gate {}", path.display());
    let mut gate = match std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(Error::new(ErrorKind::InvalidState, "cannot start a container that has stopped"));
        }
        other => other.with_context(unable)?,
    };
    let reader = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).with_context(unable)?;
    gate.write_all(&[0]).with_context(unable)?;
    std::fs::remove_file(path).with_context(|| format!("unable to remove the gate {}", path.display()))?;
    Ok(Opened(reader))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_blocks_until_it_is_opened_and_refuses_to_open_without_init() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        let end = create(&path).unwrap();
        let waiter = std::thread::spawn(move || wait(end));
        let opened = open(&path).unwrap();
        let end = waiter.join().unwrap().unwrap();
        let watcher = std::thread::spawn(move || opened.wait_executed(Before::Exec));
        assert!(!watcher.is_finished());
        drop(end);
        watcher.join().unwrap().unwrap();
        assert!(!path.exists());
        // A child that another thread has just forked may hold the closed end for a moment.
        let error = (0..1000).find_map(|_| {
            drop(create(&path).unwrap());
            open(&path).err()
        });
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::InvalidState));
    }

    #[test]
    fn an_error_of_init_reaches_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        let end = create(&path).unwrap();
        let opened = open(&path).unwrap();
        report(wait(end).unwrap(), &Error::other("no luck")).unwrap();
        assert_eq!(opened.wait_executed(Before::Hooks).unwrap_err().to_string(), "no luck");
    }

    #[test]
    fn an_init_killed_at_the_gate_reports_no_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        let end = create(&path).unwrap();
        let opened = open(&path).unwrap();
        drop(end);
        opened.wait_executed(Before::Exec).unwrap();
    }

    #[test]
    fn an_init_that_is_killed_before_its_hooks_have_ended_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        for (is_done, said) in [(false, ""), (true, ""), (true, "no luck")] {
            let end = create(&path).unwrap();
            let opened = open(&path).unwrap();
            if is_done {
                report_hooks(&end).unwrap();
            }
            match said {
                "" => drop(end),
                said => report(end, &Error::other(said)).unwrap(),
            }
            let error = opened.wait_executed(Before::Hooks).err().map(|error| error.to_string()).unwrap_or_default();
            match is_done {
                true => assert_eq!(error, said),
                false => assert!(error.contains("was killed before its hooks.startContainer"), "{error}"),
            }
        }
    }
}
