//! What the verbs take and give. Paths are as the caller wrote them; the engine makes them absolute.
#![forbid(unsafe_code)]

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::Serialize;

use super::Notify;
use crate::state::Status;

/// Where a new process's standard input, output and error come from.
#[derive(Debug, Default)]
pub enum Stdio {
    /// The caller's own 0, 1 and 2.
    #[default]
    Inherit,
    /// These three, in this order.
    Fds([OwnedFd; 3]),
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
    /// The configuration, when it is not BUNDLE/config.json.
    pub config: Option<PathBuf>,
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
    /// With [`CreateOptions::notify_socket`], after a run that does not detach: to be read while the caller waits.
    pub notify: Option<Notify>,
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
