//! System calls of a seccomp profile that no known architecture has.

use crate::error::{Error, ErrorKind, Result};

/// The handling of unknown system calls in a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownSyscalls {
    /// Fails the launch.
    Refuse,
    /// Ignores the rule with a warning.
    Warn,
    /// Ignores the rule, because the container's create has warned of it.
    Ignore,
}

/// Reports the unknown names in a profile, each once.
///
/// # Errors
/// The handling is `Refuse`, and there are unknown names.
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
