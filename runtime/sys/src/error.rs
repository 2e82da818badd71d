//! A failed system call, printed the way strace prints it.

use std::fmt;

use nix::errno::Errno;

/// A system call that failed: its name, its arguments as a person would read them, and errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysError {
    call: &'static str,
    args: String,
    errno: Errno,
}

/// The result of every function in `sys`.
pub type SysResult<T> = Result<T, SysError>;

impl SysError {
    /// `call(args)` failed with `errno`. An empty `args` prints the call's name alone.
    pub fn new(call: &'static str, args: impl Into<String>, errno: Errno) -> SysError {
        SysError { call, args: args.into(), errno }
    }

    /// `call(args)` failed, and errno of this thread says why.
    pub fn last(call: &'static str, args: impl Into<String>) -> SysError {
        SysError::new(call, args, Errno::last())
    }

    /// From a standard library error of `call(args)`. An error that carries no errno counts as EIO.
    pub fn from_io(call: &'static str, args: impl Into<String>, error: &std::io::Error) -> SysError {
        SysError::new(call, args, error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }

    /// From a rustix error of `call(args)`.
    pub fn from_rustix(call: &'static str, args: impl Into<String>, error: rustix::io::Errno) -> SysError {
        SysError::new(call, args, Errno::from_raw(error.raw_os_error()))
    }

    /// The name of the call.
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// Why it failed.
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
