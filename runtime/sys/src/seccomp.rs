//! seccomp(2): installation of filters, and queries of the actions and flags that this kernel has.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_uint, c_void};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{SysError, SysResult, error};

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h, in a form that can be serialized.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instruction {
    /// The operation, `BPF_*` of linux/bpf_common.h.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jt: u8,
    /// Instructions to skip when it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// Installs `program` on the calling thread. A filter cannot be removed, stays over execve and is inherited by
/// children.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*`. The caller must have no_new_privs set, or CAP_SYS_ADMIN over its user
/// namespace.
///
/// Without flags, prctl(2) is used on a kernel (or under an outer filter) that lacks seccomp(2).
///
/// # Errors
/// EACCES without that privilege; EINVAL for an invalid filter or a flag unknown to this kernel; ENOMEM when the
/// process has more than 32768 instructions of filters.
pub fn install(program: &[Instruction], flags: u32) -> SysResult<()> {
    let args = || format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {{len={}}}", program.len());
    set_filter(program, flags).map_err(|errno| SysError::new("seccomp", args(), errno))
}

/// Makes the child of `command` install `program` as its last step between fork and exec. The filter applies to the
/// program of `command`, and not to this process. Otherwise as [`install`].
pub fn install_before_exec(command: &mut Command, program: Vec<Instruction>, flags: u32) {
    let install = move || set_filter(&program, flags).map_err(io::Error::from);
    // SAFETY: the closure only makes system calls, which are async-signal-safe, on memory that it owns: set_filter
    // neither allocates nor locks.
    unsafe { command.pre_exec(install) };
}

/// Installs a filter as [`install`] does, by system calls alone, so that a child may call it between fork and exec.
fn set_filter(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    let pointer: *const libc::sock_fprog = &fprog;
    // SAFETY: the kernel reads `fprog` and the `len` instructions at `filter`, which are the borrowed slice `program`;
    // `Instruction` has the layout of sock_filter (checked below).
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, pointer) };
    if result == 0 {
        return Ok(());
    }
    let errno = error::last();
    if flags != 0 || errno != Errno::NOSYS {
        return Err(errno);
    }
    // SAFETY: as above; prctl(PR_SET_SECCOMP) reads the same structure.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, pointer, 0, 0) } {
        0 => Ok(()),
        _ => Err(error::last()),
    }
}

/// Installs `program` with a listener (SECCOMP_FILTER_FLAG_NEW_LISTENER, since 5.0), and hands that to `deliver`.
///
/// After the installation any system call of this thread may be refused, or may wait for an agent that has no listener
/// yet. Therefore `deliver` runs on another thread, to which the filter does not apply, and this thread makes no system
/// call until `deliver` has returned: it waits on an atomic variable. The other thread may still be exiting at the
/// return; an execve(2) ends it.
///
/// # Errors
/// As for [`install`]; EINVAL too on a kernel without listeners, EBUSY where a filter with a listener is installed
/// already; EPIPE when `deliver` returns false; EAGAIN when no second thread can be started.
pub fn install_with_listener(
    program: &[Instruction],
    flags: u32,
    deliver: impl FnOnce(OwnedFd) -> bool + Send + 'static,
) -> SysResult<()> {
    const NEW_LISTENER: u32 = 1 << 3;
    const _: () = assert!(NEW_LISTENER as libc::c_ulong == libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // Values of the variable that are no descriptor: not installed yet; not installed; delivered; not delivered.
    const WAITING: i32 = -1;
    const NONE: i32 = -2;
    const DONE: i32 = -3;
    const FAILED: i32 = -4;
    let args = || format!("SECCOMP_SET_MODE_FILTER, {:#x}, {{len={}}}", flags | NEW_LISTENER, program.len());
    let len = u16::try_from(program.len()).map_err(|_| SysError::new("seccomp", args(), Errno::INVAL))?;
    let word = Arc::new(AtomicI32::new(WAITING));
    let theirs = word.clone();
    let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
        let number = loop {
            match theirs.load(Ordering::Acquire) {
                WAITING => std::thread::yield_now(),
                NONE => return,
                number => break number,
            }
        };
        // SAFETY: the installing thread stores the number of the new listener once, and never uses it itself.
        let listener = unsafe { OwnedFd::from_raw_fd(number) };
        theirs.store(if deliver(listener) { DONE } else { FAILED }, Ordering::Release);
    });
    let thread = thread
        .map_err(|error| SysError::new("clone3", "a thread", Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    // SAFETY: as in `set_filter`.
    let number = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags | NEW_LISTENER, &raw const fprog)
    };
    let Some(number) = i32::try_from(number).ok().filter(|number| *number >= 0) else {
        let error = SysError::last("seccomp", args());
        word.store(NONE, Ordering::Release);
        // Without a filter this thread may make system calls again. The other thread returns at once, without a panic.
        let _ = thread.join();
        return Err(error);
    };
    word.store(number, Ordering::Release);
    loop {
        match word.load(Ordering::Acquire) {
            DONE => return Ok(()),
            FAILED => return Err(SysError::new("sendmsg", "the listener", Errno::PIPE)),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Whether this kernel knows the action `action`, a `SECCOMP_RET_*` value without data.
pub fn action_available(action: u32) -> bool {
    let pointer: *const u32 = &action;
    // SAFETY: the kernel reads one u32, which `pointer` leads to, and changes nothing.
    unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0 as c_uint, pointer) == 0 }
}

/// Whether this kernel knows all of `flags`. The kernel checks the flags first and then the program, which is null
/// here: EFAULT means that the flags are valid, EINVAL that they are not.
pub fn flags_available(flags: u32) -> bool {
    let none: *const c_void = std::ptr::null();
    // SAFETY: the kernel refuses a null program with EFAULT, and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, none) };
    result == -1 && error::last() == Errno::FAULT
}

const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
    assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
    assert!(offset_of!(Instruction, code) == offset_of!(libc::sock_filter, code));
    assert!(offset_of!(Instruction, jt) == offset_of!(libc::sock_filter, jt));
    assert!(offset_of!(Instruction, jf) == offset_of!(libc::sock_filter, jf));
    assert!(offset_of!(Instruction, k) == offset_of!(libc::sock_filter, k));
};
