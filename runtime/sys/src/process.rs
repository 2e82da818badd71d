//! Processes: clone3 with a pidfd, waits and signals by pidfd, and the child's code between clone and exec.
//!
//! The child of [`spawn_sealed`] has a copy of the parent's memory, in which another thread of the parent may have held
//! any lock at the moment of the clone. Until its execveat the child therefore makes raw system calls on memory that
//! the parent prepared, and nothing else: no allocation, no locks, no panics.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::{SysError, SysResult, error};
use wait::wait_id;

mod wait;

pub use wait::{Exit, peek_exited, poll_readable, readable_before_exit, reap, try_wait, wait, wait_exited};

/// A child process that is pinned by its pidfd: while the pidfd is open and the child is not reaped, the pid
/// cannot be given to another process.
#[derive(Debug)]
pub struct Child {
    /// The pid in this process's pid namespace.
    pub pid: i32,
    /// The pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// The steps of a [`spawn_sealed`] child before its exec, in memory that the caller prepared.
pub struct Spawn<'a> {
    /// CLONE_NEW* flags and no others.
    pub namespaces: u64,
    /// The cgroup v2 directory in which the child starts.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Files of v1 cgroups to which the child writes `0` before anything else, which moves it there.
    pub enter: &'a [BorrowedFd<'a>],
    /// The executable, executed by fd.
    pub image: BorrowedFd<'a>,
    /// argv, at least the name.
    pub argv: &'a [&'a CStr],
    /// The environment of the exec.
    pub env: &'a [&'a CStr],
    /// The child's descriptors 0, 1 and 2.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// Descriptors that stay open over the exec under their numbers, which an argument of the child names
    /// ([`super::inherited`]). All others but the standard streams are closed, whatever the caller has left open.
    pub inherit: &'a [BorrowedFd<'a>],
    /// Count of descriptors from 3 on that stay open as well, as far as the caller has them.
    pub preserve: u32,
    /// The wait of the child before it continues, if any.
    pub wait: Option<Wait<'a>>,
    /// Whether the child becomes user and group 0 of its user namespace after the wait. Otherwise the exec would take
    /// its capabilities (capabilities(7), "Capabilities and execution of programs by root").
    pub become_root: bool,
    /// The descriptor to which the child writes errno of a failed step, as four bytes, native endian.
    pub report: BorrowedFd<'a>,
}

/// The wait of a child: for one packet on `from`. At an end of file the child exits.
#[derive(Debug)]
pub struct Wait<'a> {
    /// The child's end of the socket pair.
    pub from: BorrowedFd<'a>,
    /// The parent's end. The child closes its copy first: with it, the death of the parent would be no end of file, and
    /// the child would wait for ever, with copies of the locks that the parent held.
    pub peer: BorrowedFd<'a>,
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

/// The first descriptor that is no standard stream.
const FIRST: libc::c_int = 3;

/// CLONE_INTO_CGROUP (linux/sched.h, since 5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Calls clone3(2). Returns the child in the parent, and `None` in the child.
///
/// # Safety
/// `flags` are CLONE_NEW* flags alone. The child makes no calls but async-signal-safe ones until it executes another
/// image or exits, because the process may have more threads than this one.
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
        // A borrowed descriptor is never negative.
        args.cgroup = cgroup.as_raw_fd().unsigned_abs().into();
    }
    // SAFETY: `args` is a clone_args of the given size with a valid pointer for the pidfd. The caller's flags share no
    // memory (no CLONE_VM), so that without a stack of its own the child runs on a copy of this one, as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(SysError::last("clone3", format!("flags {:#x}", args.flags))),
        0 => Ok(None),
        // SAFETY: the kernel stored a new pidfd, of which only this function knows the number.
        pid => child(pid, unsafe { OwnedFd::from_raw_fd(pidfd) }),
    }
}

/// The child that a clone has returned to its parent. A pid is an int (pid_t); syscall(2) returns a long.
fn child(pid: libc::c_long, pidfd: OwnedFd) -> SysResult<Option<Child>> {
    match i32::try_from(pid) {
        Ok(pid) => Ok(Some(Child { pid, pidfd })),
        Err(_) => Err(SysError::new("clone", format!("returned {pid}"), Errno::OVERFLOW)),
    }
}

