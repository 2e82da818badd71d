//! The session keyring (keyrings(7)).

use std::ffi::CStr;

use super::{SysError, SysResult};

const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
const KEYCTL_SETPERM: libc::c_int = 5;
/// Possessor: all; user: view, read, search (keyctl(2), KEYCTL_SETPERM): the container's user finds its keyring.
const PERMISSIONS: libc::c_uint = 0x3f0b_0000;

/// Makes a new session keyring named `name` and joins it.
///
/// # Errors
/// ENOSYS where the kernel has no keyrings, EDQUOT when the user has too many keys.
pub fn join_session(name: &CStr) -> SysResult<()> {
    // SAFETY: name is a C string that outlives the call.
    let key = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if key < 0 {
        return Err(SysError::last("keyctl", format!("JOIN_SESSION_KEYRING, {}", name.to_string_lossy())));
    }
    // SAFETY: integers only.
    if unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, key, PERMISSIONS) } != 0 {
        return Err(SysError::last("keyctl", format!("SETPERM, {key}, {PERMISSIONS:#x}")));
    }
    Ok(())
}
