//! The store of container records: one directory each below the root, locked by flock(2) while a verb changes it.
//!
//! ```text
//! ROOT/ID/state.json    the record, replaced by rename
//! ROOT/ID/config.json   the configuration as create read it
//! ROOT/ID/exec.fifo     the gate, until start opens it
//! ROOT/ID/criu-root/   while restore is at work: the container's root, bound
//! ROOT/ID/notify/       with NOTIFY_SOCKET: the socket that the container sees
//! ```

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::{Record, check_id};
use brig_sys::{SysError, file, mount};

const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";
const GATE: &str = "exec.fifo";
const RESTORE_ROOT: &str = "criu-root";

/// Timeout for another verb that changes the same container.
const LOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// A container's directory in the store.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    directory: File,
}

/// A new container's directory, removed on drop, unless [`Reservation::persist`] is called.
#[derive(Debug)]
pub struct Reservation {
    entry: Option<Entry>,
}

/// Creates and locks the directory of a new container: of two creates of one id, one succeeds.
///
/// # Errors
/// [`ErrorKind::InvalidId`], [`ErrorKind::AlreadyExists`] with runc's texts.
pub fn reserve(root: &Path, id: &str) -> Result<Reservation> {
    check_id(id)?;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(root)
        .with_context(|| format!("unable to make the root directory {}", root.display()))?;
    let path = root.join(id);
    match fs::DirBuilder::new().mode(0o711).create(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("container with given ID already exists: {}", describe(&path));
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        other => other.with_context(|| format!("unable to make {}", path.display()))?,
    }
    let directory = match open_directory(&path) {
        Ok(directory) => directory,
        Err(error) => {
            fs::remove_dir(&path).with_context(|| format!("unable to remove {} again", path.display()))?;
            return Err(error);
        }
    };
    let reservation = Reservation { entry: Some(Entry { path, directory }) };
    reservation.entry().lock()?;
    Ok(reservation)
}

/// Opens the directory of an existing container, without locking it.
///
/// # Errors
/// [`ErrorKind::NotFound`] with runc's text.
pub fn open(root: &Path, id: &str) -> Result<Entry> {
    check_id(id)?;
    let path = root.join(id);
    let directory = open_directory(&path)?;
    Ok(Entry { path, directory })
}

/// The ids on record, sorted; empty for a root that does not exist.
pub fn ids(root: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let message = format!(
                "open {}: permission denied: containers of another user are listed by that user (often root); give --root \
                 for your own",
                root.display()
            );
            return Err(Error::other(message));
        }
        other => other.with_context(|| format!("unable to list {}", root.display()))?,
    };
    let mut ids = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("unable to list {}", root.display()))?;
        if let Ok(id) = entry.file_name().into_string()
            && check_id(&id).is_ok()
            && entry.file_type().is_ok_and(|file_type| file_type.is_dir())
        {
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

fn flock(directory: &File, path: &Path, operation: FlockOperation) -> Result<bool> {
    loop {
        match rustix::fs::flock(directory, operation) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(error) => return Err(SysError::new("flock", path.display().to_string(), error).into()),
        }
    }
}

/// The error for a missing container directory. The first words are runc's, which callers match.
pub fn missing(path: &Path) -> Error {
    Error::new(ErrorKind::NotFound, format!("container does not exist: {}", describe(path)))
}

/// Formats a container's id and its root, for messages.
fn describe(path: &Path) -> String {
    let root = path.parent().unwrap_or(Path::new("/"));
    format!("{} (--root {})", path.file_name().unwrap_or_default().to_string_lossy(), root.display())
}

fn open_directory(path: &Path) -> Result<File> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => Ok(File::from(fd)),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Err(missing(path)),
        Err(error) => Err(SysError::new("open", path.display().to_string(), error).into()),
    }
}

impl Reservation {
    /// The reserved directory.
    pub fn entry(&self) -> &Entry {
        // Present until persist consumes the reservation.
        match &self.entry {
            Some(entry) => entry,
            None => unreachable!("a reservation without its entry"),
        }
    }

    /// Keeps the directory: the container was created.
    pub fn persist(mut self) {
        self.entry = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // After an unlock, a delete may have come first.
        if let Some(entry) = self.entry.take()
            && let Err(error) = entry.is_current().and_then(|ours| if ours { entry.remove() } else { Ok(()) })
        {
            tracing::warn!("unable to clean up: {error}");
        }
    }
}