/// Starts `spawn.image` in a new process. Errors between clone and exec arrive on `spawn.report`.
///
/// # Errors
/// EAGAIN for want of processes, ENOMEM for want of memory, ENOSPC for a limit on namespaces, EPERM without privilege,
/// EBUSY for a cgroup with controllers enabled for its children, EINVAL for flags that are no namespaces. On the report:
/// ENOSYS before Linux 5.9, and EINVAL before 5.11, which have no close_range(2) with CLOSE_RANGE_CLOEXEC.
pub fn spawn_sealed(spawn: &Spawn) -> SysResult<Child> {
    check_namespaces("clone3", spawn.namespaces)?;
    let argv = pointers(spawn.argv);
    let env = pointers(spawn.env);
    // SAFETY: check_namespaces admits namespaces alone. The child runs child_main, which makes async-signal-safe system
    // calls and never returns.
    match unsafe { clone3(spawn.namespaces, libc::SIGCHLD as u64, spawn.cgroup) }? {
        Some(child) => Ok(child),
        // SAFETY: `pointers` ends both arrays with null, and their strings are borrowed by `spawn`, which the child has
        // a copy of.
        None => unsafe { child_main(spawn, argv.as_ptr(), env.as_ptr()) },
    }
}

/// The child's code until its exec, on a copy of the parent's memory, with the caller's privilege in the new
/// namespaces. Makes async-signal-safe calls only.
///
/// # Safety
/// `argv` and `env` are null-terminated arrays of C strings. The caller is the child of a clone.
unsafe fn child_main(spawn: &Spawn, argv: *const *const libc::c_char, env: *const *const libc::c_char) -> ! {
    // SAFETY: every pointer comes from a local variable, a literal, `spawn` or the caller's arrays, all of which are in
    // the child's own copy of the memory. Descriptors are placed in the child's own table, in which no Rust value is
    // used after this function.
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
        if let Some(wait) = &spawn.wait {
            libc::close(wait.peer.as_raw_fd());
            let mut packet = 0u8;
            loop {
                match libc::read(wait.from.as_raw_fd(), (&raw mut packet).cast(), 1) {
                    1 => break,
                    0 => libc::_exit(1),
                    _ if *libc::__errno_location() == libc::EINTR => {}
                    _ => fail(),
                }
            }
        }
        if spawn.become_root {
            // Raw calls, because the C library's wrappers would signal threads that this process does not have.
            if libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u8>()) != 0
                && *libc::__errno_location() != libc::EPERM
                || libc::syscall(libc::SYS_setresgid, 0, 0, 0) != 0
                || libc::syscall(libc::SYS_setresuid, 0, 0, 0) != 0
            {
                fail();
            }
        }
        if let Some(stdio) = spawn.stdio {
            for (number, fd) in (0..).zip(&stdio) {
                let fd: RawFd = fd.as_raw_fd();
                let result = if fd == number {
                    libc::fcntl(fd, libc::F_SETFD, 0).into()
                } else {
                    libc::syscall(libc::SYS_dup3, fd, number, 0)
                };
                if result < 0 {
                    fail();
                }
            }
        }
        // No descriptor that the caller was given, a directory of the host's perhaps, may be in reach of a container's
        // process that inspects this one.
        if libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) != 0 {
            fail();
        }
        for (number, _) in (FIRST..).zip(0..spawn.preserve) {
            // One that is not open is no error here: the image reports it.
            if libc::fcntl(number, libc::F_SETFD, 0) != 0 {
                break;
            }
        }
        for fd in spawn.inherit {
            if libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) != 0 {
                fail();
            }
        }
        // An empty path, on the stack: the kernel reads it from a page that is present. For a page of the program that is
        // not, it may need memory that the child's cgroup lacks, and User-Mode Linux 6.1 panics then.
        let empty: libc::c_char = 0;
        libc::syscall(libc::SYS_execveat, spawn.image.as_raw_fd(), &raw const empty, argv, env, libc::AT_EMPTY_PATH);
        fail()
    }
}

fn pointers(strings: &[&CStr]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Rights that [`clone_parent`] gives up before the clone.
#[derive(Debug)]
pub struct Confinement<'a> {
    /// A seccomp filter that is installed.
    pub filter: &'a [super::seccomp::Instruction],
    /// SECCOMP_FILTER_FLAG_*
    pub filter_flags: u32,
    /// Effective, permitted and inheritable capabilities that are left.
    pub capabilities: super::cred::CapabilitySets,
}

