//! The engine's errors as ttrpc statuses, which containerd maps to its own errors (errdefs) by their code.

use brig_engine::error::{Error, ErrorKind};
use ttrpc::Code;

/// The code of containerd's errdefs that corresponds to `kind`.
pub fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoSuchProcess => Code::NOT_FOUND,
        ErrorKind::AlreadyExists => Code::ALREADY_EXISTS,
        ErrorKind::InvalidId | ErrorKind::InvalidConfig | ErrorKind::Executable => Code::INVALID_ARGUMENT,
        ErrorKind::NotRunning | ErrorKind::InvalidState => Code::FAILED_PRECONDITION,
        ErrorKind::Unsupported => Code::UNIMPLEMENTED,
        ErrorKind::TimedOut => Code::DEADLINE_EXCEEDED,
        ErrorKind::Other => Code::UNKNOWN,
    }
}

/// The status of a failed call.
pub fn status(error: &Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code(error.kind()), error.to_string()))
}

/// The error for a missing container, or a missing process of it.
pub fn not_found(what: &str, id: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what} {id} does not exist"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_the_code_and_the_whole_chain() {
        let error = Error::new(ErrorKind::InvalidState, "cannot exec in a paused container").context("exec failed");
        let ttrpc::Error::RpcStatus(status) = status(&error) else { panic!("no status") };
        assert_eq!(status.code(), Code::FAILED_PRECONDITION);
        assert_eq!(status.message(), "exec failed: cannot exec in a paused container");
    }
}
