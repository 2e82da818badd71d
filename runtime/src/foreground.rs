//! A container in the foreground: forwards signals to the container's process, and waits for its exit status.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::proxy::Proxy;
use brig_engine::error::{Error, Result};
use brig_engine::{Launched, Notify};
use brig_sys::SysError;
use brig_sys::process;
use brig_sys::signal::{Hold, Signals};

/// Offset of the exit code for a program that a signal killed, as in shells.
const SIGNALLED: i32 = 128;

/// Waits until the process has exited, and returns its exit code. `hold` was created before the launch.
///
/// Every other child that exits meanwhile is reaped too: a subreaper's orphans are its children.
pub fn wait_for(launched: Launched, hold: &Hold) -> Result<i32> {
    let Launched { pid, pidfd, terminal, pipes, mut notify } = launched;
    let mut signals = Signals::open(hold)?;
    let mut proxy = match pipes {
        Some(pipes) => Some(Proxy::of_pipes(pipes)?),
        None => terminal.map(Proxy::new).transpose()?,
    };
    // The first round does not poll: a signal that arrived during the launch, or the process's exit, may make no
    // descriptor readable.
    let mut ready = Ready { process: true, signals: true, notification: false, streams: [false; 3] };
    let code = loop {
        if let Some(proxy) = &mut proxy {
            proxy.run(ready.streams);
        }
        if ready.notification {
            // One notification is enough: later ones have no reader, and must not block on that.
            notify = notify.filter(|notify| !forward_notification(notify));
        }
        if ready.signals {
            while let Some(signal) = signals.read()? {
                forward(signal, &pidfd, proxy.as_ref())?;
            }
        }
        if (ready.signals || ready.process)
            && let Some(code) = reap(pid)?
        {
            break code;
        }
        ready = wait_for_events(&pidfd, &signals, notify.as_ref(), proxy.as_ref())?;
    };
    if let Some(proxy) = proxy {
        proxy.drain(&mut signals)?;
    }
    Ok(code)
}

/// The results of poll.
struct Ready {
    process: bool,
    signals: bool,
    notification: bool,
    streams: [bool; 3],
}

fn wait_for_events(
    pidfd: &impl std::os::fd::AsFd,
    signals: &Signals,
    notify: Option<&Notify>,
    proxy: Option<&Proxy>,
) -> Result<Ready> {
    let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
    fds.extend(notify.map(|notify| PollFd::new(notify, PollFlags::IN)));
    let streams = proxy.map(Proxy::waits).unwrap_or_default();
    let places = streams.each_ref().map(Option::is_some);
    fds.extend(streams.into_iter().flatten());
    loop {
        match poll(&mut fds, None) {
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::new("poll", "", error).into()),
        }
    }
    // Errors and hang-ups count as ready: the read or write that follows reports them.
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let mut next = || ready.next().unwrap_or(false);
    let (process, signals) = (next(), next());
    let notification = notify.is_some() && next();
    let streams = places.map(|polled| polled && next());
    Ok(Ready { process, signals, notification, streams })
}

/// Forwards a notification to the service manager, which is to watch this command. Returns true when no further
/// notification is expected.
fn forward_notification(notify: &Notify) -> bool {
    notify.pass_on(rustix::process::getpid().as_raw_pid()).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        true
    })
}

fn forward(number: i32, pidfd: &impl std::os::fd::AsFd, proxy: Option<&Proxy>) -> Result<()> {
    match (number, proxy) {
        // The caller reaps children.
        (libc::SIGCHLD, _) => Ok(()),
        (libc::SIGWINCH, Some(proxy)) if proxy.has_terminal() => {
            proxy.resize();
            Ok(())
        }
        _ => match process::pidfd_send_signal(pidfd.as_fd(), number) {
            // The process has just exited; its status is about to be read.
            Err(error) if error.errno() == Errno::SRCH => Ok(()),
            result => Ok(result?),
        },
    }
}

/// Reaps every child that has exited. Returns the exit code of `pid` if it is among them.
fn reap(pid: i32) -> Result<Option<i32>> {
    let mut found = None;
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((child, status))) if child.as_raw_nonzero().get() == pid => found = Some(exit_code(status)),
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Ok(found),
            Err(rustix::io::Errno::CHILD) if found.is_some() => return Ok(found),
            Err(rustix::io::Errno::CHILD) => {
                return Err(Error::other(format!("process {pid} is not a child of this command any more")));
            }
            Err(error) => return Err(SysError::new("wait4", "-1, WNOHANG", error).into()),
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => SIGNALLED + signal,
        // wait is not asked for stopped and continued children.
        (None, None) => 0,
    }
}
