//! The gate: the fifo at which a created container waits for `start`.
//!
//! Both ends are opened without waiting for each other. Init inherits an end that reads and writes, so its read
//! never sees an end of file; it blocks on one byte. `start` opens the other end for writing, which fails with
//! ENXIO when no init waits any more, writes the byte, and removes the fifo: with it, the status `created` is gone.
//! Init keeps its end until the program's exec closes it, which is how `start` sees that the program runs. What fails
//! before that, such as a hook, init writes into the fifo: to whoever waits at its other end.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::Mode;

use crate::error::{Context, Error, ErrorKind, Result};
use brig_sys::SysError;

/// Makes the fifo and opens init's end, close-on-exec.
pub fn make(path: &Path) -> Result<OwnedFd> {
    let error = |call: &'static str| move |error| SysError::from_rustix(call, path.display().to_string(), error);
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .map_err(error("mknodat"))?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOFOLLOW;
    Ok(rustix::fs::open(path, flags, Mode::empty()).map_err(error("open"))?)
}

/// Init's side: waits for the byte. The end that it gives back is open until the program is executed.
pub fn wait(gate: OwnedFd) -> Result<OwnedFd> {
    let mut gate = File::from(gate);
    gate.read_exact(&mut [0]).context("unable to wait for start")?;
    Ok(gate.into())
}

/// Init's side: the startContainer hooks have succeeded. An init that is killed during one of them leaves no such byte.
///
/// # Errors
/// The kernel's.
pub fn report_hooks(gate: &OwnedFd) -> Result<()> {
    let written = rustix::io::write(gate, &[HOOKS_DONE]).map_err(|error| SysError::from_rustix("write", "the gate", error));
    written.map(drop).context("unable to report to start that the startContainer hooks have succeeded")
}

/// What [`report_hooks`] writes; no error begins with it.
const HOOKS_DONE: u8 = 1;

/// What has to happen before a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// The startContainer hooks of the container.
    Hooks,
    /// The exec alone.
    Exec,
}

/// Init's side: why the program will not run, for a `start` that waits. Nobody has to; the fifo holds it for them.
///
/// # Errors
/// The kernel's.
pub fn tell(gate: OwnedFd, error: &Error) -> Result<()> {
    let text = error.to_string();
    // As much as a fifo takes at once, whoever reads it: a byte of it is free once the gate was opened.
    let whole = &text.as_bytes()[..text.len().min(WORDS_LIMIT)];
    File::from(gate).write_all(whole).context("unable to tell start")
}

/// The most that init says; far below what a fifo holds (pipe(7), 16 pages).
const WORDS_LIMIT: usize = 4096;

/// The gate once it is open, from the side of `start`: the reading end, on which init is the only writer.
pub struct Opened(File);

impl Opened {
    /// Waits until the program was executed, or init has ended before.
    ///
    /// # Errors
    /// What init said of why the program does not run; that init was killed before its hooks were done.
    pub fn wait_executed(mut self, before: Before) -> Result<()> {
        use rustix::event::{PollFd, PollFlags, poll};
        // The reading end of a fifo that nobody can write to is hung up (poll(2)), which needs no asking for.
        let mut gate = [PollFd::new(&self.0, PollFlags::empty())];
        while let Err(error) = poll(&mut gate, None) {
            if error != rustix::io::Errno::INTR {
                return Err(SysError::from_rustix("poll", "the gate", error).into());
            }
        }
        let mut words = Vec::new();
        self.0.read_to_end(&mut words).context("unable to read what init said at the gate")?;
        // The byte that opens the gate is still there when init was killed before it read it.
        let words = String::from_utf8_lossy(&words);
        let (words, hooks_done) = match words.trim_start_matches('\0').strip_prefix(char::from(HOOKS_DONE)) {
            Some(rest) => (rest, true),
            None => (words.trim_start_matches('\0'), false),
        };
        match words {
            "" if before == Before::Hooks && !hooks_done => {
                Err(Error::other("the container's init was killed before its hooks.startContainer had ended"))
            }
            "" => Ok(()),
            said => Err(Error::other(said)),
        }
    }
}

/// The side of `start`.
///
/// # Errors
/// [`ErrorKind::InvalidState`] when init has ended.
pub fn open(path: &Path) -> Result<Opened> {
    let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let unable = || format!("unable to open the gate {}", path.display());
    let mut gate = match std::fs::OpenOptions::new().write(true).custom_flags(nonblocking).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            return Err(Error::new(ErrorKind::InvalidState, "cannot start a container that has stopped"));
        }
        other => other.with_context(unable)?,
    };
    let words = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(path).with_context(unable)?;
    gate.write_all(&[0]).with_context(unable)?;
    std::fs::remove_file(path).with_context(|| format!("unable to remove the gate {}", path.display()))?;
    Ok(Opened(words))
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
        let opened = open(&path).unwrap();
        let end = waiter.join().unwrap().unwrap();
        let watcher = std::thread::spawn(move || opened.wait_executed(Before::Exec));
        assert!(!watcher.is_finished());
        drop(end);
        watcher.join().unwrap().unwrap();
        assert!(!path.exists());
        // A child that another thread has just forked may hold the end that is closed here for a moment.
        let error = (0..1000).find_map(|_| {
            drop(make(&path).unwrap());
            open(&path).err()
        });
        assert_eq!(error.map(|error| error.kind()), Some(ErrorKind::InvalidState));
    }

    #[test]
    fn what_init_says_reaches_start() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        let end = make(&path).unwrap();
        let opened = open(&path).unwrap();
        tell(wait(end).unwrap(), &Error::other("no luck")).unwrap();
        assert_eq!(opened.wait_executed(Before::Hooks).unwrap_err().to_string(), "no luck");
    }

    #[test]
    fn an_init_that_was_killed_at_the_gate_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        let end = make(&path).unwrap();
        let opened = open(&path).unwrap();
        drop(end);
        opened.wait_executed(Before::Exec).unwrap();
    }

    #[test]
    fn an_init_that_is_killed_before_its_hooks_have_ended_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("exec.fifo");
        for (is_done, said) in [(false, ""), (true, ""), (true, "no luck")] {
            let end = make(&path).unwrap();
            let opened = open(&path).unwrap();
            if is_done {
                report_hooks(&end).unwrap();
            }
            match said {
                "" => drop(end),
                said => tell(end, &Error::other(said)).unwrap(),
            }
            let error = opened.wait_executed(Before::Hooks).err().map(|error| error.to_string()).unwrap_or_default();
            match is_done {
                true => assert_eq!(error, said),
                false => assert!(error.contains("was killed before its hooks.startContainer"), "{error}"),
            }
        }
    }
}
