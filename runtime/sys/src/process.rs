//! Processes: clone3 with a pidfd, waiting on it, signals by it, and what runs between clone and exec.
//!
//! The child of [`spawn_sealed`] shares nothing with the parent but copied memory, and other threads of the
//! parent may have held any lock at the moment of the clone. Until its execveat it therefore makes raw system
//! calls on memory that was laid out beforehand, and nothing else: no allocation, no locks, no panics.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::{SysError, SysResult};

/// A child process that is pinned by its pidfd: while the pidfd is open and the child is not reaped, the pid
/// cannot be given to another process.
#[derive(Debug)]
pub struct Child {
    /// Its pid in this process's pid namespace.
    pub pid: i32,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called exit with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The status a shell would report: the code, or 128 + the signal.
    pub fn status(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// What the child of [`spawn_sealed`] does before its exec. All memory is laid out by the caller.
pub struct Spawn<'a> {
    /// CLONE_NEW* flags; the other flags are added here.
    pub namespaces: u64,
    /// The cgroup v2 directory in which the child is born.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Files of v1 cgroups to which the child writes `0` before anything else, which moves it there.
    pub enter: &'a [BorrowedFd<'a>],
    /// The executable, executed by fd.
    pub image: BorrowedFd<'a>,
    /// argv, at least the name.
    pub argv: &'a [&'a CStr],
    /// The environment of the exec.
    pub env: &'a [&'a CStr],
    /// Moved to 0, 1 and 2.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Kept open over the exec.
    pub inherit: &'a [RawFd],
    /// The child reads one packet from this fd before it goes on; an end of file ends it.
    pub wait: Option<BorrowedFd<'a>>,
    /// After the wait the child becomes user and group 0 of its user namespace, without which the exec would
    /// take its capabilities (capabilities(7), "Capabilities and execution of programs by root").
    pub become_root: bool,
    /// Where errno of a failed step goes, as four bytes, native endian.
    pub report: BorrowedFd<'a>,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// CLONE_INTO_CGROUP (linux/sched.h, since 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// CLOSE_RANGE_CLOEXEC (linux/close_range.h, since 5.11).
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;

