//! Arguments and results of the verbs. The engine makes relative paths absolute, against the working directory.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use oci_spec::runtime::Spec;
use serde::Serialize;

use super::Notify;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::process::Pidfd;
use crate::state::Status;

/// Standard input, output and error of a new process.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's own descriptors 0, 1 and 2.
    #[default]
    Inherit,
    /// /dev/null for all three.
    Null,
    /// These descriptors: input, output, error.
    Fds([OwnedFd; 3]),
    /// The caller's own, or pipes whose other ends are returned in [`Launched::pipes`]: for a process without a
    /// terminal in a user namespace, which cannot reopen files of the host's users.
    Proxied,
}

impl Stdio {
    /// Takes the descriptors of the standard streams, and leaves [`Stdio::Inherit`]; `None` for the caller's own.
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
    /// Another file than the bundle's config.json.
    File(PathBuf),
    /// A configuration in memory. Relative paths in it are relative to [`CreateOptions::bundle`], which needs no
    /// `config.json`.
    Spec(Box<Spec>),
}

/// Destination of the master side of a process's terminal.
#[derive(Debug, Default)]
pub enum Console {
    /// The process has no terminal.
    #[default]
    None,
    /// Sent over the unix socket at this path (one SCM_RIGHTS message whose data is the pty's name).
    Socket(PathBuf),
    /// Returned to the caller in [`Launched::terminal`].
    Caller,
    /// Like [`Console::Caller`], with the initial size of the terminal among the caller's standard streams, and
    /// newline translation left to that one.
    Proxied,
}

/// Options of create and run.
#[derive(Debug, Default)]
pub struct CreateOptions {
    /// The bundle. Empty means the working directory.
    pub bundle: PathBuf,
    /// The source of the configuration.
    pub config: Configuration,
    /// Destination of the terminal, if the process has one.
    pub console: Console,
    /// Unix socket that receives the init process's pidfd (one SCM_RIGHTS message).
    pub pidfd_socket: Option<PathBuf>,
    /// File for init's pid in decimal, written under a temporary name and renamed.
    pub pid_file: Option<PathBuf>,
    /// Move the root and chroot instead of pivot_root(2), for a root on a ramdisk. Weaker.
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Number N of the caller's descriptors, from 3 on, that stay open in the container, after the LISTEN_FDS ones.
    pub preserve_fds: u32,
    /// Number of systemd socket-activation descriptors at 3 and up (the caller's LISTEN_FDS).
    pub listen_fds: u32,
    /// NOTIFY_SOCKET of the caller: the container's READY is forwarded to it. With `detach`, run waits for that.
    pub notify_socket: Option<PathBuf>,
    /// Standard streams of the init process.
    pub stdio: Stdio,
    /// Whether the container outlives the caller, which does not wait for it.
    pub detach: bool,
}

/// Source of an OCI `process` object, as JSON.
#[derive(Clone, Debug)]
pub enum ProcessSource {
    /// A file with the JSON text.
    File(PathBuf),
    /// The JSON text itself.
    Json(Vec<u8>),
}

/// Options of exec. An option that is `None` or empty is taken from config.json's process.
#[derive(Debug, Default)]
pub struct ExecOptions {
    /// An OCI `process` object to use instead of config.json's process.
    pub process: Option<ProcessSource>,
    /// The argument vector; empty with `process`.
    pub args: Vec<String>,
    /// Working directory in the container.
    pub cwd: Option<PathBuf>,
    /// Entries `NAME=value` added to the environment; a later one replaces an earlier one.
    pub env: Vec<String>,
    /// Whether the process has a terminal.
    pub tty: Option<bool>,
    /// `uid[:gid]` in decimal, or names resolved against the container's /etc/passwd and /etc/group.
    pub user: Option<String>,
    /// Ids added to the supplementary groups.
    pub additional_gids: Vec<u32>,
    /// SELinux label of the process.
    pub process_label: Option<String>,
    /// AppArmor profile of the process.
    pub apparmor: Option<String>,
    /// Set no_new_privs; `None` keeps config.json's.
    pub no_new_privs: Option<bool>,
    /// Capabilities added to bounding, effective and permitted (and ambient where inheritable has them).
    pub capabilities: Vec<String>,
    /// Sub-cgroups to join, `[controllers:]path` relative to the container's cgroup.
    pub cgroups: Vec<String>,
    /// Allow an exec into a paused container; the process starts when that is resumed.
    pub ignore_paused: bool,
    /// Destination of the terminal, if the process has one.
    pub console: Console,
    /// Unix socket for the pidfd, as in [`CreateOptions::pidfd_socket`].
    pub pidfd_socket: Option<PathBuf>,
    /// File for the pid, as in [`CreateOptions::pid_file`].
    pub pid_file: Option<PathBuf>,
    /// Number of descriptors to keep, as in [`CreateOptions::preserve_fds`].
    pub preserve_fds: u32,
    /// Standard streams of the process.
    pub stdio: Stdio,
    /// Whether the process outlives the caller, which does not wait for it.
    pub detach: bool,
    /// Time without progress, until its program runs, after which the process is killed, because a process of the
    /// container may have stopped it. `None` means ten seconds, [`Duration::MAX`] no limit. Time in which the
    /// container is paused does not count.
    pub stall_timeout: Option<Duration>,
}

