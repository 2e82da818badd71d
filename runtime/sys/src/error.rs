//! A failed system call, printed as strace prints it.

use std::fmt;

use rustix::io::Errno;

/// A failed system call: its name, readable arguments, and errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysError {
    call: &'static str,
    args: String,
    errno: Errno,
}

/// The result of a function of this crate.
pub type SysResult<T> = Result<T, SysError>;

impl SysError {
    /// An error of `call(args)`. With empty `args` the name is printed alone.
    pub fn new(call: &'static str, args: impl Into<String>, errno: Errno) -> SysError {
        SysError { call, args: args.into(), errno }
    }

    /// An error of `call(args)` with this thread's errno.
    pub fn last(call: &'static str, args: impl Into<String>) -> SysError {
        SysError::new(call, args, last())
    }

    /// An error of `call(args)` from one of the standard library. One without errno counts as EIO.
    pub fn from_io(call: &'static str, args: impl Into<String>, error: &std::io::Error) -> SysError {
        SysError::new(call, args, Errno::from_io_error(error).unwrap_or(Errno::IO))
    }

    /// The name of the call.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// The cause.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

impl fmt::Display for SysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.args.is_empty() {
            write!(f, "{}: {}", self.call, errno_text(self.errno))
        } else {
            write!(f, "{}({}): {}", self.call, self.args, errno_text(self.errno))
        }
    }
}

impl std::error::Error for SysError {}

/// The text of an error number, such as `Permission denied`, in which rustix's own display adds the number.
pub fn errno_text(errno: Errno) -> &'static str {
    nix::errno::Errno::from_raw(errno.raw_os_error()).desc()
}

/// The error of a call that only nix has.
pub(crate) fn from_nix(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// This thread's errno, which the C library's calls set.
pub(crate) fn last() -> Errno {
    Errno::from_raw_os_error(nix::errno::Errno::last_raw())
}