/// clone3(2). In the parent the child; `None` in the child.
///
/// # Safety
/// The child of a threaded process may only make async-signal-safe calls until it executes another image.
unsafe fn clone3(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd>) -> SysResult<Option<Child>> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: args is a valid clone_args of the given size; no stack, tls or tid pointers are passed, so the
    // child runs on a copy of this stack, as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(SysError::last("clone3", format!("flags {:#x}", args.flags))),
        0 => Ok(None),
        // SAFETY: the kernel stored a new close-on-exec pidfd that nothing else owns.
        pid => Ok(Some(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// Starts `spawn.image` in a new process. Errors between clone and exec arrive on `spawn.report`.
///
/// # Errors
/// EAGAIN and ENOMEM for want of processes or memory, ENOSPC for a namespace limit, EPERM without privilege,
/// EBUSY for a cgroup with controllers enabled for its children.
pub fn spawn_sealed(spawn: &Spawn) -> SysResult<Child> {
    let argv = pointers(spawn.argv);
    let env = pointers(spawn.env);
    // SAFETY: the child runs child_main alone, which keeps to async-signal-safe system calls and never returns.
    match unsafe { clone3(spawn.namespaces, libc::SIGCHLD as u64, spawn.cgroup) }? {
        Some(child) => Ok(child),
        // SAFETY: argv and env are null-terminated arrays that point into `spawn`, alive in the copied memory.
        None => unsafe { child_main(spawn, argv.as_ptr(), env.as_ptr()) },
    }
}

/// Process: the child, on the parent's copied memory, with the caller's privilege in its new namespaces.
/// Async-signal-safe calls only.
///
/// # Safety
/// `argv` and `env` are null-terminated arrays of C strings.
unsafe fn child_main(spawn: &Spawn, argv: *const *const libc::c_char, env: *const *const libc::c_char) -> ! {
    // SAFETY: raw system calls on fds and memory of `spawn`, which the copied address space keeps alive.
    unsafe {
        let fail = || -> ! {
            let errno = *libc::__errno_location();
            libc::write(spawn.report.as_raw_fd(), (&raw const errno).cast(), size_of::<libc::c_int>());
            libc::_exit(1)
        };
        for cgroup in spawn.enter {
            if libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1 {
                fail();
            }
        }
        if let Some(wait) = spawn.wait {
            let mut packet = 0u8;
            loop {
                match libc::read(wait.as_raw_fd(), (&raw mut packet).cast(), 1) {
                    1 => break,
                    0 => libc::_exit(1),
                    _ if *libc::__errno_location() == libc::EINTR => {}
                    _ => fail(),
                }
            }
        }
        if spawn.become_root {
            // Raw calls: the C library's wrappers would signal threads that are not in this process.
            if libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u8>()) != 0
                && *libc::__errno_location() != libc::EPERM
                || libc::syscall(libc::SYS_setresgid, 0, 0, 0) != 0
                || libc::syscall(libc::SYS_setresuid, 0, 0, 0) != 0
            {
                fail();
            }
        }
        if let Some(stdio) = spawn.stdio {
            for (number, fd) in stdio.iter().enumerate() {
                let fd = fd.as_raw_fd();
                let number = number as RawFd;
                let result = if fd == number {
                    libc::fcntl(fd, libc::F_SETFD, 0)
                } else {
                    libc::syscall(libc::SYS_dup3, fd, number, 0) as libc::c_int
                };
                if result < 0 {
                    fail();
                }
            }
        }
        for fd in spawn.inherit {
            if libc::fcntl(*fd, libc::F_SETFD, 0) != 0 {
                fail();
            }
        }
        let empty = c"";
        libc::syscall(libc::SYS_execveat, spawn.image.as_raw_fd(), empty.as_ptr(), argv, env, libc::AT_EMPTY_PATH);
        fail()
    }
}

fn pointers(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// The knowledge that this process has a single thread, which starts no other.
#[derive(Debug)]
pub struct SingleThreaded(());

impl SingleThreaded {
    /// Asks the kernel.
    ///
    /// # Errors
    /// EINVAL when this process has more than one thread.
    pub fn check() -> SysResult<SingleThreaded> {
        // unshare(2): CLONE_THREAD changes nothing, and is refused to a process of several threads.
        super::ns::unshare(libc::CLONE_THREAD as u64).map(|()| SingleThreaded(()))
    }
}

/// Makes a sibling: a child of this process's parent, in new `namespaces` and in the pid namespace that a
/// setns chose for children. Returns the sibling in this process, `None` in the sibling.
///
/// # Errors
/// As clone(2).
pub fn fork_sibling(_single_threaded: SingleThreaded, namespaces: u64) -> SysResult<Option<Child>> {
    let flags = namespaces | SIBLING_FLAGS;
    let mut pidfd: RawFd = -1;
    // clone(2) rather than clone3(2), which filters that look at the flags refuse. s390x has the first two arguments in the
    // other order.
    let (first, second) = if cfg!(target_arch = "s390x") { (0, flags) } else { (flags, 0) };
    // SAFETY: this process has a single thread, so no lock is held by another, and the copy may go on in Rust, on a copy of
    // this stack. The kernel stores the pidfd through the third argument, which is valid for the whole call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, &raw mut pidfd, 0, 0) };
    match pid {
        -1 => Err(SysError::last("clone", format!("flags {flags:#x}"))),
        0 => Ok(None),
        // SAFETY: the kernel stored a new close-on-exec pidfd that nothing else owns.
        pid => Ok(Some(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })),
    }
}

/// The flags of clone(2) that make a sibling.
pub const SIBLING_FLAGS: u64 = libc::CLONE_PARENT as u64 | libc::CLONE_PIDFD as u64;

/// Makes a child in new `namespaces` that does nothing but wait to be killed, so that others can take the namespaces
/// from it. It sends no signal when it ends, and only [`end_holder`] waits for it: who waits for any child does not
/// see it (wait(2), "clone" children).
///
/// # Errors
/// As clone3(2).
pub fn spawn_holder(namespaces: u64) -> SysResult<Child> {
    // SAFETY: the child makes system calls that are async-signal-safe alone, and never returns.
    match unsafe { clone3(namespaces, 0, None) }? {
        Some(child) => Ok(child),
        None => loop {
            // SAFETY: integers only. Should the parent's thread end before it has killed this process, so does it.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                libc::pause();
            }
        },
    }
}

