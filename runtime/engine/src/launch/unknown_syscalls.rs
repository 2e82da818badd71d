//! System calls of a seccomp profile that no architecture knows.

use crate::error::{Error, ErrorKind, Result};

/// What becomes of a system call in a profile that no architecture knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSyscalls {
    /// The launch fails.
    Refuse,
    /// Its rule is ignored with a warning.
    Warn,
    /// Its rule is ignored: the container's create has warned of it.
    Ignore,
}

/// Deals with the names in a profile that are unknown, each once.
///
/// # Errors
/// There are some, and they are to be refused.
pub(super) fn report_unknown(mut names: Vec<String>, what: UnknownSyscalls) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    names.sort_unstable();
    names.dedup();
    match what {
        UnknownSyscalls::Refuse => {
            let unknown = format!("linux.seccomp: unknown syscalls: {}", names.join(" "));
            return Err(Error::new(ErrorKind::InvalidConfig, unknown));
        }
        UnknownSyscalls::Warn => {
            let hint = |name: &String| format!("{name}{}", crate::seccomp::nearest_syscall(name));
            let names: Vec<String> = names.iter().map(hint).collect();
            tracing::warn!("linux.seccomp: unknown system calls, whose rules are ignored: {}", names.join(", "));
        }
        UnknownSyscalls::Ignore => tracing::debug!("linux.seccomp: unknown syscalls: {}, ignored", names.join(" ")),
    }
    Ok(())
}
