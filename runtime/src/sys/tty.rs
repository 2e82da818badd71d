//! Terminals: the two sides of a pty, their size, and the controlling terminal of a session.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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

/// Makes the terminal the controlling one of this process's session, which has none yet (TIOCSCTTY).
pub fn make_controlling(terminal: BorrowedFd) -> SysResult<()> {
    // SAFETY: integers only.
    if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } != 0 {
        return Err(SysError::last("ioctl", "TIOCSCTTY, 0"));
    }
    Ok(())
}
