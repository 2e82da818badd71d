//! The verbs: one function of the engine for each of the command's.

mod bundle;
mod checkpoint;
mod create;
mod delete;
mod describe;
mod exec;
mod inspect;
mod joined;
mod limits;
mod listener;
mod notify;
mod record;
mod restore;
mod signal;
mod terminal;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::io::Errno;

use crate::cgroup::{Cgroup, Frozen};
use crate::error::{Error, ErrorKind, Result};
use crate::launch::gate::{self, Before};
use crate::state::{Facts, InitState, Record, Verb, allow};
use crate::store::{self, Entry};
use brig_plan::cgroup::settle_zero_pids;
use brig_sys::process;
use brig_sys::procfs::Proc;

pub use crate::options::*;
pub use crate::state::Status;
pub use brig_plan::cgroup::CgroupManager;
pub use notify::Notify;

/// The engine over one root directory. An engine has no state of its own: any number of engines, in any processes,
/// may share a root.
#[derive(Clone, Debug)]
pub struct Engine {
    root: PathBuf,
    manager: CgroupManager,
    /// See [`Engine::resident`].
    is_resident: bool,
}

/// A container with its record.
struct Container {
    id: String,
    entry: Entry,
    record: Record,
}

impl Engine {
    /// Creates an engine that stores its records below `root`. `manager` is for containers that this engine creates;
    /// other verbs use the manager on record.
    pub fn new(root: PathBuf, manager: CgroupManager) -> Engine {
        Engine { root, manager, is_resident: false }
    }

    /// Marks the engine as that of a process that outlives its calls, such as a supervisor. Such a process watches
    /// its containers itself ([`Engine::oom_watch`]) and has read the OOM killer's counters before it calls delete,
    /// so that delete does not wait for other readers; and the sealed image of this program is kept open between
    /// calls of create and exec.
    pub fn resident(self) -> Engine {
        Engine { is_resident: true, ..self }
    }

    fn load(&self, id: &str) -> Result<Container> {
        read(id, store::open(&self.root, id)?)
    }

    /// Loads the container under its lock, so that no other verb changes it meanwhile.
    fn load_locked(&self, id: &str) -> Result<Container> {
        let entry = store::open(&self.root, id)?;
        entry.lock()?;
        // The previous holder of the lock may have deleted the container.
        if !entry.is_current()? {
            return Err(store::missing(entry.path()));
        }
        read(id, entry)
    }

    /// Starts the program of a created container.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] unless it is in the state `created`.
    pub fn start(&self, id: &str) -> Result<()> {
        self.open_gate(id, |_| Ok(())).map(|_| ())
    }

    /// Like [`Engine::start`]; then waits until the container sends READY, or exits, and notifies `manager`, the
    /// caller's NOTIFY_SOCKET. Does not wait for a container that was created without a NOTIFY_SOCKET.
    ///
    /// # Errors
    /// As for start; and when the service manager cannot be notified, while the container runs.
    pub fn start_and_notify(&self, id: &str, manager: &Path) -> Result<()> {
        let (container, notify) = self.open_gate(id, |container| Notify::bind(container.entry.path(), manager))?;
        let (init, pid) = (container.init()?, container.record.init_process_pid);
        // The lock is not held while the container starts up.
        drop(container);
        match (notify, init) {
            (Some(notify), Some(init)) => notify.wait_and_notify(init.as_fd(), pid),
            _ => Ok(()),
        }
    }

    fn open_gate<T>(&self, id: &str, before: impl FnOnce(&Container) -> Result<T>) -> Result<(Container, T)> {
        let container = self.load_locked(id)?;
        allow(Verb::Start, container.status()?, id)?;
        let result = before(&container)?;
        // Callers observe the container from the return of this call on: nothing slow may stand between the opening
        // of the gate and the return.
        let poststart = match container.record.hooks.poststart {
            true => create::Poststart::from_spec(&container.spec()?, &container.record),
            false => None,
        };
        let opened = gate::open(&container.entry.gate_path())?;
        if container.record.hooks.start_container || poststart.is_some() {
            // Hooks may run long; the lock is released, so that delete need not wait for them.
            container.entry.unlock()?;
            let before = if container.record.hooks.start_container { Before::Hooks } else { Before::Exec };
            let started = opened.wait_executed(before).and_then(|()| poststart.map_or(Ok(()), |hooks| hooks.run()));
            if let Err(error) = started {
                container.destroy();
                return Err(error);
            }
        }
        Ok((container, result))
    }

    /// Freezes every process of the container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id, [`ErrorKind::NotRunning`] unless the container is created or running,
    /// [`ErrorKind::Unsupported`] without a freezer.
    pub fn pause(&self, id: &str) -> Result<()> {
        let container = self.load_locked(id)?;
        allow(Verb::Pause, container.status()?, id)?;
        container.cgroup().freeze()
    }

    /// Thaws the processes of a paused container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id, [`ErrorKind::InvalidState`] unless the container is paused.
    pub fn resume(&self, id: &str) -> Result<()> {
        let container = self.load_locked(id)?;
        allow(Verb::Resume, container.status()?, id)?;
        container.cgroup().thaw()
    }

