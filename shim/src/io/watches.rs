//! Waiting for what is done to a FIFO, by inotify(7): that somebody opens it cannot be polled for.
//!
//! A user has 128 inotify instances unless the administrator says otherwise, and a container may have as many execs
//! whose output nobody has come for. So there is one instance for all that wait on a thread, for as long as any does.
//! Whoever sees an event wakes all of them, and each looks at its own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use brig_sys::procfs::fd_path;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::sync::Notify;

use super::fd::{Polled, polled};

/// Opened, read from, or closed by a reader: what changes whether a FIFO has a reader, and whether it is empty.
const WATCHED: WatchFlags =
    WatchFlags::OPEN.union(WatchFlags::ACCESS).union(WatchFlags::CLOSE_NOWRITE).union(WatchFlags::CLOSE_WRITE);

/// How often a FIFO is looked at where no watch is to be had.
const LOOK: Duration = Duration::from_millis(50);

thread_local! {
    static WATCHES: RefCell<Weak<Watches>> = const { RefCell::new(Weak::new()) };
}

/// The instance.
#[derive(Debug)]
struct Watches {
    inotify: Polled,
    changed: Notify,
    /// How many wait for each watch: two that watch the same file are given the same.
    used: Mutex<HashMap<i32, usize>>,
}

impl Watches {
    /// That of this thread.
    fn get() -> std::io::Result<Arc<Watches>> {
        WATCHES.with_borrow_mut(|known| {
            if let Some(watches) = known.upgrade() {
                return Ok(watches);
            }
            let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let inotify = polled(fd).map_err(std::io::Error::other)?;
            let watches = Arc::new(Watches { inotify, changed: Notify::new(), used: Mutex::default() });
            *known = Arc::downgrade(&watches);
            Ok(watches)
        })
    }

    /// Waits for an event of any of them.
    async fn event(&self) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        self.inotify.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer[..])?)).await?;
        self.changed.notify_waiters();
        Ok(())
    }
}

/// One who waits.
struct Watch {
    watches: Arc<Watches>,
    number: i32,
}

impl Watch {
    fn new(fifo: &OwnedFd) -> std::io::Result<Watch> {
        let watches = Watches::get()?;
        let mut used = watches.used.lock().unwrap_or_else(PoisonError::into_inner);
        let number = inotify::add_watch(watches.inotify.get_ref(), fd_path(fifo), WATCHED)?;
        *used.entry(number).or_default() += 1;
        drop(used);
        Ok(Watch { watches, number })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut used = self.watches.used.lock().unwrap_or_else(PoisonError::into_inner);
        let left = used.get_mut(&self.number).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if left == 0 {
            used.remove(&self.number);
            // EINVAL: it has gone with its file.
            let _ = inotify::remove_watch(self.watches.inotify.get_ref(), self.number);
        }
    }
}

/// Waits until this is so of a FIFO, which may change when a reader opens it, reads from it, or closes it.
///
/// # Errors
/// An event cannot be read.
pub(super) async fn until(fifo: &OwnedFd, is_so: impl Fn(&OwnedFd) -> bool) -> std::io::Result<()> {
    if is_so(fifo) {
        return Ok(());
    }
    let watch = match Watch::new(fifo) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!("a stream is looked at every {LOOK:?}, since there is no inotify watch for it: {error}");
            while !is_so(fifo) {
                tokio::time::sleep(LOOK).await;
            }
            return Ok(());
        }
    };
    loop {
        let mut changed = pin!(watch.watches.changed.notified());
        changed.as_mut().enable();
        // It may be so since before the watch.
        if is_so(fifo) {
            return Ok(());
        }
        tokio::select! {
            () = changed => {}
            seen = watch.watches.event() => seen?,
        }
    }
}
