//! Standard streams for a process in a user namespace that does not map their owner: /proc/self/fd/1 could not be
//! opened there. The parent changes their owner, because init lacks the privilege.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Uid};

use crate::error::{Context, Error, Result};
use crate::handshake::Streams;
use brig_plan::idmap::IdMap;
use brig_sys::procfs::Proc;

/// Recognises pipes and sockets, which are created for the processes that they connect. A file or a device belongs to
/// the host, and its owner never changes.
pub(super) fn is_joint(fd: BorrowedFd) -> bool {
    let kind = |stat: rustix::fs::Stat| FileType::from_raw_mode(stat.st_mode);
    rustix::fs::fstat(fd).map(kind).is_ok_and(|kind| matches!(kind, FileType::Fifo | FileType::Socket))
}

/// Gives the streams to the container's user, by the id map of the process `pid`. `stdio` are the process's streams, if
/// they are not this process's own. Without the right to do so, and for a user that is not mapped, the owner stays.
pub(super) fn change_owner(request: &Streams, pid: i32, stdio: Option<&[OwnedFd; 3]>) -> Result<()> {
    let unable = "unable to give the standard streams to the container's user";
    let text = Proc::open()?.read_to_string(format!("{pid}/uid_map")).context(unable)?;
    let map = IdMap::parse(&text).ok_or_else(|| Error::other(format!("/proc/{pid}/uid_map holds {text:?}")))?;
    let Some(owner) = map.host_id(request.uid) else {
        tracing::debug!("standard streams: keeping their owner, because user {} is not mapped", request.uid);
        return Ok(());
    };
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let streams = match stdio {
        Some(fds) => fds.each_ref().map(AsFd::as_fd),
        None => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
    };
    for number in &request.numbers {
        let stream = streams.get(usize::from(*number)).filter(|stream| is_joint(**stream));
        let stream =
            stream.ok_or_else(|| Error::other(format!("standard stream {number} is no pipe and no socket")))?;
        if let Err(error) = rustix::fs::fchown(stream, Some(Uid::from_raw(owner)), None) {
            tracing::debug!("standard stream {number}: keeping its owner: {error}");
        }
    }
    Ok(())
}
