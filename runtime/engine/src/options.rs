//! What the verbs take and give. Paths are as the caller wrote them; the engine makes them absolute.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use brig_sys::process::{self, Exit};
use oci_spec::runtime::Spec;
use serde::Serialize;

use super::Notify;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::state::Status;

/// Where a new process's standard input, output and error come from.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's own 0, 1 and 2.
    #[default]
    Inherit,
    /// /dev/null.
    Null,
    /// These three, in this order.
    Fds([OwnedFd; 3]),
    /// The caller's own, or pipes whose other ends come back in [`Launched::pipes`]: for a process without a terminal in a
    /// user namespace, which could not open again what belongs to a user of the host.
    Proxied,
}

impl Stdio {
    /// The descriptors of the process's standard streams; `None` for the caller's own. [`Stdio::Inherit`] is left behind.
    pub(crate) fn take(&mut self) -> Result<Option<[OwnedFd; 3]>> {
        let null = |write: bool| {
            let opened = OpenOptions::new().read(!write).write(write).open("/dev/null");
            opened.map(OwnedFd::from).context("unable to open /dev/null for a standard stream")
        };
        match std::mem::take(self) {
            Stdio::Inherit | Stdio::Proxied => Ok(None),
            Stdio::Null => Ok(Some([null(false)?, null(true)?, null(true)?])),
            Stdio::Fds(fds) => Ok(Some(fds)),
        }
    }
}

/// The source of a container's configuration.
#[derive(Clone, Debug, Default)]
pub enum Configuration {
    /// `config.json` in the bundle.
    #[default]
    Bundle,
    /// Another file.
    File(PathBuf),
    /// A configuration in memory. Relative paths in it start at [`CreateOptions::bundle`], which needs no `config.json`.
    Spec(Box<Spec>),
}

/// Where the master side of a container's terminal goes.
#[derive(Debug, Default)]
pub enum Console {
    /// The process has no terminal.
    #[default]
    None,
    /// It is sent over the unix socket at this path (one SCM_RIGHTS message whose data is the pty's name).
    Socket(PathBuf),
    /// It comes back to the caller in [`Launched::terminal`].
    Caller,
    /// The same; it begins with the size of the terminal among the caller's standard streams, and leaves the
    /// translation of newlines to that one.
    Proxied,
}

/// Options of create and run.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// The bundle. Empty means the working directory.
    pub bundle: PathBuf,
    /// The configuration.
    pub config: Configuration,
    /// Terminal hand-over.
    pub console: Console,
    /// A unix socket that receives the init process's pidfd (one SCM_RIGHTS message).
    pub pidfd_socket: Option<PathBuf>,
    /// Gets init's pid in decimal, written under a temporary name and renamed.
    pub pid_file: Option<PathBuf>,
    /// Move the root and chroot instead of pivot_root (for a ramdisk root). Weaker.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// File descriptors 3 to 3+N-1 of the caller are kept in the container, after LISTEN_FDS ones.
    pub preserve_fds: u32,
    /// Number of systemd socket-activation fds at 3 and up (the caller's LISTEN_FDS).
    pub listen_fds: u32,
    /// NOTIFY_SOCKET of the caller: READY is passed on to it from the container. With `detach`, run waits for that.
    pub notify_socket: Option<PathBuf>,
    /// Standard streams of init.
    pub stdio: Stdio,
    /// The process is a child that outlives the caller.
    pub detach: bool,
}

/// Where an OCI `process` object, as JSON, comes from.
#[derive(Clone, Debug)]
pub enum ProcessSource {
    /// This file.
    File(PathBuf),
    /// These bytes.
    Json(Vec<u8>),
}

/// Options of exec. What is `None` or empty comes from config.json's process.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// An OCI `process` object that replaces config.json's process.
    pub process: Option<ProcessSource>,
    /// The command line; empty with `process`.
    pub args: Vec<String>,
    /// Working directory in the container.
    pub cwd: Option<PathBuf>,
    /// Added to the environment, `NAME=value`; a later one of a name wins.
    pub env: Vec<String>,
    /// Give the process a terminal.
    pub tty: Option<bool>,
    /// `uid[:gid]` in decimal, or names resolved against the container's /etc/passwd and /etc/group.
    pub user: Option<String>,
    /// Added to the supplementary groups.
    pub additional_gids: Vec<u32>,
    /// SELinux label.
    pub process_label: Option<String>,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// Set no_new_privs; `None` keeps config.json's.
    pub no_new_privs: Option<bool>,
    /// Capabilities added to bounding, effective and permitted (and ambient where inheritable has them).
    pub capabilities: Vec<String>,
    /// Sub-cgroups to join, `[controllers:]path` relative to the container's cgroup.
    pub cgroups: Vec<String>,
    /// Exec into a paused container: the process starts when it is resumed.
    pub ignore_paused: bool,
    /// Terminal hand-over.
    pub console: Console,
    /// See [`CreateOptions::pidfd_socket`].
    pub pidfd_socket: Option<PathBuf>,
    /// See [`CreateOptions::pid_file`].
    pub pid_file: Option<PathBuf>,
    /// See [`CreateOptions::preserve_fds`].
    pub preserve_fds: u32,
    /// Standard streams of the process.
    pub stdio: Stdio,
    /// The process outlives the caller.
    pub detach: bool,
    /// How long the process may make no progress until its program runs: then it is killed, for a process of the
    /// container may have stopped it. `None` for ten seconds, [`Duration::MAX`] for no limit. A paused container's time
    /// does not count.
    pub stall_timeout: Option<Duration>,
}

