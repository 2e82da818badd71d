//! The container's terminal: made in its own devpts, its master handed out, its slave kept.
#![forbid(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{FileType, Gid, Uid};

use crate::error::{Context, Error, Result};
use crate::rootfs;
use crate::sys::path::{Dir, Links};
use crate::sys::{SysError, process, socket, tty};

use super::init::{Init, take};

/// Makes a pty in the devpts of `root`, sets its size, and sends the master where the plan says. Gives the slave,
/// opened from the master itself and never by a path (an image could have put something else there).
pub(super) fn make(init: &Init, root: &Dir) -> Result<OwnedFd> {
    let place = init.plan.console.ok_or_else(|| Error::other("process.terminal is set, and no console was given"))?;
    let console = take(place)?;
    let unable = "unable to make a terminal";
    let master = rootfs::open_ptmx(root, init.proc()?)?;
    let slave = tty::open_peer(master.as_fd()).context(unable)?;
    if let Some((rows, columns)) = init.plan.process.console_size {
        tty::set_size(master.as_fd(), rows, columns).context("unable to set process.consoleSize")?;
    }
    if init.plan.proxied_terminal {
        tty::disable_newline_translation(master.as_fd()).context(unable)?;
    }
    let name = format!("/dev/pts/{}", tty::number(master.as_fd())?);
    socket::send(console.as_fd(), name.as_bytes(), &[master.as_fd()]).context("unable to send the terminal")?;
    Ok(slave)
}

/// Opens /dev/null anew where it is a standard stream: the caller's is on a mount of the host's, which the container
/// holds on to otherwise, and which CRIU cannot save. An image without one, or with another device, keeps the caller's.
pub(super) fn reopen_null(init: &Init) -> Result<()> {
    let null = rustix::fs::makedev(1, 3);
    let is_null = |fd: BorrowedFd<'_>| {
        let kind = |stat: &rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
        rustix::fs::fstat(fd).is_ok_and(|stat| stat.st_rdev == null && kind(&stat))
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    if !streams.into_iter().any(is_null) {
        return Ok(());
    }
    let Some(found) = Dir::open_host(Path::new("/"))?.try_find(Path::new("/dev/null"), Links::Follow)? else {
        return Ok(());
    };
    if !is_null(found.as_fd()) {
        return Ok(());
    }
    let own = match init.proc()?.reopen(&found, rustix::fs::OFlags::RDWR) {
        // The configuration's device rules or the node's mode are against it: the caller's works as well.
        Err(error) if matches!(error.errno(), Errno::EPERM | Errno::EACCES) => {
            return init.channel()?.log(false, format!("the caller's /dev/null stays: {error}"));
        }
        other => other?,
    };
    for (number, stream) in (0..).zip(streams) {
        if is_null(stream) {
            process::dup_onto(own.as_fd(), number)?;
        }
    }
    Ok(())
}

/// Gives the standard streams to the container's user, who must be able to open /proc/self/fd/1 again. What it
/// already owns, /dev/null, and files that refuse (read-only, not ours) stay as they are.
pub(super) fn own_standard_streams(init: &Init, uid: u32) -> Result<()> {
    let null = rustix::fs::makedev(1, 3);
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for (number, stream) in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().enumerate() {
        let Ok(stat) = rustix::fs::fstat(stream) else {
            continue; // The caller left it closed.
        };
        if stat.st_rdev == null || stat.st_uid == uid {
            continue;
        }
        let owned = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(stat.st_gid)));
        match owned {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM | rustix::io::Errno::ROFS) => {
                init.channel()?.log(false, format!("standard stream {number} keeps its owner"))?;
            }
            Err(error) => return Err(SysError::from_rustix("fchown", number.to_string(), error).into()),
        }
    }
    Ok(())
}
