//! Signals that a foreground command forwards: held while a container is launched, then read from a descriptor.
//!
//! The mask is not changed before the launch, because a child would inherit it; handlers do not outlive an exec.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;

use super::{SysError, SysResult, error};

/// Signals that arrived and were not read yet, as [`bit`]s.
static HELD: AtomicU64 = AtomicU64::new(0);

/// Signals that other processes send, and whose default action ends a process.
const FATAL: [i32; 14] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// Signals that are never read from the descriptor: faults of this process, those that cannot be caught, and SIGPIPE,
/// whose cause the write itself reports.
const OWN: [i32; 9] = [
    libc::SIGKILL,
    libc::SIGSTOP,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
    libc::SIGPIPE,
];

/// Bit N-1 for signal N, as the kernel counts: the last one is 64.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

extern "C" fn note(signal: libc::c_int) {
    // An atomic is all that a handler may touch (signal-safety(7)).
    HELD.fetch_or(bit(signal), Ordering::Relaxed);
}

/// Signals that end a Go program, and those without effect on it (Go's os/signal, Default behavior of signals).
const ENDS_GO: [i32; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGABRT, libc::SIGTERM];
const HARMLESS_TO_GO: [i32; 8] = [
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
];

/// The exit status of a Go program that handles a fatal signal.
const GO_FATAL_STATUS: i32 = 2;

extern "C" fn exit_at_once(_: libc::c_int) {
    // SAFETY: _exit is async-signal-safe (signal-safety(7)), and takes its argument by value.
    unsafe { libc::_exit(GO_FATAL_STATUS) }
}

extern "C" fn pass_over(_: libc::c_int) {}

/// Makes this process react to signals as a Go program does, until its exec. Managers of containers rely on that for a
/// container that was created and not started.
///
/// The kernel drops a signal of default action that is sent to the first process of a pid namespace
/// (pid_namespaces(7)); there a handler exits. Elsewhere the default action ends the process, and signals that Go
/// handles without effect get a handler without effect. Handlers do not outlive an exec, unlike SIG_IGN. As in Go,
/// SIGHUP and SIGINT that the caller ignores (nohup) stay ignored.
///
/// # Errors
/// As sigaction(2).
pub fn react_as_go_does() -> SysResult<()> {
    let is_first = rustix::process::getpid().is_init();
    let (signals, handler): (&[i32], extern "C" fn(libc::c_int)) =
        if is_first { (&ENDS_GO, exit_at_once) } else { (&HARMLESS_TO_GO, pass_over) };
    for &signal in signals {
        if !matches!(signal, libc::SIGHUP | libc::SIGINT) || disposition(signal)? != libc::SIG_IGN {
            install(signal, handler)?;
        }
    }
    Ok(())
}

/// Handlers that record signals whose default action ends this process, for [`Signals`]. An ignored signal (nohup)
/// stays ignored.
#[derive(Debug)]
pub struct Hold {
    ignored: u64,
}

impl Hold {
    /// Installs the handlers.
    ///
    /// # Errors
    /// As sigaction(2).
    pub fn new() -> SysResult<Hold> {
        let mut ignored = 0;
        for signal in FATAL {
            if disposition(signal)? == libc::SIG_IGN {
                ignored |= bit(signal);
                continue;
            }
            install(signal, note)?;
        }
        Ok(Hold { ignored })
    }
}

/// Installs one of the handlers of this file.
fn install(signal: i32, handler: extern "C" fn(libc::c_int)) -> SysResult<()> {
    // SAFETY: sigaction is a C struct of integers, a mask and a handler, for which all zeroes is a valid value.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` outlives the call. The only callers are in this file, and their handlers are async-signal-safe:
    // `note` sets a bit, `exit_at_once` exits, and `pass_over` does nothing.
    let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
    if result < 0 {
        return Err(SysError::last("rt_sigaction", signal.to_string()));
    }
    Ok(())
}

fn disposition(signal: i32) -> SysResult<libc::sighandler_t> {
    let mut action = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the kernel writes one sigaction to a place that is large enough for it, and reads none.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    if result < 0 {
        return Err(SysError::last("rt_sigaction", signal.to_string()));
    }
    // SAFETY: the call succeeded, so the kernel has filled it.
    Ok(unsafe { action.assume_init() }.sa_sigaction)
}

/// A descriptor that is readable when a signal has arrived.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks every signal except faults of this process, and opens the descriptor.
    ///
    /// # Errors
    /// As sigprocmask(2) and signalfd(2): EMFILE past the limit on descriptors.
    pub fn open(hold: &Hold) -> SysResult<Signals> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        let last = libc::SIGRTMAX();
        for signal in (1..=last).filter(|signal| !OWN.contains(signal) && hold.ignored & bit(*signal) == 0) {
            // SAFETY: `set` was initialised above. The C library refuses the numbers that it reserves (32 and 33),
            // which stay unblocked.
            unsafe { libc::sigaddset(&mut set, signal) };
        }
        // SAFETY: `set` outlives the call, and null asks for no old mask.
        let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if result != 0 {
            return Err(SysError::new("rt_sigprocmask", "SIG_BLOCK", Errno::from_raw_os_error(result)));
        }
        // SAFETY: `set` outlives the call, and -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(SysError::last("signalfd4", ""));
        }
        // SAFETY: the kernel returned a new descriptor, of which only this function knows the number.
        Ok(Signals { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// The next signal that has arrived; `None` when there is none.
    ///
    /// # Errors
    /// As read(2), except EAGAIN and EINTR.
    pub fn read(&mut self) -> SysResult<Option<i32>> {
        let held = HELD.load(Ordering::Relaxed);
        if held != 0 {
            // The signals are blocked, so that no handler changes the bits any more.
            let signal = held.trailing_zeros().cast_signed() + 1;
            HELD.fetch_and(!bit(signal), Ordering::Relaxed);
            return Ok(Some(signal));
        }
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the kernel writes at most `size` bytes, the size of `info`, which outlives the call.
        let read = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        match usize::try_from(read) {
            // SAFETY: the kernel wrote `size` bytes, a whole record, so that `info` is initialised.
            Ok(read) if read == size => Ok(Some(unsafe { info.assume_init() }.ssi_signo.cast_signed())),
            Ok(_) => Ok(None),
            Err(_) => match error::last() {
                Errno::AGAIN | Errno::INTR => Ok(None),
                errno => Err(SysError::new("read", "signalfd", errno)),
            },
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
