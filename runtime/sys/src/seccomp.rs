//! seccomp(2): installing a filter, and asking what filters this kernel takes.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use libc::{c_uint, c_void};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{SysError, SysResult};

const SET_MODE_FILTER: c_uint = 1;
const GET_ACTION_AVAIL: c_uint = 2;

/// One instruction of classic BPF: `struct sock_filter` of linux/filter.h, but one that can be sent to another process.
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

/// Installs `program` on the calling thread, for good. It stays over execve and is inherited by children.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*`. The caller must have no_new_privs set, or CAP_SYS_ADMIN over its user
/// namespace: EACCES otherwise. EINVAL says that the program is no valid filter, or a flag unknown to this kernel;
/// ENOMEM that the process holds more than 32768 instructions of filters already.
///
/// Without flags, a kernel (or an outer filter) that lacks seccomp(2) is served by prctl(2).
pub fn install(program: &[Instruction], flags: u32) -> SysResult<()> {
    let args = || format!("SECCOMP_SET_MODE_FILTER, {flags:#x}, {{len={}}}", program.len());
    set_filter(program, flags).map_err(|errno| SysError::new("seccomp", args(), errno))
}

/// Has the child of `command` install `program` between its fork and its exec, the last of what it does there. The
/// filter binds the program of `command`, and not this process. The rest is as for [`install`].
pub fn install_before_exec(command: &mut Command, program: Vec<Instruction>, flags: u32) {
    let install = move || set_filter(&program, flags).map_err(|errno| io::Error::from_raw_os_error(errno as i32));
    // SAFETY: the closure makes system calls on memory that it owns, which the fork copied, and nothing else.
    unsafe { command.pre_exec(install) };
}

/// As [`install`]. Makes system calls alone, so that a child may call it between fork and exec.
fn set_filter(program: &[Instruction], flags: u32) -> Result<(), Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    let pointer: *const libc::sock_fprog = &fprog;
    // SAFETY: `fprog` outlives the call, and its `len` and `filter` describe the slice `program`, which outlives it
    // too; `Instruction` has the layout of sock_filter (checked below). The kernel copies and only reads both.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, pointer) };
    if result == 0 {
        return Ok(());
    }
    let errno = Errno::last();
    if flags != 0 || errno != Errno::ENOSYS {
        return Err(errno);
    }
    // SAFETY: as above; prctl(PR_SET_SECCOMP) reads the same structure.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, pointer, 0, 0) } {
        0 => Ok(()),
        _ => Err(Errno::last()),
    }
}

/// Installs `program` with a listener (SECCOMP_FILTER_FLAG_NEW_LISTENER, since 5.0), and hands that to `deliver`.
///
/// From the installation on, any system call of this thread may be refused, or may wait for an agent that has no
/// listener yet. So `deliver` runs on a thread of its own, which the filter does not bind, and this one makes no
/// system call until it has ended: it waits on a word in memory. The other thread may still exist after the return,
/// with nothing left to do; an execve(2) ends it.
///
/// # Errors
/// As for [`install`]; EINVAL too on a kernel without listeners, EBUSY where a filter with a listener is installed
/// already; EPIPE when `deliver` gives false; EAGAIN when there can be no second thread.
pub fn install_with_listener(
    program: &[Instruction],
    flags: u32,
    deliver: impl FnOnce(OwnedFd) -> bool + Send + 'static,
) -> SysResult<()> {
    const NEW_LISTENER: u32 = 1 << 3;
    // What is in the word beside a descriptor: none yet; none will come; it was delivered; it could not be.
    const WAITING: i32 = -1;
    const NONE: i32 = -2;
    const DONE: i32 = -3;
    const FAILED: i32 = -4;
    let args = || format!("SECCOMP_SET_MODE_FILTER, {:#x}, {{len={}}}", flags | NEW_LISTENER, program.len());
    let len = u16::try_from(program.len()).map_err(|_| SysError::new("seccomp", args(), Errno::EINVAL))?;
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
        // SAFETY: the kernel has just made this descriptor for the other thread, which leaves it to this one.
        let listener = unsafe { OwnedFd::from_raw_fd(number) };
        theirs.store(if deliver(listener) { DONE } else { FAILED }, Ordering::Release);
    });
    let thread = thread.map_err(|error| {
        SysError::new("clone3", "a thread", error.raw_os_error().map_or(Errno::EAGAIN, Errno::from_raw))
    })?;
    let fprog = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast::<libc::sock_filter>() };
    // SAFETY: as in `install`.
    let number = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags | NEW_LISTENER, &raw const fprog) };
    if number < 0 {
        let error = SysError::last("seccomp", args());
        word.store(NONE, Ordering::Release);
        // Without a filter, this thread may wait as it likes; a thread that only returns cannot panic.
        let _ = thread.join();
        return Err(error);
    }
    word.store(number as i32, Ordering::Release);
    loop {
        match word.load(Ordering::Acquire) {
            DONE => return Ok(()),
            FAILED => return Err(SysError::new("sendmsg", "the listener", Errno::EPIPE)),
            _ => std::hint::spin_loop(),
        }
    }
}

/// Whether this kernel knows the action `action`, a `SECCOMP_RET_*` value without data.
pub fn action_available(action: u32) -> bool {
    let pointer: *const u32 = &action;
    // SAFETY: `pointer` is valid for the call, which reads one u32 from it and changes nothing.
    unsafe { libc::syscall(libc::SYS_seccomp, GET_ACTION_AVAIL, 0 as c_uint, pointer) == 0 }
}

/// Whether this kernel knows all of `flags`. It checks the flags first and then the program, which is null here: EFAULT
/// says that the flags are good, EINVAL that they are not.
pub fn flags_available(flags: u32) -> bool {
    let none: *const c_void = std::ptr::null();
    // SAFETY: a null program cannot be installed; the kernel refuses it with EFAULT and nothing changes.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, none) };
    result == -1 && Errno::last() == Errno::EFAULT
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
