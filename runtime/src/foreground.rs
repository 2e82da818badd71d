//! Waiting for a container's process in the foreground: signals go in, its exit status comes out.

use nix::errno::Errno;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{WaitOptions, WaitStatus, wait};

use crate::proxy::Proxy;
use brig_engine::{Launched, Notify};
use brig_engine::error::{Error, Result};
use brig_sys::SysError;
use brig_sys::process;
use brig_sys::signal::{Hold, Signals};

/// Adds to the number of a signal that ended a program, as shells do.
const SIGNALLED: i32 = 128;

/// Waits until the process has ended, and returns its exit code. `hold` was made before the launch.
///
/// Every other child that ends meanwhile is reaped too: orphans of the container are children of a subreaper.
pub fn wait_for(launched: Launched, hold: &Hold) -> Result<i32> {
    let Launched { pid, pidfd, terminal, pipes, mut notify } = launched;
    let mut signals = Signals::open(hold)?;
    let mut proxy = match pipes {
        Some(pipes) => Some(Proxy::of_pipes(pipes)?),
        None => terminal.map(Proxy::new).transpose()?,
    };
    // The first round is without a wait: what came during the launch, a signal or the process's end, makes no
    // descriptor readable.
    let mut ready = Ready { process: true, signals: true, notice: false, streams: [false; 3] };
    let code = loop {
        if let Some(proxy) = &mut proxy {
            proxy.run(ready.streams);
        }
        if ready.notice {
            // Once is enough: later ones would have nobody to read them, and must not wait for that.
            notify = notify.filter(|notify| !pass_notice_on(notify));
        }
        if ready.signals {
            while let Some(signal) = signals.read()? {
                pass_on(signal, &pidfd, proxy.as_ref())?;
            }
        }
        if (ready.signals || ready.process) && let Some(code) = reap(pid)? {
            break code;
        }
        ready = wait_for_events(&pidfd, &signals, notify.as_ref(), proxy.as_ref())?;
    };
    if let Some(proxy) = proxy {
        proxy.drain(&mut signals)?;
    }
    Ok(code)
}

/// What poll found.
struct Ready {
    process: bool,
    signals: bool,
    notice: bool,
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
            Err(error) => return Err(SysError::from_rustix("poll", "", error).into()),
        }
    }
    // An error or a hang-up counts: the read or write that follows reports it.
    let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
    let mut next = || ready.next().unwrap_or(false);
    let (process, signals) = (next(), next());
    let notice = notify.is_some() && next();
    let streams = places.map(|polled| polled && next());
    Ok(Ready { process, signals, notice, streams })
}

/// Passes a notification on to the service manager, which is to watch this command. True: there is no more to do.
fn pass_notice_on(notify: &Notify) -> bool {
    notify.pass_on(std::process::id() as i32).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        true
    })
}

fn pass_on(number: i32, pidfd: &impl std::os::fd::AsFd, proxy: Option<&Proxy>) -> Result<()> {
    match (number, proxy) {
        // Reaped by the caller of this.
        (libc::SIGCHLD, _) => Ok(()),
        (libc::SIGWINCH, Some(proxy)) if proxy.has_terminal() => {
            proxy.resize();
            Ok(())
        }
        _ => match process::pidfd_send_signal(pidfd.as_fd(), number) {
            // It has just ended; its status is about to be read.
            Err(error) if error.errno() == Errno::ESRCH => Ok(()),
            result => Ok(result?),
        },
    }
}

/// Reaps every child that has ended; the exit code of `pid` when it is among them.
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
            Err(error) => return Err(SysError::from_rustix("wait4", "-1, WNOHANG", error).into()),
        }
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => SIGNALLED + signal,
        // Stopped and continued children are not asked for.
        (None, None) => 0,
    }
}
