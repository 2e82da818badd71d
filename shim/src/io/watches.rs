//! Waits for changes of a FIFO, by inotify(7): an open by a reader cannot be polled for.
//!
//! A user has 128 inotify instances by default, and a container may have as many execs whose output has no reader yet.
//! So all waits on a thread share one instance, which exists as long as any of them. The wait that reads an event wakes
//! all of them, and each checks its own FIFO.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::sync::Notify;

use super::fd::{Polled, fd_path, polled};

/// Opened, read from, or closed by a reader: the events that change whether a FIFO has a reader, and whether it is
/// empty.
const WATCHED: WatchFlags =
    WatchFlags::OPEN.union(WatchFlags::ACCESS).union(WatchFlags::CLOSE_NOWRITE).union(WatchFlags::CLOSE_WRITE);

/// The interval of the checks of a FIFO without a watch.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    static WATCHES: RefCell<Weak<Watches>> = const { RefCell::new(Weak::new()) };
}

/// The inotify instance of a thread, and its watches.
#[derive(Debug)]
struct Watches {
    inotify: Polled,
    changed: Notify,
    /// The number of waits for each watch: two waits for the same file get the same watch.
    used: Mutex<HashMap<i32, usize>>,
}

impl Watches {
    /// The instance of this thread.
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

    /// Waits for an event of any watch.
    async fn event(&self) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        self.inotify.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut buffer[..])?)).await?;
        self.changed.notify_waiters();
        Ok(())
    }
}

/// A registered wait.
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
            // EINVAL: the watch was removed with its file.
            let _ = inotify::remove_watch(self.watches.inotify.get_ref(), self.number);
        }
    }
}

/// Waits until `is_so` holds of a FIFO, which may change when a reader opens it, reads from it, or closes it.
///
/// # Errors
/// The event cannot be read.
pub(super) async fn until(fifo: &OwnedFd, is_so: impl Fn(&OwnedFd) -> bool) -> std::io::Result<()> {
    if is_so(fifo) {
        return Ok(());
    }
    let watch = match Watch::new(fifo) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::warn!("checking a stream every {POLL_INTERVAL:?}, because it has no inotify watch: {error}");
            while !is_so(fifo) {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            return Ok(());
        }
    };
    loop {
        let mut changed = pin!(watch.watches.changed.notified());
        changed.as_mut().enable();
        // The condition may have become true before the watch.
        if is_so(fifo) {
            return Ok(());
        }
        tokio::select! {
            () = changed => {}
            seen = watch.watches.event() => seen?,
        }
    }
}
