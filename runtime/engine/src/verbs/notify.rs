//! Forwarding of READY=1 from a container to the service manager (sd_notify(3)).
//!
//! The container has its own socket in /run/notify, named by its NOTIFY_SOCKET. Its messages are not trusted: only
//! the READY line is forwarded, and the MAINPID beside it is brig's.

use std::fs::{DirBuilder, File, Permissions};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Mount, Process, Spec};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::Timespec;

use crate::error::{Context, Error, Result};
use brig_sys::fd::fd_path;
use brig_sys::{SysError, socket};

/// Name of the socket's directory on the host, in the container's record.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Mount point of the directory in the container, as with runc.
const MOUNT_POINT: &str = "/run/notify";
/// Limit of a notification in bytes, equal to the service manager's.
const MAX_NOTIFICATION_LEN: usize = 4096;
/// Timeout for the service manager to read the notification (the usual one of sd_notify_barrier).
const BARRIER_TIMEOUT: Duration = Duration::from_secs(30);

/// Adds the mount and the environment variable to a configuration. `entry` is the container's record directory.
pub(super) fn add_to(spec: &mut Spec, entry: &Path) {
    let mut mount = Mount::default();
    mount.set_destination(MOUNT_POINT.into());
    mount.set_source(Some(entry.join(DIRECTORY)));
    mount.set_options(Some(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).into()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let env: &mut Option<Vec<String>> = Process::env_mut(process);
        env.get_or_insert_default().push(format!("NOTIFY_SOCKET={MOUNT_POINT}/{SOCKET}"));
    }
}

/// Creates the directory that [`add_to`] mounts.
pub(super) fn make_directory(entry: &Path) -> Result<()> {
    let directory = entry.join(DIRECTORY);
    let unable = || format!("unable to make {}", directory.display());
    DirBuilder::new().mode(0o755).create(&directory).with_context(unable)?;
    // Regardless of the umask, because the container's user may be any.
    std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).with_context(unable)
}

/// The container's socket for notifications, and the service manager to forward them to.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    manager: PathBuf,
}

impl Notify {
    /// Binds the container's socket. `None` for a container that was created without one.
    ///
    /// `manager` is the caller's NOTIFY_SOCKET: a path, or a name in the abstract namespace after `@`.
    pub(super) fn bind(entry: &Path, manager: &Path) -> Result<Option<Notify>> {
        let directory = entry.join(DIRECTORY);
        let open = match File::open(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("unable to open {}", directory.display()))?,
        };
        // A socket address holds at most 107 bytes; an id alone may be longer.
        let path = fd_path(&open).join(SOCKET);
        let unable = || format!("unable to make {}", directory.join(SOCKET).display());
        let socket = UnixDatagram::bind(&path).with_context(unable)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).with_context(unable)?;
        Ok(Some(Notify { socket, manager: manager.to_owned() }))
    }

    /// Waits until the container is ready, or `init` has exited, and reports readiness to the service manager, with
    /// `main_pid` as the process to watch. Returns once the manager has read it, because the sender must exist until
    /// then.
    pub(super) fn wait_and_notify(self, init: BorrowedFd<'_>, main_pid: i32) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(init, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SysError::new("poll", "", error).into()),
            }
            let [notified, exited] = fds.map(|fd| !fd.revents().is_empty());
            if notified {
                if let Some(ready) = self.read()? {
                    return await_reader(&self.send(&ready, main_pid)?);
                }
            } else if exited {
                return Ok(());
            }
        }
    }

    /// Reads one pending notification, and forwards it if it says READY. Returns whether it was forwarded.
    ///
    /// # Errors
    /// When the service manager cannot be reached.
    pub fn pass_on(&self, main_pid: i32) -> Result<bool> {
        match self.read()? {
            // No need to wait for the manager: this process, which is the sender, continues to run.
            Some(ready) => self.send(&ready, main_pid).map(|_| true),
            None => Ok(false),
        }
    }

    /// The READY line of the next notification.
    fn read(&self) -> Result<Option<String>> {
        // Descriptors that accompany it (FDSTORE=1, BARRIER=1) are closed.
        let packet = match socket::receive(self.socket.as_fd(), MAX_NOTIFICATION_LEN) {
            Err(error) if error.errno() == rustix::io::Errno::MSGSIZE => return Ok(None),
            other => other?.0,
        };
        let text = String::from_utf8_lossy(&packet);
        Ok(text.lines().find(|line| line.starts_with("READY=")).map(str::to_owned))
    }

    /// Notifies the service manager. The returned pipe is closed when the manager has read everything.
    fn send(&self, ready: &str, main_pid: i32) -> Result<OwnedFd> {
        let unable = || format!("unable to notify {}", self.manager.display());
        let out = UnixDatagram::unbound().with_context(unable)?;
        let address = match self.manager.as_os_str().as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
            _ => SocketAddr::from_pathname(&self.manager),
        };
        out.connect_addr(&address.with_context(unable)?).with_context(unable)?;
        out.send(format!("{ready}\n").as_bytes()).with_context(unable)?;
        out.send(format!("MAINPID={main_pid}\n").as_bytes()).with_context(unable)?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| SysError::new("pipe2", "", error))?;
        socket::send(out.as_fd(), b"BARRIER=1", &[writer.as_fd()]).with_context(unable)?;
        Ok(reader)
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits until a barrier's pipe is closed.
fn await_reader(reader: &OwnedFd) -> Result<()> {
    let deadline = Instant::now() + BARRIER_TIMEOUT;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))
            .map_err(|_| Error::other("a time that is no time"))?;
        match poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                tracing::warn!("the service manager did not answer within {BARRIER_TIMEOUT:?}");
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::new("poll", "", error).into()),
        }
    }
}
