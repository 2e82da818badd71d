//! READY=1 from inside a container to the service manager outside (sd_notify(3)).
//!
//! The container sees a socket of its own in /run/notify; its NOTIFY_SOCKET names that one. What it says there is not
//! trusted: only the READY line goes on, and the MAINPID beside it is ours.

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
use brig_sys::procfs::fd_path;
use brig_sys::{SysError, socket};

/// The container's directory on the host, below its record.
const DIRECTORY: &str = "notify";
const SOCKET: &str = "notify.sock";
/// Where the container sees it, as with runc.
const PLACE: &str = "/run/notify";
/// The longest notification that is read. The service manager's own limit is the same.
const LONGEST: usize = 4096;
/// How long the service manager may take to read what was sent (as long as sd_notify_barrier is mostly given).
const PATIENCE: Duration = Duration::from_secs(30);

/// Adds the mount and the variable to a configuration. `entry` is the container's directory.
pub(super) fn add_to(spec: &mut Spec, entry: &Path) {
    let mut mount = Mount::default();
    mount.set_destination(PLACE.into());
    mount.set_source(Some(entry.join(DIRECTORY)));
    mount.set_options(Some(["bind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).into()));
    spec.mounts_mut().get_or_insert_default().push(mount);
    if let Some(process) = spec.process_mut() {
        let env: &mut Option<Vec<String>> = Process::env_mut(process);
        env.get_or_insert_default().push(format!("NOTIFY_SOCKET={PLACE}/{SOCKET}"));
    }
}

/// Makes the directory that [`add_to`] mounts.
pub(super) fn make_directory(entry: &Path) -> Result<()> {
    let directory = entry.join(DIRECTORY);
    let unable = || format!("unable to make {}", directory.display());
    DirBuilder::new().mode(0o755).create(&directory).with_context(unable)?;
    // Whatever the umask is: the container's user may be any.
    std::fs::set_permissions(&directory, Permissions::from_mode(0o755)).with_context(unable)
}

/// The container's end of the way to a service manager.
#[derive(Debug)]
pub struct Notify {
    socket: UnixDatagram,
    manager: PathBuf,
}

impl Notify {
    /// Binds the container's socket. `None` for a container that was made without one.
    ///
    /// `manager` is the caller's NOTIFY_SOCKET: a path, or a name in the abstract namespace after `@`.
    pub(super) fn bind(entry: &Path, manager: &Path) -> Result<Option<Notify>> {
        let directory = entry.join(DIRECTORY);
        let open = match File::open(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("unable to open {}", directory.display()))?,
        };
        // An address holds 107 bytes at the most; an id alone may be longer.
        let path = fd_path(&open).join(SOCKET);
        let unable = || format!("unable to make {}", directory.join(SOCKET).display());
        let socket = UnixDatagram::bind(&path).with_context(unable)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o777)).with_context(unable)?;
        Ok(Some(Notify { socket, manager: manager.to_owned() }))
    }

    /// Waits until the container is ready, or `init` has ended, and tells the service manager of the former, with
    /// `main_pid` as the process to watch. Returns once the manager has read it: the sender must live until then.
    pub(super) fn wait_and_tell(self, init: BorrowedFd<'_>, main_pid: i32) -> Result<()> {
        loop {
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(init, PollFlags::IN)];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(SysError::from_rustix("poll", "", error).into()),
            }
            let [said, ended] = fds.map(|fd| !fd.revents().is_empty());
            if said {
                if let Some(ready) = self.read()? {
                    return await_reader(&self.tell(&ready, main_pid)?);
                }
            } else if ended {
                return Ok(());
            }
        }
    }

    /// Reads one notification that has come, and passes it on if it says READY. True: that is done.
    ///
    /// # Errors
    /// When the service manager cannot be reached.
    pub fn pass_on(&self, main_pid: i32) -> Result<bool> {
        match self.read()? {
            // Nobody has to wait for the manager here: this process, which it is told of, lives on.
            Some(ready) => self.tell(&ready, main_pid).map(|_| true),
            None => Ok(false),
        }
    }

    /// The READY line of the next notification.
    fn read(&self) -> Result<Option<String>> {
        // Descriptors that come with it (FDSTORE=1, BARRIER=1) are closed.
        let packet = match socket::receive(self.socket.as_fd(), LONGEST) {
            Err(error) if error.errno() == nix::errno::Errno::EMSGSIZE => return Ok(None),
            other => other?.0,
        };
        let text = String::from_utf8_lossy(&packet);
        Ok(text.lines().find(|line| line.starts_with("READY=")).map(str::to_owned))
    }

    /// Tells the service manager. What comes back ends when it has read everything.
    fn tell(&self, ready: &str, main_pid: i32) -> Result<OwnedFd> {
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
            .map_err(|error| SysError::from_rustix("pipe2", "", error))?;
        socket::send(out.as_fd(), b"BARRIER=1", &[writer.as_fd()]).with_context(unable)?;
        Ok(reader)
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits for the end of a barrier's pipe.
fn await_reader(reader: &OwnedFd) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))
            .map_err(|_| Error::other("a time that is no time"))?;
        match poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&left)) {
            Ok(0) => {
                tracing::warn!("the service manager did not answer within {PATIENCE:?}");
                return Ok(());
            }
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::from_rustix("poll", "", error).into()),
        }
    }
}