impl ExecOptions {
    /// Reads a `stall_timeout` from the environment variable BRIG_EXEC_TIMEOUT: seconds, and 0 for no limit.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for a value that is not a number of seconds.
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

/// The parts of a container's cgroups that are saved or restored (criu(8), --manage-cgroups). The numbers are CRIU's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupsMode {
    /// Leave cgroups alone.
    Ignore = 0,
    /// Create missing cgroups, with their limits.
    #[default]
    Soft = 3,
    /// Create missing cgroups, and set the limits of all.
    Full = 4,
    /// Like full; a cgroup that exists is an error.
    Strict = 5,
}

bitflags::bitflags! {
    /// Parts that a checkpoint includes, and the way in which memory is saved.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CriuFeatures: u16 {
        /// Include open TCP connections.
        const TCP_ESTABLISHED = 1;
        /// Leave out TCP connections that are not established yet; of a checkpoint alone.
        const TCP_SKIP_IN_FLIGHT = 1 << 1;
        /// Include unix sockets whose peer is outside the container.
        const EXTERNAL_UNIX = 1 << 2;
        /// Allow a shell job, whose terminal and session are not the container's.
        const SHELL_JOB = 1 << 3;
        /// Include file locks.
        const FILE_LOCKS = 1 << 4;
        /// Save files that are open and unlinked, by a link; of a checkpoint alone.
        const LINK_REMAP = 1 << 5;
        /// Serve, or fetch, memory pages on demand.
        const LAZY_PAGES = 1 << 6;
        /// Drop pages that a later image holds too.
        const AUTO_DEDUP = 1 << 7;
    }
}

/// The fate of the container after its memory is saved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterCheckpoint {
    /// The container is stopped and deleted.
    #[default]
    Stop,
    /// The container continues to run.
    Continue,
    /// Only memory is saved (a pre-dump), and the container continues to run.
    ContinueMemoryOnly,
}

/// Options of checkpoint. Paths are relative to the working directory.
#[derive(Clone, Debug, Default)]
pub struct CheckpointOptions {
    /// Directory for the images, created if missing. Empty means `checkpoint`.
    pub images: PathBuf,
    /// Directory for CRIU's log; empty means that of the images.
    pub work: PathBuf,
    /// Directory of an earlier image that this one adds to, relative to `images`.
    pub parent: Option<PathBuf>,
    /// The fate of the container.
    pub after: AfterCheckpoint,
    /// A descriptor of the caller's, to which CRIU writes a NUL byte when lazy pages can be requested.
    pub status_fd: Option<i32>,
    /// Page server to send memory to: address and port.
    pub page_server: Option<(String, u16)>,
    /// Options that restore has too.
    pub common: CriuOptions,
}

/// Options that checkpoint and restore share.
#[derive(Clone, Debug, Default)]
pub struct CriuOptions {
    /// Parts that are included, and the way in which memory is saved.
    pub features: CriuFeatures,
    /// Handling of cgroups.
    pub cgroups: CgroupsMode,
}

/// Options of restore. Paths are relative to the working directory.
#[derive(Debug, Default)]
pub struct RestoreOptions {
    /// The bundle, as in [`CreateOptions::bundle`].
    pub bundle: PathBuf,
    /// Directory of the images, as in [`CheckpointOptions::images`].
    pub images: PathBuf,
    /// Directory for CRIU's log, as in [`CheckpointOptions::work`].
    pub work: PathBuf,
    /// Destination of the terminal, if the process has one.
    pub console: Console,
    /// File for the pid, as in [`CreateOptions::pid_file`].
    pub pid_file: Option<PathBuf>,
    /// Standard streams, for those that were pipes at the checkpoint.
    pub stdio: Stdio,
    /// Security profile, `TYPE:NAME`, instead of the saved one.
    pub lsm_profile: Option<String>,
    /// Security context of mounts, instead of the saved one.
    pub lsm_mount_context: Option<String>,
    /// Options that checkpoint has too.
    pub common: CriuOptions,
}

/// A launched process, still a child of the caller.
#[derive(Debug)]
pub struct Launched {
    /// Pid in the caller's pid namespace.
    pub pid: i32,
    /// Pidfd of the process.
    pub pidfd: Pidfd,
    /// The terminal's master, with [`Console::Caller`] and [`Console::Proxied`].
    pub terminal: Option<OwnedFd>,
    /// The caller's ends of the process's standard input, output and error, with [`Stdio::Proxied`].
    pub pipes: Option<[OwnedFd; 3]>,
    /// The container's notifications, with [`CreateOptions::notify_socket`], after a run that does not detach; the
    /// caller forwards them while it waits.
    pub notify: Option<Notify>,
}

impl Launched {
    /// Waits until the process has exited, and reaps it.
    ///
    /// # Errors
    /// When the process is not a child of this process, or was reaped already.
    pub fn wait(&self) -> Result<ExitStatus> {
        self.pidfd.wait()
    }
}

/// The output of `state` (runtime.md, State, and runc's additions). Fields are serialised in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct State {
    /// The ociVersion of the container's configuration.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// Id of the container.
    pub id: String,
    /// Pid of init; 0 once the container has stopped.
    pub pid: i32,
    /// Status of the container.
    pub status: Status,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// Time of creation, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// The configuration's annotations, sorted; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<std::collections::BTreeMap<String, String>>,
    /// Name of the user that owns the container.
    pub owner: String,
}