/// Creates a child of this process's parent, in new `namespaces` and in the pid namespace that a setns chose for
/// children. Returns the new process in this one, and `None` in the new one, which continues on a copy of this stack.
///
/// `confinement` comes between the check for other threads and the clone, because its filter may forbid the check.
///
/// # Errors
/// EINVAL of unshare(2) when this process has more than one thread, and for flags that are no namespaces; else as
/// [`super::seccomp::install`], capset(2) and clone(2).
pub fn clone_parent(namespaces: u64, confinement: Option<&Confinement>) -> SysResult<Option<Child>> {
    check_namespaces("clone", namespaces)?;
    // unshare(2): CLONE_THREAD changes nothing, and is refused to a process of several threads.
    // SAFETY: with this flag the call checks the number of threads, and unshares nothing.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } != 0 {
        return Err(SysError::last("unshare", "CLONE_THREAD"));
    }
    if let Some(Confinement { filter, filter_flags, capabilities }) = confinement {
        super::seccomp::install(filter, *filter_flags)?;
        super::cred::set_capabilities(capabilities.effective, capabilities.permitted, capabilities.inheritable)?;
    }
    let flags = namespaces | CLONE_PARENT_FLAGS;
    let mut pidfd: RawFd = -1;
    // clone(2) rather than clone3(2), which filters that look at the flags refuse. s390x has the first two arguments in
    // the other order.
    let (first, second) = if cfg!(target_arch = "s390x") { (0, flags) } else { (flags, 0) };
    // SAFETY: the flags share neither memory nor descriptors, so that the child runs on a copy of both, as after fork.
    // The check above found a single thread, which is this one and has started no other since; so no lock is held by a
    // thread that the child lacks. The kernel stores the pidfd through the third argument, which is valid for the whole
    // call.
    let pid = unsafe { libc::syscall(libc::SYS_clone, first, second, &raw mut pidfd, 0, 0) };
    match pid {
        -1 => Err(SysError::last("clone", format!("flags {flags:#x}"))),
        0 => Ok(None),
        // SAFETY: the kernel stored a new close-on-exec pidfd that nothing else owns.
        pid => child(pid, unsafe { OwnedFd::from_raw_fd(pidfd) }),
    }
}

/// Refuses flags that are no namespaces: CLONE_VM, CLONE_FILES and their like share memory or descriptors. Returns the
/// flags as clone(2) and unshare(2) take them.
pub(super) fn check_namespaces(call: &'static str, flags: u64) -> SysResult<libc::c_int> {
    const NAMESPACES: libc::c_int = libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWTIME
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWUTS;
    libc::c_int::try_from(flags).ok().filter(|known| known & !NAMESPACES == 0).ok_or_else(|| {
        let other = flags & !(NAMESPACES as u64);
        SysError::new(call, format!("flags {flags:#x}: {other:#x} are no namespaces"), Errno::INVAL)
    })
}

/// The flags of [`clone_parent`]'s clone(2) beside those of namespaces.
pub const CLONE_PARENT_FLAGS: u64 = libc::CLONE_PARENT as u64 | libc::CLONE_PIDFD as u64;

/// Makes a child in new `namespaces` that waits to be killed, so that the caller can open its namespaces. The child
/// sends no signal at its exit, and only [`kill_anchor`] waits for it: a wait for any child does not report it (wait(2),
/// "clone" children).
///
/// # Errors
/// EINVAL for flags that are no namespaces; else as clone3(2).
pub fn spawn_anchor(namespaces: u64) -> SysResult<Child> {
    check_namespaces("clone3", namespaces)?;
    // SAFETY: check_namespaces admits namespaces alone. The child makes the two calls below, which are
    // async-signal-safe, and never returns.
    match unsafe { clone3(namespaces, 0, None) }? {
        Some(child) => Ok(child),
        None => loop {
            // The child exits with the parent's thread, should that exit before it kills the child.
            // SAFETY: prctl takes this option's arguments by value, and pause takes none.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                libc::pause();
            }
        },
    }
}

/// Kills a child of [`spawn_anchor`] and reaps it.
///
/// # Errors
/// As pidfd_send_signal(2) and waitid(2).
pub fn kill_anchor(anchor: Child) -> SysResult<()> {
    pidfd_send_signal(anchor.pidfd.as_fd(), libc::SIGKILL)?;
    loop {
        match wait_id(anchor.pidfd.as_fd(), libc::WEXITED | libc::__WALL) {
            Err(error) if error.errno() == Errno::INTR => {}
            other => return other.map(drop),
        }
    }
}

