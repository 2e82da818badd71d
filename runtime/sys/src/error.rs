//! A failed system call, printed as strace prints it.

use std::fmt;

use nix::errno::Errno;

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
        SysError::new(call, args, Errno::last())
    }

    /// An error of `call(args)` from one of the standard library. One without errno counts as EIO.
    pub fn from_io(call: &'static str, args: impl Into<String>, error: &std::io::Error) -> SysError {
        SysError::new(call, args, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// An error of `call(args)` from one of rustix.
    pub fn from_rustix(call: &'static str, args: impl Into<String>, error: rustix::io::Errno) -> SysError {
        SysError::new(call, args, Errno::from_raw(error.raw_os_error()))
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
            write!(f, "{}: {}", self.call, self.errno.desc())
        } else {
            write!(f, "{}({}): {}", self.call, self.args, self.errno.desc())
        }
    }
}

impl std::error::Error for SysError {}
