//! The session keyring (keyrings(7)).

use std::ffi::CStr;

use super::{SysError, SysResult};

/// Possessor: all; user: view, read, search (keyctl(2), KEYCTL_SETPERM): the container's user finds its keyring.
const PERMISSIONS: libc::c_uint = 0x3f0b_0000;

/// Makes a new session keyring named `name` and joins it.
///
/// # Errors
/// ENOSYS where the kernel has no keyrings, EDQUOT when the user has too many keys.
pub fn join_session(name: &CStr) -> SysResult<()> {
    // SAFETY: the kernel reads a C string, which `name` borrows for the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if key < 0 {
        return Err(SysError::last("keyctl", format!("JOIN_SESSION_KEYRING, {}", name.to_string_lossy())));
    }
    // SAFETY: KEYCTL_SETPERM takes its arguments by value.
    if unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_SETPERM, key, PERMISSIONS) } != 0 {
        return Err(SysError::last("keyctl", format!("SETPERM, {key}, {PERMISSIONS:#x}")));
    }
    Ok(())
}