impl ExecOptions {
    /// Reads a `stall_timeout` from the environment variable BRIG_EXEC_TIMEOUT: seconds, and 0 for no limit.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for what is no number of seconds.
    pub fn stall_timeout_of_environment() -> Result<Option<Duration>> {
        const NAME: &str = "BRIG_EXEC_TIMEOUT";
        std::env::var_os(NAME).map(|value| stall_timeout(NAME, &value.to_string_lossy())).transpose()
    }
}

fn stall_timeout(name: &str, text: &str) -> Result<Duration> {
    match text.parse().map(Duration::try_from_secs_f64) {
        Ok(Ok(Duration::ZERO)) => Ok(Duration::MAX),
        Ok(Ok(timeout)) => Ok(timeout),
        _ => {
            let message = format!("{name}={text:?}: expected a number of seconds, such as 30, or 0 for no limit");
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
    }
}

/// What of a container's cgroups is saved or brought back (criu(8), --manage-cgroups). The numbers are CRIU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Nothing.
    Ignore = 0,
    /// Cgroups that are not there are made, and get their limits.
    #[default]
    Soft = 3,
    /// Cgroups are made, and all get their limits.
    Full = 4,
    /// As full, and none may be there before.
    Strict = 5,
}

/// Options of checkpoint. Paths are against the working directory.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// Where the images go; made where it is missing. Empty means `checkpoint`.
    pub images: PathBuf,
    /// Where CRIU's log goes; empty means to the images.
    pub work: PathBuf,
    /// An earlier image that this one adds to, relative to `images`.
    pub parent: Option<PathBuf>,
    /// The container goes on.
    pub leave_running: bool,
    /// Memory alone is saved, and the container goes on.
    pub pre_dump: bool,
    /// TCP connections in the making are left out.
    pub tcp_skip_in_flight: bool,
    /// Files that are open and unlinked are saved by a link.
    pub link_remap: bool,
    /// Where a NUL byte says that lazy pages can be asked for: a descriptor of the caller's.
    pub status_fd: Option<i32>,
    /// A server that takes the pages: address and port.
    pub page_server: Option<(String, u16)>,
    /// What restore takes too.
    pub common: CriuOptions,
}

/// What checkpoint and restore are told alike.
#[derive(Clone, Debug, Default)]
pub struct CriuOptions {
    /// Open TCP connections.
    pub tcp_established: bool,
    /// Unix sockets to the outside.
    pub external_unix: bool,
    /// A job of a shell: its terminal and session are others'.
    pub shell_job: bool,
    /// File locks.
    pub file_locks: bool,
    /// Pages are served, or fetched, on demand.
    pub lazy_pages: bool,
    /// Pages that a later image holds too are dropped.
    pub auto_dedup: bool,
    /// See [`CgroupsMode`].
    pub cgroups: CgroupsMode,
}

/// Options of restore. Paths are against the working directory.
#[derive(Debug, Default)]
pub struct RestoreOptions {
    /// See [`CreateOptions::bundle`].
    pub bundle: PathBuf,
    /// See [`CheckpointOptions::images`].
    pub images: PathBuf,
    /// See [`CheckpointOptions::work`].
    pub work: PathBuf,
    /// Terminal hand-over.
    pub console: Console,
    /// See [`CreateOptions::pid_file`].
    pub pid_file: Option<PathBuf>,
    /// Standard streams, for those that were pipes.
    pub stdio: Stdio,
    /// `TYPE:NAME` of a security profile instead of the saved one.
    pub lsm_profile: Option<String>,
    /// A security context for mounts.
    pub lsm_mount_context: Option<String>,
    /// What checkpoint takes too.
    pub common: CriuOptions,
}

/// A process that was launched, still a child of the caller.
#[derive(Debug)]
pub struct Launched {
    /// Its pid in the caller's pid namespace.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
    /// The terminal's master, with [`Console::Caller`] and [`Console::Proxied`].
    pub terminal: Option<OwnedFd>,
    /// The caller's ends of the process's standard input, output and error, with [`Stdio::Proxied`].
    pub pipes: Option<[OwnedFd; 3]>,
    /// With [`CreateOptions::notify_socket`], after a run that does not detach: to be read while the caller waits.
    pub notify: Option<Notify>,
}

impl Launched {
    /// Waits until the process has exited, and reaps it.
    ///
    /// # Errors
    /// The process is no child of this process, or was reaped already.
    pub fn wait(&self) -> Result<ExitStatus> {
        // wait(2): the low byte has the signal, the next one the code.
        let status = match process::wait(self.pidfd.as_fd()).context("unable to wait for the process")? {
            Exit::Code(code) => code << 8,
            Exit::Signal(signal) => signal,
        };
        Ok(ExitStatus::from_raw(status))
    }
}

/// What `state` prints (runtime.md, State, and what runc adds). Serialises in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// The spec version of the container's configuration.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The id.
    pub id: String,
    /// Init's pid; 0 once it has stopped.
    pub pid: i32,
    /// The status.
    pub status: Status,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// When it was made, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// The configuration's annotations, sorted; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Name of the user that owns the container.
    pub owner: String,
}
