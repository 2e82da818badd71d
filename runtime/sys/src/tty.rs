//! Terminals: the two sides of a pty, their size and modes, and the controlling terminal of a session.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::termios::{self, SetArg, Termios};

use super::{SysError, SysResult};

/// Unlocks the pty of this master and opens its slave side from the master itself (TIOCGPTPEER, ioctl_tty(2)), so
/// that no path is followed that an image could have prepared. Close-on-exec, and not the controlling terminal.
pub fn open_peer(master: BorrowedFd) -> SysResult<OwnedFd> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, valid for the whole call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } != 0 {
        return Err(SysError::last("ioctl", "TIOCSPTLCK, 0"));
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and gives a new fd.
    let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) };
    if slave < 0 {
        return Err(SysError::last("ioctl", "TIOCGPTPEER"));
    }
    // SAFETY: a new fd that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(slave as RawFd) })
}

/// The pty's number: its slave is /dev/pts/NUMBER (TIOCGPTN).
pub fn number(master: BorrowedFd) -> SysResult<u32> {
    let mut number: libc::c_uint = 0;
    // SAFETY: TIOCGPTN writes one unsigned int, valid for the whole call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTN, &raw mut number) } != 0 {
        return Err(SysError::last("ioctl", "TIOCGPTN"));
    }
    Ok(number)
}

/// Sets the terminal's size in character cells (TIOCSWINSZ).
pub fn set_size(terminal: BorrowedFd, rows: u16, columns: u16) -> SysResult<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, valid for the whole call.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } != 0 {
        return Err(SysError::last("ioctl", format!("TIOCSWINSZ, {rows} rows, {columns} columns")));
    }
    Ok(())
}

/// The rows and columns of a terminal (TIOCGWINSZ).
pub fn size(terminal: BorrowedFd<'_>) -> SysResult<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize, valid for the whole call.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } != 0 {
        return Err(SysError::last("ioctl", "TIOCGWINSZ"));
    }
    Ok((size.ws_row, size.ws_col))
}

/// Makes the terminal the controlling one of this process's session, which has none yet (TIOCSCTTY).
pub fn make_controlling(terminal: BorrowedFd) -> SysResult<()> {
    // SAFETY: integers only.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(SysError::last("ioctl", "TIOCSCTTY, 0"));
    }
    Ok(())
}

/// Turns off the translation of a newline to carriage return and newline. Works on either side of a pair.
pub fn disable_newline_translation(terminal: BorrowedFd<'_>) -> SysResult<()> {
    let mut settings = get(terminal)?;
    settings.output_flags.remove(termios::OutputFlags::ONLCR);
    set(terminal, &settings)
}

/// The character that is an end of file in the input of a terminal (termios(3), VEOF); `None` where none is, because the
/// program reads single bytes. Works on either side of a pair.
pub fn end_of_file(terminal: BorrowedFd<'_>) -> SysResult<Option<u8>> {
    let settings = get(terminal)?;
    let mark = settings.control_chars[termios::SpecialCharacterIndices::VEOF as usize];
    Ok(settings.local_flags.contains(termios::LocalFlags::ICANON).then_some(mark).filter(|mark| *mark != 0))
}

/// A terminal in raw mode (cfmakeraw(3)) until this is dropped. Newlines that are written are still translated.
pub struct RawMode<T: AsFd> {
    terminal: T,
    before: Termios,
}

impl<T: AsFd> RawMode<T> {
    /// `None` when `terminal` is no terminal.
    pub fn new(terminal: T) -> SysResult<Option<RawMode<T>>> {
        let before = match get(terminal.as_fd()) {
            Err(error) if error.errno() == Errno::ENOTTY => return Ok(None),
            settings => settings?,
        };
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // The inner terminal leaves newlines as they are, so that a pipe gets them so; this one translates them.
        raw.output_flags.insert(termios::OutputFlags::OPOST);
        set(terminal.as_fd(), &raw)?;
        Ok(Some(RawMode { terminal, before }))
    }
}

impl<T: AsFd> Drop for RawMode<T> {
    fn drop(&mut self) {
        // The terminal may have hung up, and there is nobody to tell.
        let _ = set(self.terminal.as_fd(), &self.before);
    }
}

fn get(terminal: BorrowedFd<'_>) -> SysResult<Termios> {
    termios::tcgetattr(terminal).map_err(|errno| SysError::new("tcgetattr", terminal.as_raw_fd().to_string(), errno))
}

fn set(terminal: BorrowedFd<'_>, settings: &Termios) -> SysResult<()> {
    loop {
        match termios::tcsetattr(terminal, SetArg::TCSANOW, settings) {
            Err(Errno::EINTR) => {}
            result => {
                let error = |errno| SysError::new("tcsetattr", terminal.as_raw_fd().to_string(), errno);
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
    fn a_pair_carries_bytes_and_its_size() {
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
    fn raw_mode_ends_with_its_guard() {
        let (_master, slave) = pty();
        let local = || get(slave.as_fd()).unwrap().local_flags;
        let before = local();
        assert!(before.contains(termios::LocalFlags::ICANON));
        let raw = RawMode::new(slave.as_fd()).unwrap();
        assert!(!local().contains(termios::LocalFlags::ICANON));
        drop(raw);
        assert_eq!(local(), before);
    }

    #[test]
    fn what_is_no_terminal_has_no_raw_mode() {
        assert!(RawMode::new(File::open("/dev/null").unwrap()).unwrap().is_none());
        let master = File::open("/dev/null").unwrap();
        assert!(open_peer(master.as_fd()).unwrap_err().to_string().contains("TIOCSPTLCK"));
    }
}
