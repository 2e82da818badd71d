//! The one error type of the engine: a short kind that callers match on, a message for a person, and a cause.

use std::borrow::Cow;
use std::fmt;

use brig_plan::Refused;
use brig_sys::SysError;
use brig_sys::file::ReadError;

/// The classes of errors that callers distinguish. Every other error is [`ErrorKind::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No container has this id.
    NotFound,
    /// A container with this id exists already.
    AlreadyExists,
    /// The id is no valid container id.
    InvalidId,
    /// config.json, or an argument, is wrong; the message lists every violation.
    InvalidConfig,
    /// The verb needs a running container.
    NotRunning,
    /// The verb is not allowed in the container's present state.
    InvalidState,
    /// This host or kernel cannot do what was asked.
    Unsupported,
    /// The process that was to be signalled is gone.
    NoSuchProcess,
    /// The container's program could not be found or executed.
    Executable,
    /// An operation did not complete before its timeout.
    TimedOut,
    /// Anything else.
    Other,
}

/// An error with a kind, a message and, most often, a cause.
///
/// `Display` prints the whole chain in one line, `message: cause: cause of the cause`; `Debug` adds the kind.
/// [`std::error::Error::source`] gives the cause to a caller that looks for its type; its text is part of `Display`.
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of everything above the `sys` layer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind` without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), source: None }
    }

    /// An error of no particular kind.
    pub fn other(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Other, message)
    }

    /// The kind that callers match on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error under another kind.
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }

    /// Puts `message: ` before the error, keeping its kind.
    pub fn context(self, message: impl Into<String>) -> Error {
        Error { kind: self.kind, message: message.into(), source: Some(Box::new(self)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_numbers(&self.message))?;
        let Some(source) = &self.source else { return Ok(()) };
        if !self.message.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&without_numbers(&source.to_string()))
    }
}

/// The text without the ` (os error 2)` that the standard library puts after the words for an errno, which say the
/// same.
pub fn without_numbers(text: &str) -> Cow<'_, str> {
    const BEGIN: &str = " (os error ";
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let digits = after.len() - after.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        match after[digits..].strip_prefix(')') {
            Some(after) if digits > 0 => {
                kept.push_str(before);
                rest = after;
            }
            _ => {
                kept.push_str(&rest[..before.len() + BEGIN.len()]);
                rest = after;
            }
        }
    }
    if kept.is_empty() && rest.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(kept + rest) }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        Error::new(ErrorKind::InvalidConfig, refused.to_string())
    }
}

impl<T> Context<T> for std::result::Result<T, Refused> {
    fn context(self, message: impl Into<String>) -> Result<T> {
        self.map_err(Error::from).context(message)
    }
    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(Error::from).with_context(message)
    }
}

impl From<SysError> for Error {
    fn from(error: SysError) -> Error {
        Error { kind: ErrorKind::Other, message: String::new(), source: Some(Box::new(error)) }
    }
}

/// Adds what was being done to an error of any layer.
pub trait Context<T> {
    /// Wraps the error in `message`.
    ///
    /// # Errors
    /// The error of `self`, wrapped.
    fn context(self, message: impl Into<String>) -> Result<T>;
    /// Like [`Context::context`], for a message that costs something to build.
    ///
    /// # Errors
    /// The error of `self`, wrapped.
    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn context(self, message: impl Into<String>) -> Result<T> {
        self.map_err(|error| error.context(message))
    }
    fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.context(message()))
    }
}

macro_rules! foreign {
    ($($error:ty),*) => {$(
        impl<T> Context<T> for std::result::Result<T, $error> {
            fn context(self, message: impl Into<String>) -> Result<T> {
                self.with_context(|| message)
            }
            fn with_context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
                self.map_err(|error| Error {
                    kind: ErrorKind::Other,
                    message: message().into(),
                    source: Some(Box::new(error)),
                })
            }
        }
    )*};
}
foreign!(SysError, ReadError, std::io::Error, serde_json::Error, rustix::io::Errno);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_prints_in_one_line_and_keeps_its_kind() {
        let error = Error::new(ErrorKind::NotFound, "container does not exist").context("unable to load");
        assert_eq!(error.to_string(), "unable to load: container does not exist");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(format!("{error:?}"), "NotFound: unable to load: container does not exist");
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.downcast_ref::<Error>().map(Error::kind), Some(ErrorKind::NotFound));
    }

    #[test]
    fn an_errno_has_words_and_no_number() {
        let missing = std::io::Error::from_raw_os_error(2);
        let error = Err::<(), _>(missing).context("open /x").unwrap_err();
        assert_eq!(error.to_string(), "open /x: No such file or directory");
        let error =
            Error::other(format!("a ({}), b: {}", std::io::Error::from_raw_os_error(13), rustix::io::Errno::PERM));
        assert_eq!(error.to_string(), "a (Permission denied), b: Operation not permitted");
        assert_eq!(without_numbers("x (os error ) (os error 1 (os error 22)"), "x (os error ) (os error 1");
    }

    #[test]
    fn a_system_call_error_without_context_prints_alone() {
        let error = Error::from(SysError::new("mkdirat", "3, \"a\"", rustix::io::Errno::NOSPC));
        assert_eq!(error.to_string(), "mkdirat(3, \"a\"): No space left on device");
    }
}
