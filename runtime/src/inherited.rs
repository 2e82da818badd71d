//! Resources that the caller passes on through environment and descriptors.

use std::path::PathBuf;

use brig_engine::error::{Error, ErrorKind, Result};
use brig_sys::inherited::is_open;

/// The first descriptor after the standard streams (sd_listen_fds(3)).
const FIRST: u32 = 3;

/// Number of sockets that systemd passes: LISTEN_FDS, if LISTEN_PID is this process.
pub fn listen_fds() -> u32 {
    let variable = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    match variable("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => variable("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// The socket of a service manager that waits for READY=1 (sd_notify(3)).
pub fn notify_socket() -> Option<PathBuf> {
    std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Checks that each descriptor for the container is open.
pub fn check(listen_fds: u32, preserve_fds: u32) -> Result<()> {
    for index in 0..listen_fds.saturating_add(preserve_fds) {
        let fd = FIRST.checked_add(index).and_then(|fd| i32::try_from(fd).ok());
        if fd.is_some_and(is_open) {
            continue;
        }
        let message = if index < listen_fds {
            format!("$LISTEN_FDS says {listen_fds}, but descriptor {} is not open", FIRST + index)
        } else {
            let nth = index - listen_fds;
            format!("please check that preserved-fd-{nth} (of {preserve_fds}) is present")
        };
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_the_descriptor_that_is_not_open() {
        assert!(check(0, 0).is_ok());
        let error = check(0, u32::MAX).unwrap_err().to_string();
        assert!(error.starts_with("please check that preserved-fd-"), "{error}");
        let error = check(u32::MAX, 1).unwrap_err().to_string();
        assert!(error.starts_with("$LISTEN_FDS says 4294967295, but descriptor "), "{error}");
    }
}