/// Ends a child of [`spawn_holder`] and waits for its end.
pub fn end_holder(holder: Child) -> SysResult<()> {
    pidfd_send_signal(holder.pidfd.as_fd(), libc::SIGKILL)?;
    loop {
        match wait_id(holder.pidfd.as_fd(), libc::WEXITED | libc::__WALL) {
            Err(error) if error.errno() == Errno::EINTR => {}
            other => return other.map(drop),
        }
    }
}

/// Waits for a child by its pidfd and reaps it.
pub fn wait(pidfd: BorrowedFd) -> SysResult<Exit> {
    loop {
        match wait_id(pidfd, libc::WEXITED) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {}
            Err(error) if error.errno() == Errno::EINTR => {}
            Err(error) => return Err(error),
        }
    }
}

/// Like [`wait`], but `None` at once when the child still runs.
pub fn try_wait(pidfd: BorrowedFd) -> SysResult<Option<Exit>> {
    wait_id(pidfd, libc::WEXITED | libc::WNOHANG)
}

fn wait_id(pidfd: BorrowedFd, options: libc::c_int) -> SysResult<Option<Exit>> {
    let ended = waitid(libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t, options)?;
    Ok(ended.map(|(_, exit)| exit))
}

/// Looks for a child that has ended, and leaves it a zombie: its pid means this process and no other until it is
/// [reaped](reap). `None` when there is none, or no child at all.
pub fn peek_ended() -> SysResult<Option<(i32, Exit)>> {
    match waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
        Err(error) if error.errno() == Errno::ECHILD => Ok(None),
        other => other,
    }
}

/// Reaps the child of this pid if it has ended; `None` while it runs.
///
/// # Errors
/// ECHILD when this process has no such child.
pub fn reap(pid: i32) -> SysResult<Option<Exit>> {
    let id = libc::id_t::try_from(pid).map_err(|_| SysError::new("waitid", pid.to_string(), Errno::EINVAL))?;
    Ok(waitid(libc::P_PID, id, libc::WEXITED | libc::WNOHANG)?.map(|(_, exit)| exit))
}

/// waitid(2): the pid of the child that ended, and how it did.
fn waitid(kind: libc::idtype_t, id: libc::id_t, options: libc::c_int) -> SysResult<Option<(i32, Exit)>> {
    // SAFETY: an all-zero siginfo_t is valid, and is what the kernel leaves when nothing is to report.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: info is valid for writes for the whole call.
    let result = unsafe { libc::waitid(kind, id, &raw mut info, options) };
    if result != 0 {
        return Err(SysError::last("waitid", format!("{kind}, {id}")));
    }
    // SAFETY: waitid filled in the SIGCHLD members, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (_, libc::CLD_EXITED) => Some((pid, Exit::Code(status))),
        _ => Some((pid, Exit::Signal(status))),
    })
}

/// pidfd_open(2), close-on-exec.
///
/// # Errors
/// ESRCH when no process has this pid; EINVAL when it is that of a thread, or only of a process group or session.
pub fn pidfd_open(pid: i32) -> SysResult<OwnedFd> {
    // SAFETY: plain integers go in.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(SysError::last("pidfd_open", pid.to_string()));
    }
    // SAFETY: a new fd that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_send_signal(2).
///
/// # Errors
/// ESRCH when the process has ended, EINVAL for a signal that does not exist.
pub fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32) -> SysResult<()> {
    // SAFETY: plain integers, and a null siginfo, which means what kill(2) sends.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) };
    if result != 0 {
        return Err(SysError::last("pidfd_send_signal", format!("{}, {signal}", pidfd.as_raw_fd())));
    }
    Ok(())
}

/// True once the process has ended (a pidfd turns readable then); waits up to `timeout`, for ever without one.
pub fn wait_ended(pidfd: BorrowedFd, timeout: Option<std::time::Duration>) -> SysResult<bool> {
    poll_readable(pidfd, timeout)
}

/// Waits until `fd` is readable or hung up; false when `timeout` passes first.
pub fn poll_readable(fd: BorrowedFd, timeout: Option<std::time::Duration>) -> SysResult<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        let mut fds = [PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::from_rustix("poll", fd.as_raw_fd().to_string(), error)),
        }
    }
}

