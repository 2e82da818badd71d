//! Waits for changes of a cgroup, by the kernel's own notification.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::dir::{Dir, is_gone, keyed, read_from_start};
use brig_sys::{SysError, SysResult};

/// The timeout for a cgroup to freeze, to thaw or to become empty.
pub(super) const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until `key` has `value` in cgroup.events; returns false if `deadline` passes first. A cgroup that is removed
/// meanwhile has no processes, and counts as success.
pub(super) fn event(dir: &Dir, key: &str, value: u64, deadline: Instant) -> SysResult<bool> {
    let file = match dir.file("cgroup.events", OFlags::RDONLY) {
        Ok(file) => file,
        Err(error) if is_gone(&error) => return Ok(true),
        Err(error) => return Err(error),
    };
    loop {
        // Reading arms the notification: a change after this read wakes the poll below.
        match read_from_start(file.as_fd()) {
            Ok(text) if keyed(&text, key) == Some(value) => return Ok(true),
            Ok(_) => {}
            Err(Errno::NODEV) => return Ok(true),
            Err(errno) => {
                return Err(SysError::new("read", format!("\"{}/cgroup.events\"", dir.path().display()), errno));
            }
        }
        if !ready(&mut [PollFd::new(&file, PollFlags::PRI)], deadline)? {
            return Ok(false);
        }
    }
}

/// Calls poll(2) until one of `fds` is ready; returns false if `deadline` passes first.
pub(super) fn ready(fds: &mut [PollFd<'_>], deadline: Instant) -> SysResult<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match poll(fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(SysError::new("poll", "", errno)),
        }
    }
}