/// Opens the pidfd of a process (pidfd_open(2)), close-on-exec.
///
/// # Errors
/// ESRCH when no process has this pid; EINVAL for the id of a thread, or of a process group or session alone.
pub fn pidfd_open(pid: i32) -> SysResult<OwnedFd> {
    let error = |error| SysError::new("pidfd_open", pid.to_string(), error);
    let valid = rustix::process::Pid::from_raw(pid).filter(|_| pid > 0).ok_or(error(rustix::io::Errno::INVAL))?;
    rustix::process::pidfd_open(valid, rustix::process::PidfdFlags::empty()).map_err(error)
}

/// Sends a signal to the process of a pidfd (pidfd_send_signal(2)).
///
/// # Errors
/// ESRCH when the process has been reaped, EINVAL for a signal that does not exist.
pub fn pidfd_send_signal(pidfd: BorrowedFd, signal: i32) -> SysResult<()> {
    // Not by rustix, whose type of signals lacks 0 and those that the C library reserves.
    // SAFETY: a null siginfo is allowed, and stands for what kill(2) sends; the other arguments go by value.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) };
    if result != 0 {
        return Err(SysError::last("pidfd_send_signal", format!("{}, {signal}", pidfd.as_raw_fd())));
    }
    Ok(())
}

/// Duplicates `fd` onto a standard stream, not close-on-exec.
///
/// # Errors
/// As dup2(2): EBUSY when another thread opens a descriptor of that number.
pub fn replace_stdio(stream: StandardStream, fd: BorrowedFd) -> SysResult<()> {
    let replaced = match stream {
        StandardStream::Input => rustix::stdio::dup2_stdin(fd),
        StandardStream::Output => rustix::stdio::dup2_stdout(fd),
        StandardStream::Error => rustix::stdio::dup2_stderr(fd),
    };
    replaced.map_err(|error| SysError::new("dup2", format!("{}, {stream:?}", fd.as_raw_fd()), error))
}

/// A standard stream, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandardStream {
    /// 0
    Input = 0,
    /// 1
    Output = 1,
    /// 2
    Error = 2,
}

impl StandardStream {
    /// All three, in the order of their numbers.
    pub const ALL: [StandardStream; 3] = [StandardStream::Input, StandardStream::Output, StandardStream::Error];
}

/// Resets every signal to its default and empties the signal mask, as a new program expects. Rust's runtime ignores
/// SIGPIPE, and ignored signals survive an exec.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset_signals() -> SysResult<()> {
    // The C library would refuse the two signals that it reserves, which its posix_spawn leaves ignored. The kernel's
    // sigaction for SIG_DFL is all zeroes: handler, flags, restorer, mask.
    let default = [0u64; 4];
    for signal in 1..=libc::SIGRTMAX() {
        // The kernel answers EINVAL for SIGKILL and SIGSTOP, which have their default always. SAFETY: the kernel reads
        // its sigaction, which is no larger than `default`, with a mask of 8 bytes. SIG_DFL is no function that could
        // be missing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u8>(), 8usize) };
    }
    let empty = nix::sys::signal::SigSet::empty();
    empty.thread_set_mask().map_err(|errno| SysError::new("sigprocmask", "SIG_SETMASK, []", error::from_nix(errno)))
}

/// Keeps other processes from tracing this one and from following its /proc/PID/exe and fd (prctl(PR_SET_DUMPABLE, 0)).
///
/// # Errors
/// As prctl(2): EPERM where a seccomp filter refuses the call.
pub fn set_undumpable() -> SysResult<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|error| SysError::new("prctl", "PR_SET_DUMPABLE, 0", error))
}

/// Executes the program `path` (execve(2)). Returns only on failure.
pub fn exec(path: &CStr, argv: &[&CStr], env: &[&CStr]) -> SysError {
    let argv = pointers(argv);
    let env = pointers(env);
    // SAFETY: `pointers` ends both arrays with null; arrays, path and strings are borrowed until after the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    SysError::last("execve", path.to_string_lossy())
}

/// Sets a resource limit of a process, or of this one with pid 0 (prlimit(2)).
///
/// # Errors
/// EINVAL for a soft limit above the hard one, EPERM for a hard limit that is raised without CAP_SYS_RESOURCE, ESRCH
/// when no process has the pid.
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> SysResult<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one rlimit64, and `limit` is one that outlives the call; null asks for no old limit.
    let result = unsafe {
        libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const limit, std::ptr::null_mut::<libc::rlimit64>())
    };
    if result != 0 {
        return Err(SysError::last("prlimit64", format!("{pid}, {resource}, {{{soft}, {hard}}}")));
    }
    Ok(())
}