/// Waits until there is something to read from `fd`, or `pidfd`'s process has ended; true for the former. What the
/// process wrote before its end counts as there. `None` when `timeout` passes first.
pub fn readable_before_end(
    fd: BorrowedFd,
    pidfd: BorrowedFd,
    timeout: Option<std::time::Duration>,
) -> SysResult<Option<bool>> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = timeout.map(|timeout| std::time::Instant::now() + timeout);
    // In this order: poll(2) looks at the process first, so that words that came with its end are seen after it.
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN), PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    loop {
        let left = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) }
        });
        match poll(&mut fds, left.as_ref()) {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(!fds[1].revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::from_rustix("poll", fd.as_raw_fd().to_string(), error)),
        }
    }
}

/// Marks every fd from `first` on close-on-exec (close_range(2)).
pub fn cloexec_from(first: RawFd) -> SysResult<()> {
    // SAFETY: changes flags of fds only; closes none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC) };
    if result != 0 {
        return Err(SysError::last("close_range", format!("{first}, ~0, CLOSE_RANGE_CLOEXEC")));
    }
    Ok(())
}

/// Keeps `fd` open over an exec.
pub fn keep_over_exec(fd: RawFd) -> SysResult<()> {
    // SAFETY: changes a flag of an fd; EBADF when there is none.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } != 0 {
        return Err(SysError::last("fcntl", format!("{fd}, F_SETFD, 0")));
    }
    Ok(())
}

/// dup2 of `from` onto the number of a standard stream or of an fd to be preserved, not close-on-exec.
pub fn dup_onto(from: BorrowedFd, number: RawFd) -> SysResult<()> {
    // SAFETY: the target is a standard stream, or was inherited to be preserved: no OwnedFd of this project owns either.
    if unsafe { libc::dup2(from.as_raw_fd(), number) } < 0 {
        return Err(SysError::last("dup2", format!("{}, {number}", from.as_raw_fd())));
    }
    Ok(())
}

/// Takes ownership of an fd that this process inherited under a number that its parent chose.
///
/// # Errors
/// EBADF when no such fd is open, EINVAL for a number that this process owns through another value already: the
/// caller takes each number once.
pub fn take_inherited(fd: RawFd) -> SysResult<OwnedFd> {
    // SAFETY: F_GETFD only asks.
    if fd < 3 || unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(SysError::new("fcntl", format!("{fd}, F_GETFD"), Errno::EBADF));
    }
    // SAFETY: the fd is open, came by inheritance, and the init stage, the only caller, takes each number once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Resets every signal to its default and empties the signal mask: what a new program expects. Rust's runtime
/// ignores SIGPIPE, and ignored signals survive an exec.
pub fn reset_signals() -> SysResult<()> {
    // The C library would refuse the two that it keeps to itself, which its posix_spawn leaves ignored. All zeroes is
    // the kernel's sigaction for SIG_DFL: handler, flags, restorer, mask.
    let default = [0u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the action is valid for the whole call, whose last argument is the size of its mask, and installs no
        // handler. SIGKILL and SIGSTOP give EINVAL, rightly.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u8>(), 8usize) };
    }
    let empty = nix::sys::signal::SigSet::empty();
    empty.thread_set_mask().map_err(|errno| SysError::new("sigprocmask", "SIG_SETMASK, []", errno))
}

/// prctl(PR_SET_DUMPABLE, 0): no other process may ptrace this one or follow its /proc/PID/exe and fds.
pub fn set_undumpable() -> SysResult<()> {
    // SAFETY: integers only.
    if unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) } != 0 {
        return Err(SysError::last("prctl", "PR_SET_DUMPABLE, 0"));
    }
    Ok(())
}

/// execve(2). Returns only on failure.
pub fn exec(path: &CStr, argv: &[&CStr], env: &[&CStr]) -> SysError {
    let argv = pointers(argv);
    let env = pointers(env);
    // SAFETY: both arrays are null-terminated and outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    SysError::last("execve", path.to_string_lossy())
}

/// Sets a resource limit of another process, or of this one with pid 0 (prlimit(2)).
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> SysResult<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: limit is valid for reads; the old limit is not asked for.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    };
    if result != 0 {
        return Err(SysError::last("prlimit64", format!("{pid}, {resource}, {{{soft}, {hard}}}")));
    }
    Ok(())
}