    /// Changes the limits that `resources` names, and keeps the others. A refused change leaves all limits as they
    /// were.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown id, [`ErrorKind::NotRunning`] once the container has stopped; else a message
    /// that names the limit that the kernel refuses.
    pub fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        let mut container = self.load_locked(id)?;
        allow(Verb::Update, container.status()?, id)?;
        let Container { entry, record, .. } = &mut container;
        let mut cgroup = Cgroup::from_record(&record.cgroup);
        let mut resources = resources.clone();
        settle_zero_pids(&mut resources, &record.oci_version);
        cgroup.update_and_persist(&resources, |kept| {
            record.cgroup.clone_from(kept);
            entry.write_record(record)
        })?;
        Ok(())
    }
}

impl Engine {
    /// Changes lines of the schemata of the container's resctrl group (`L3:...`, `MB:...`).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] for a container without linux.intelRdt.
    pub fn update_schemata(&self, id: &str, lines: &[String]) -> Result<()> {
        let container = self.load_locked(id)?;
        allow(Verb::Update, container.status()?, id)?;
        match &container.record.intel_rdt {
            Some(group) => group.update(lines),
            None => Err(Error::new(ErrorKind::InvalidState, "the container was made without linux.intelRdt")),
        }
    }
}

fn read(id: &str, entry: Entry) -> Result<Container> {
    match entry.read_record()? {
        Some(record) => Ok(Container { id: id.to_owned(), entry, record }),
        // create has just begun, or was killed early: only delete has something to remove.
        None => Err(store::missing(entry.path())),
    }
}

impl Container {
    /// Stops and deletes the container, with its poststop hooks, after a start hook has failed (runtime.md,
    /// Lifecycle). The caller gets that hook's error; errors of the cleanup are warnings, and delete can be called
    /// again.
    fn destroy(&self) {
        let destroyed = self.entry.lock().and_then(|()| self.entry.is_current()).and_then(|is_current| {
            if !is_current {
                // Another delete came first.
                return Ok(());
            }
            let init = self.init()?;
            self.kill_all(Status::Running, init)?;
            self.forget(false)
        });
        if let Err(error) = destroyed {
            tracing::warn!("unable to clean up: {error}");
        }
    }

    fn cgroup(&self) -> Cgroup {
        Cgroup::from_record(&self.record.cgroup)
    }

    /// The configuration as create read it.
    fn spec(&self) -> Result<Spec> {
        Ok(brig_plan::config::parse(&self.entry.read_config()?)?.0)
    }

    /// A pidfd of init; `None` if init has exited. The start time is compared after the pidfd is open, and therefore
    /// holds for it.
    fn init(&self) -> Result<Option<OwnedFd>> {
        let pid = self.record.init_process_pid;
        if pid <= 0 {
            return Ok(None);
        }
        let pidfd = match process::pidfd_open(pid) {
            // EINVAL: the pid is still that of a process group or session whose leader has exited.
            Err(error) if matches!(error.errno(), Errno::SRCH | Errno::INVAL) => return Ok(None),
            other => other?,
        };
        let stat = Proc::open()?.pid_stat(pid)?;
        let same =
            |stat: &brig_sys::procfs::PidStat| stat.start_time == self.record.init_process_start && !stat.has_exited();
        Ok(stat.filter(same).map(|_| pidfd))
    }

    fn status(&self) -> Result<Status> {
        Ok(self.status_and_init()?.0)
    }

    /// The status and [`Container::init`], of the same moment.
    fn status_and_init(&self) -> Result<(Status, Option<OwnedFd>)> {
        self.status_frozen_and_init().map(|(status, _, init)| (status, init))
    }

    /// The same, with what freezes the processes: a cgroup above the container's does not make it paused on v1.
    fn status_frozen_and_init(&self) -> Result<(Status, Frozen, Option<OwnedFd>)> {
        let init = self.init()?;
        let (state, frozen) = match &init {
            Some(_) => (InitState::Alive, self.cgroup().frozen()?),
            None if self.record.init_process_pid == 0 && self.entry.is_locked()? => {
                (InitState::BeingCreated, Frozen::No)
            }
            None => (InitState::Exited, Frozen::No),
        };
        let facts = Facts { init: state, gate: self.entry.has_gate(), frozen: frozen == Frozen::Own };
        Ok((Status::derive(facts), frozen, init))
    }
}

/// Makes `path` absolute against the working directory, without resolving symlinks.
fn absolute(path: &Path) -> Result<PathBuf> {
    use crate::error::Context;
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let path = std::path::absolute(path).with_context(|| format!("unable to make {} absolute", path.display()))?;
    Ok(brig_plan::mounts::clean(&path))
}

/// Sends a process's pidfd over the unix socket at `path`.
fn send_pidfd(path: &Path, pidfd: &OwnedFd) -> Result<()> {
    use crate::error::Context;
    let unable = || format!("unable to send the pidfd over {}", path.display());
    let socket = brig_sys::socket::connect(path).with_context(unable)?;
    brig_sys::socket::send(socket.as_fd(), b"pidfd", &[pidfd.as_fd()]).with_context(unable)
}

/// Publishes a new process: its pidfd over the socket, then the pid file. The pid file comes last, because a reader
/// may use the container at once; it is renamed into place, so that no reader sees half of it.
fn announce(child: &process::Child, pidfd_socket: Option<&Path>, pid_file: Option<&Path>) -> Result<()> {
    if let Some(path) = pidfd_socket {
        send_pidfd(path, &child.pidfd)?;
    }
    match pid_file {
        Some(path) => store::replace(path, child.pid.to_string().as_bytes(), 0o644),
        None => Ok(()),
    }
}
