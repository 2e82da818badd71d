//! The container's terminal: created in the container's devpts; the master is sent out, the slave is kept.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FileType, Gid, Stat, Uid};

use crate::error::{Context, Result};
use crate::handshake::{HostNode, Streams};
use crate::rootfs::{self, MemoryDevice};
use brig_sys::path::{Dir, Links};
use brig_sys::process::{self, StandardStream};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, socket, tty};

use super::context::Init;
use super::request::{Newlines, TerminalSettings};
use super::streams;

/// Creates a pty in the devpts of `root`, sets its size, and sends the master to `console`. Returns the slave, opened
/// from the master itself and never by a path (an image could have another file there).
pub(super) fn create(settings: TerminalSettings, console: OwnedFd, proc: &Proc, root: &Dir) -> Result<OwnedFd> {
    let unable = "unable to make a terminal";
    let master = rootfs::open_ptmx(root, proc)?;
    let slave = tty::open_peer(master.as_fd()).context(unable)?;
    if let Some((rows, columns)) = settings.size {
        tty::set_size(master.as_fd(), rows, columns).context("unable to set process.consoleSize")?;
    }
    if settings.newlines == Newlines::Raw {
        tty::disable_newline_translation(master.as_fd()).context(unable)?;
    }
    let name = format!("/dev/pts/{}", tty::number(master.as_fd())?);
    socket::send(console.as_fd(), name.as_bytes(), &[master.as_fd()]).context("unable to send the terminal")?;
    Ok(slave)
}

/// Reopens a memory device that is a standard stream, or a descriptor of `--preserve-fds`. The caller's device is on a
/// mount of the host's, which the container would keep busy, which CRIU cannot save, and whose inode a process with
/// CAP_FOWNER or CAP_CHOWN could change through the descriptor. The container's own device replaces it; without one,
/// the host's on a read-only mount.
pub(super) fn reopen_devices(init: &mut Init) -> Result<()> {
    let device_of = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).ok().as_ref().and_then(MemoryDevice::from_stat);
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut opened = Vec::new();
    for (stream, fd) in StandardStream::ALL.into_iter().zip([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]) {
        let Some(device) = device_of(fd) else { continue };
        if let Some(fd) = open_once(init, &mut opened, device)? {
            process::replace_stdio(stream, fd)?;
        }
    }
    for index in 0..init.preserved.len() {
        let Some(device) = device_of(init.preserved[index].as_fd()) else { continue };
        if let Some(fd) = open_once(init, &mut opened, device)? {
            let number = init.preserved[index].as_raw_fd();
            rustix::io::dup2(fd, &mut init.preserved[index])
                .map_err(|error| SysError::new("dup2", number.to_string(), error))?;
        }
    }
    Ok(())
}

/// Opens the container's `device` at its first use; `None` if the caller's device stays.
fn open_once<'a>(
    init: &Init,
    opened: &'a mut Vec<(MemoryDevice, Option<OwnedFd>)>,
    device: MemoryDevice,
) -> Result<Option<BorrowedFd<'a>>> {
    let place = match opened.iter().position(|(one, _)| *one == device) {
        Some(place) => place,
        None => {
            opened.push((device, open_device(init, device)?));
            opened.len() - 1
        }
    };
    Ok(opened[place].1.as_ref().map(AsFd::as_fd))
}

/// Opens the container's own device, or else gets the parent's copy of the host's.
fn open_device(init: &Init, device: MemoryDevice) -> Result<Option<OwnedFd>> {
    let path = device.path().display();
    match open_own(init, device) {
        Ok(Some(own)) => return Ok(Some(own)),
        Ok(None) => {}
        Err(error) => {
            init.channel()?
                .log(false, format!("the container's {path} cannot be used as a standard stream: {error}"))?;
        }
    }
    let protected = init.channel()?.ask_for_fd(&HostNode { device })?.1;
    if protected.is_none() {
        init.channel()?
            .log(false, format!("standard stream: keeping the caller's {path}, because there is no other one"))?;
    }
    Ok(protected)
}

/// Opens the device at its path in the container; `None` if the file is missing or another one.
fn open_own(init: &Init, device: MemoryDevice) -> SysResult<Option<OwnedFd>> {
    let found = Dir::open_host(Path::new("/"))?.try_find(device.path(), Links::Follow)?;
    // The check must precede the open, because opening another device can have effects.
    let is_device =
        |fd: &OwnedFd| rustix::fs::fstat(fd).is_ok_and(|stat| MemoryDevice::from_stat(&stat) == Some(device));
    let Some(found) = found.filter(is_device) else { return Ok(None) };
    init.proc()?.reopen(&found, rustix::fs::OFlags::RDWR).map(Some)
}

/// Gives the standard streams to the container's user, who must be able to open /proc/self/fd/1 again. The owner stays
/// for streams of that user, for devices that are no terminals, and for files that refuse the change (read-only, not
/// ours).
pub(super) fn own_standard_streams(init: &Init, uid: u32) -> Result<()> {
    /// The substitute for an id that the user namespace does not map (user_namespaces(7)), unless /proc/sys says
    /// otherwise.
    const OVERFLOW_ID: u32 = 65534;
    // A device that is no terminal belongs to the host: /dev/null, or another one that the caller chose.
    let is_device = |stat: &Stat| FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut unmapped = Vec::new();
    for (number, stream) in (0..).zip([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]) {
        let Ok(stat) = rustix::fs::fstat(stream) else {
            continue; // The caller left it closed.
        };
        let owned = stat.st_uid == uid && !(init.plan.has_user_namespace() && uid == OVERFLOW_ID);
        if owned || is_device(&stat) && !rustix::termios::isatty(stream) {
            continue;
        }
        let given = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), Some(Gid::from_raw(stat.st_gid)));
        match given {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM)
                if init.plan.has_user_namespace() && streams::is_joint(stream) =>
            {
                unmapped.push(number);
            }
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM | rustix::io::Errno::ROFS) => {
                let line = format!("standard stream {number}: keeping its owner, which cannot be changed");
                init.channel()?.log(false, line)?;
            }
            Err(error) => return Err(SysError::new("fchown", number.to_string(), error).into()),
        }
    }
    if unmapped.is_empty() { Ok(()) } else { init.channel()?.ask(&Streams { uid, numbers: unmapped }) }
}