impl Entry {
    /// Waits for the exclusive lock, which is held until this value is dropped, or until [`Entry::unlock`].
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] when another verb holds it for longer than `LOCK_TIMEOUT`.
    pub fn lock(&self) -> Result<()> {
        if self.try_lock()? {
            return Ok(());
        }
        // flock(2) has no timeout, so a thread waits. Its copy refers to the same open file description and therefore
        // to the same lock; a thread that gets the lock too late releases it.
        let copy = self.directory.try_clone().context("unable to copy an fd")?;
        let (path, (locked, is_locked)) = (self.path.clone(), mpsc::channel());
        std::thread::Builder::new()
            .spawn(move || locked.send(flock(&copy, &path, FlockOperation::LockExclusive)))
            .context("unable to wait for a lock")?;
        match is_locked.recv_timeout(LOCK_TIMEOUT) {
            Ok(result) => result.map(|_| ()),
            Err(_) => {
                let (path, seconds) = (self.path.display(), LOCK_TIMEOUT.as_secs());
                let message = format!(
                    "{path} is locked: another command has been changing this container for more than {seconds} s; \
                     end that command, or try again"
                );
                Err(Error::new(ErrorKind::TimedOut, message))
            }
        }
    }

    /// Releases the lock.
    pub fn unlock(&self) -> Result<()> {
        self.flock(FlockOperation::Unlock).map(|_| ())
    }

    /// Takes the exclusive lock if it is free. Returns false if another verb, such as create, holds it.
    pub fn try_lock(&self) -> Result<bool> {
        self.flock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether another process holds the exclusive lock.
    pub fn is_locked(&self) -> Result<bool> {
        if self.flock(FlockOperation::NonBlockingLockShared)? {
            self.flock(FlockOperation::Unlock)?;
            return Ok(false);
        }
        Ok(true)
    }

    fn flock(&self, operation: FlockOperation) -> Result<bool> {
        flock(&self.directory, &self.path, operation)
    }

    /// Whether the directory is still the one at its path: a delete may have come between.
    pub fn is_current(&self) -> Result<bool> {
        match (rustix::fs::stat(&self.path), rustix::fs::fstat(self.directory.as_fd())) {
            (Ok(named), Ok(open)) => Ok((named.st_dev, named.st_ino) == (open.st_dev, open.st_ino)),
            (Err(rustix::io::Errno::NOENT), Ok(_)) => Ok(false),
            (Err(error), _) | (_, Err(error)) => {
                Err(SysError::new("stat", self.path.display().to_string(), error).into())
            }
        }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path of the gate.
    pub fn gate_path(&self) -> PathBuf {
        self.path.join(GATE)
    }

    /// Whether the gate exists, so that start has not been called.
    pub fn has_gate(&self) -> bool {
        rustix::fs::statat(&self.directory, GATE, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Reads the record; `None` when create has not written it yet.
    pub fn read_record(&self) -> Result<Option<Record>> {
        match self.read(RECORD)? {
            Some(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("{} is damaged", self.path.join(RECORD).display())),
            None => Ok(None),
        }
    }

    /// Replaces the record atomically.
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record).context("unable to write the record")?;
        self.write(RECORD, &bytes)
    }

    /// Reads the configuration that create stored.
    pub fn read_config(&self) -> Result<Vec<u8>> {
        self.read(CONFIG)?.ok_or_else(|| Error::other(format!("{} is missing", self.path.join(CONFIG).display())))
    }

    /// Stores the configuration for later verbs.
    pub fn write_config(&self, bytes: &[u8]) -> Result<()> {
        self.write(CONFIG, bytes)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("unable to read {}", self.path.join(name).display())),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        replace(&self.path.join(name), bytes, 0o600)
    }

    /// Path to which a restore binds the container's root.
    pub fn restore_root(&self) -> PathBuf {
        self.path.join(RESTORE_ROOT)
    }

    /// Removes the directory with its content.
    ///
    /// # Errors
    /// When the root of an interrupted restore cannot be unmounted: nothing is removed then, least of all the root's
    /// files.
    pub fn remove(&self) -> Result<()> {
        let root = self.restore_root();
        while root.exists() {
            match mount::detach(&root) {
                // EINVAL: nothing is mounted there, or no longer.
                Err(error) if error.errno() == rustix::io::Errno::INVAL => break,
                other => other.context("unable to unmount the root of an interrupted restore")?,
            }
        }
        fs::remove_dir_all(&self.path).with_context(|| format!("unable to remove {}", self.path.display()))
    }
}

/// Replaces a file atomically, in a directory that may be another user's; see [`file::replace`].
///
/// # Errors
/// The directory cannot be written to, or the file system is full. The old file stays then.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    file::replace(path, bytes, mode).with_context(|| format!("unable to write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_reserved_once_and_a_dropped_reservation_leaves_nothing() {
        let root = tempfile::tempdir().unwrap();
        let first = reserve(root.path(), "a").unwrap();
        assert_eq!(reserve(root.path(), "a").unwrap_err().kind(), ErrorKind::AlreadyExists);
        let entry = open(root.path(), "a").unwrap();
        assert!(entry.is_locked().unwrap() && !entry.try_lock().unwrap());
        drop(first);
        assert!(!entry.is_current().unwrap());
        assert!(ids(root.path()).unwrap().is_empty());
        reserve(root.path(), "a").unwrap().persist();
        assert_eq!(ids(root.path()).unwrap(), ["a"]);
        // A child that another thread has just forked may hold a copy of the locked descriptor for a moment.
        open(root.path(), "a").unwrap().lock().unwrap();
        let expected = format!("container does not exist: b (--root {})", root.path().display());
        assert_eq!(open(root.path(), "b").unwrap_err().to_string(), expected);
    }
}
