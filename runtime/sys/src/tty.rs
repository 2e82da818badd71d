//! Terminals: the two sides of a pty, their size and modes, and the controlling terminal of a session.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, Winsize};

use super::{SysError, SysResult};

/// Unlocks the pty of this master and opens its slave side from the master itself (TIOCGPTPEER, ioctl_tty(2)), so
/// that no path is followed that an image could have prepared. Close-on-exec, and not the controlling terminal.
///
/// # Errors
/// ENOTTY when `master` is no pty's master, EIO when its other side is gone, EMFILE past the limit on descriptors.
pub fn open_peer(master: BorrowedFd) -> SysResult<OwnedFd> {
    rustix::pty::unlockpt(master).map_err(|error| SysError::new("ioctl", "TIOCSPTLCK, 0", error))?;
    rustix::pty::ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .map_err(|error| SysError::new("ioctl", "TIOCGPTPEER", error))
}

/// The pty's number: its slave is /dev/pts/NUMBER (TIOCGPTN).
///
/// # Errors
/// ENOTTY when `master` is no pty's master.
pub fn number(master: BorrowedFd) -> SysResult<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int, and `number` is one that outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) } != 0 {
        return Err(SysError::last("ioctl", "TIOCGPTN"));
    }
    Ok(number)
}

/// Sets the terminal's size in character cells (TIOCSWINSZ).
///
/// # Errors
/// ENOTTY when the file is no terminal.
pub fn set_size(terminal: BorrowedFd, rows: u16, columns: u16) -> SysResult<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
        .map_err(|error| SysError::new("ioctl", format!("TIOCSWINSZ, {rows} rows, {columns} columns"), error))
}

/// The rows and columns of a terminal (TIOCGWINSZ).
///
/// # Errors
/// ENOTTY when the file is no terminal.
pub fn size(terminal: BorrowedFd<'_>) -> SysResult<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal).map_err(|error| SysError::new("ioctl", "TIOCGWINSZ", error))?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes the terminal the controlling one of this process's session, which has none yet (TIOCSCTTY).
///
/// # Errors
/// EPERM when this process leads no session, or the session or the terminal has another of its kind already.
pub fn make_controlling(terminal: BorrowedFd) -> SysResult<()> {
    rustix::process::ioctl_tiocsctty(terminal).map_err(|error| SysError::new("ioctl", "TIOCSCTTY, 0", error))
}

/// Turns off the translation of a newline to carriage return and newline. Works on either side of a pair.
///
/// # Errors
/// ENOTTY when the file is no terminal, EIO when it has hung up.
pub fn disable_newline_translation(terminal: BorrowedFd<'_>) -> SysResult<()> {
    let mut settings = get(terminal)?;
    settings.output_modes.remove(OutputModes::ONLCR);
    set(terminal, &settings)
}

/// The character that is an end of file in the input of a terminal (termios(3), VEOF). `None` where there is none,
/// because the program reads single bytes. Works on either side of a pair.
///
/// # Errors
/// ENOTTY when the file is no terminal, EIO when it has hung up.
pub fn end_of_file(terminal: BorrowedFd<'_>) -> SysResult<Option<u8>> {
    let settings = get(terminal)?;
    let mark = settings.special_codes[SpecialCodeIndex::VEOF];
    Ok(settings.local_modes.contains(LocalModes::ICANON).then_some(mark).filter(|mark| *mark != 0))
}

/// A terminal in raw mode (cfmakeraw(3)) until this value is dropped. Newlines that are written are still translated.
pub struct RawMode<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> RawMode<T> {
    /// Sets raw mode; `None` when `terminal` is no terminal.
    ///
    /// # Errors
    /// As tcgetattr(3) and tcsetattr(3), except ENOTTY: EIO for a terminal that has hung up.
    pub fn new(terminal: T) -> SysResult<Option<RawMode<T>>> {
        let before = match get(terminal.as_fd()) {
            Err(error) if error.errno() == Errno::NOTTY => return Ok(None),
            settings => settings?,
        };
        let mut raw = before.clone();
        raw.make_raw();
        // The inner terminal leaves newlines as they are, so that a pipe gets them so; this one translates them.
        raw.output_modes.insert(OutputModes::OPOST);
        set(terminal.as_fd(), &raw)?;
        Ok(Some(RawMode { terminal, before }))
    }
}

impl<T: AsFd> Drop for RawMode<T> {
    fn drop(&mut self) {
        // The terminal may have hung up, and a destructor returns no error.
        let _ = set(self.terminal.as_fd(), &self.before);
    }
}

fn get(terminal: BorrowedFd<'_>) -> SysResult<Termios> {
    rustix::termios::tcgetattr(terminal)
        .map_err(|error| SysError::new("tcgetattr", terminal.as_raw_fd().to_string(), error))
}

fn set(terminal: BorrowedFd<'_>, settings: &Termios) -> SysResult<()> {
    loop {
        match rustix::termios::tcsetattr(terminal, OptionalActions::Now, settings) {
            Err(rustix::io::Errno::INTR) => {}
            result => {
                let error = |error| SysError::new("tcsetattr", terminal.as_raw_fd().to_string(), error);
                return result.map_err(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    /// A master and its slave.
    fn pty() -> (OwnedFd, OwnedFd) {
        let master = OwnedFd::from(File::options().read(true).write(true).open("/dev/ptmx").unwrap());
        let slave = open_peer(master.as_fd()).unwrap();
        (master, slave)
    }

    #[test]
    fn a_pty_carries_bytes_and_its_size() {
        let (master, slave) = pty();
        set_size(master.as_fd(), 33, 99).unwrap();
        assert_eq!(size(slave.as_fd()).unwrap(), (33, 99));
        disable_newline_translation(master.as_fd()).unwrap();
        let (mut master, mut slave) = (File::from(master), File::from(slave));
        slave.write_all(b"a\n").unwrap();
        let mut bytes = [0; 2];
        master.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a\n");
    }

    #[test]
    fn dropping_raw_mode_restores_the_settings() {
        let (_master, slave) = pty();
        let local = || get(slave.as_fd()).unwrap().local_modes;
        let before = local();
        assert!(before.contains(LocalModes::ICANON));
        let raw = RawMode::new(slave.as_fd()).unwrap();
        assert!(!local().contains(LocalModes::ICANON));
        drop(raw);
        assert_eq!(local(), before);
    }

    #[test]
    fn a_file_that_is_no_terminal_has_no_raw_mode() {
        assert!(RawMode::new(File::open("/dev/null").unwrap()).unwrap().is_none());
        let master = File::open("/dev/null").unwrap();
        assert!(open_peer(master.as_fd()).unwrap_err().to_string().contains("TIOCSPTLCK"));
    }
}
