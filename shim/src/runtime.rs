//! The runtime of a container: brig's engine, or another OCI runtime that BinaryName names.
//!
//! Calls block, so each runs on a thread of its own and holds the reaper: a call may start processes of its own.

mod foreign;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use brig_engine::cgroup::{OomWatch, Stats};
use brig_engine::config::parse_resources;
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::process::Pidfd;
use brig_engine::{
    CgroupManager, CheckpointOptions, Console, CreateOptions, Engine, ExecOptions, Launched, ProcessSource,
    RestoreOptions, Status, Stdio,
};
use tokio::sync::oneshot;

use crate::bundle::RuntimeRecord;
use crate::reaper::{Exit, Reaper};
use foreign::Foreign;

/// The directory of records when the options name no root; the namespace is appended to either.
const DEFAULT_ROOT: &str = "/run/containerd/brig";

/// The standard streams of a new process.
#[derive(Debug)]
pub enum Streams {
    /// A terminal, whose master is returned in [`Launched::terminal`].
    Terminal,
    /// Descriptors of stdin, stdout and stderr.
    Fds([OwnedFd; 3]),
}

/// A launched process whose exit is watched.
#[derive(Debug)]
pub struct Watched {
    /// Pid in the pid namespace of the shim.
    pub pid: i32,
    /// Pidfd, which the reaper shares.
    pub pidfd: Arc<Pidfd>,
    /// The terminal's master, with [`Streams::Terminal`].
    pub terminal: Option<OwnedFd>,
    /// Receives the exit.
    pub exit: oneshot::Receiver<Exit>,
}

/// The arguments of a create.
#[derive(Debug)]
pub struct CreateRequest {
    /// The container's id.
    pub id: String,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The standard streams of init.
    pub streams: Streams,
    /// Whether pivot_root is avoided.
    pub no_pivot: bool,
    /// Whether the session keyring is kept.
    pub no_new_keyring: bool,
}

/// A checkpoint on disk.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The directory of CRIU's images.
    pub images: PathBuf,
    /// The directory of CRIU's log; empty for that of the images.
    pub work: PathBuf,
}

/// The arguments of a restore.
#[derive(Debug)]
pub struct RestoreRequest {
    /// The container's id.
    pub id: String,
    /// The container's bundle.
    pub bundle: PathBuf,
    /// The checkpoint to restore.
    pub checkpoint: Checkpoint,
    /// The standard streams of init, replacing those that were pipes.
    pub streams: Streams,
}

/// The arguments of an exec.
#[derive(Debug)]
pub struct ExecRequest {
    /// The container's id.
    pub id: String,
    /// The OCI process object, as JSON.
    pub process: Vec<u8>,
    /// The standard streams of the process.
    pub streams: Streams,
    /// The file that receives the pid.
    pub pid_file: PathBuf,
}

/// The runtime that manages a container.
#[derive(Debug)]
pub enum Runtime {
    /// brig's engine, in this process.
    Engine(Engine),
    /// Another runtime's command.
    Foreign(Foreign),
}

impl Runtime {
    /// Selects the runtime for new containers of `namespace`, and returns the record that `delete` needs to find it
    /// again. `root` and `binary` are those of the options, or empty.
    pub fn choose(namespace: &str, root: &str, binary: &str, systemd_cgroup: bool) -> RuntimeRecord {
        let root = if root.is_empty() { DEFAULT_ROOT } else { root };
        let ours = binary.is_empty() || Path::new(binary).file_name().is_some_and(|name| name == "brig");
        RuntimeRecord {
            root: Path::new(root).join(namespace).to_string_lossy().into_owned(),
            binary: if ours { String::new() } else { binary.to_owned() },
            systemd_cgroup,
        }
    }

    /// The runtime of the container of `bundle`.
    pub fn new(record: &RuntimeRecord, bundle: &Path) -> Runtime {
        let root = PathBuf::from(&record.root);
        if record.binary.is_empty() {
            let manager = if record.systemd_cgroup { CgroupManager::Systemd } else { CgroupManager::default() };
            Runtime::Engine(Engine::new(root, manager).resident())
        } else {
            let (binary, log) = (record.binary.clone().into(), bundle.join("log.json"));
            Runtime::Foreign(Foreign { binary, root, systemd_cgroup: record.systemd_cgroup, log })
        }
    }

    /// Creates a container that waits for [`Runtime::start`].
    pub fn create(&self, request: CreateRequest) -> Result<Launched> {
        match self {
            Runtime::Engine(engine) => {
                let (console, stdio) = console(request.streams);
                let pid_file = Some(request.bundle.join("init.pid"));
                let CreateRequest { id, bundle, no_pivot, no_new_keyring, .. } = request;
                let options = CreateOptions {
                    bundle,
                    console,
                    stdio,
                    pid_file,
                    no_pivot,
                    no_new_keyring,
                    detach: true,
                    ..CreateOptions::default()
                };
                engine.create(&id, options)
            }
            Runtime::Foreign(foreign) => foreign.create(request),
        }
    }

    /// Restores a checkpointed container, which is running on return.
    pub fn restore(&self, request: RestoreRequest) -> Result<Launched> {
        match self {
            Runtime::Engine(engine) => {
                let RestoreRequest { id, bundle, checkpoint, streams } = request;
                let (console, stdio) = console(streams);
                let pid_file = Some(bundle.join("init.pid"));
                let Checkpoint { images, work } = checkpoint;
                let options =
                    RestoreOptions { bundle, images, work, console, pid_file, stdio, ..RestoreOptions::default() };
                engine.restore(&id, options)
            }
            Runtime::Foreign(foreign) => foreign.restore(request),
        }
    }

    /// Starts the container's program.
    pub fn start(&self, id: &str) -> Result<()> {
        match self {
            Runtime::Engine(engine) => engine.start(id),
            Runtime::Foreign(foreign) => foreign.run(&["start", id]),
        }
    }

    /// Starts a further process in the container.
    pub fn exec(&self, request: ExecRequest) -> Result<Launched> {
        match self {
            Runtime::Engine(engine) => {
                let (console, stdio) = console(request.streams);
                let options = ExecOptions {
                    process: Some(ProcessSource::Json(request.process)),
                    console,
                    stdio,
                    pid_file: Some(request.pid_file),
                    detach: true,
                    stall_timeout: ExecOptions::stall_timeout_of_environment()?,
                    ..ExecOptions::default()
                };
                // The prefix is the one of another runtime's command.
                engine.exec(&request.id, options).context("exec failed")
            }
            Runtime::Foreign(foreign) => foreign.exec(request),
        }
    }

    /// Sends a signal to init, or to all.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        match self {
            Runtime::Engine(engine) => engine.kill(id, signal, all),
            Runtime::Foreign(foreign) => foreign.kill(id, signal, all),
        }
    }

    /// Removes the container; with `force` kills it first. One that is gone is a success.
    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        let result = match self {
            Runtime::Engine(engine) => engine.delete(id, force),
            Runtime::Foreign(foreign) => foreign.delete(id, force),
        };
        match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes a container whose init has exited or was never started, and remains of an earlier attempt.
    pub fn delete_stopped(&self, id: &str, bundle: &Path) -> Result<()> {
        match self {
            // Once the record is gone, which is removed first, only `force` finds the rest.
            Runtime::Engine(_) => self.delete_own(id, bundle),
            Runtime::Foreign(_) => self.delete(id, false),
        }
    }

    /// Kills and removes the container of this id if it is this bundle's: another daemon may have one of the same id.
    pub fn delete_own(&self, id: &str, bundle: &Path) -> Result<()> {
        match self.status(id) {
            Ok((_, of)) if !is_same_directory(&of, bundle) => {
                tracing::warn!(id, "not removed: the container of this id belongs to the bundle {}", of.display());
                Ok(())
            }
            // A half-created container has no state; a create in progress holds its lock.
            _ => self.delete(id, true),
        }
    }

    /// Freezes the container.
    pub fn pause(&self, id: &str) -> Result<()> {
        match self {
            Runtime::Engine(engine) => engine.pause(id),
            Runtime::Foreign(foreign) => foreign.run(&["pause", id]),
        }
    }

    /// Thaws the container.
    pub fn resume(&self, id: &str) -> Result<()> {
        match self {
            Runtime::Engine(engine) => engine.resume(id),
            Runtime::Foreign(foreign) => foreign.run(&["resume", id]),
        }
    }

    /// The container's current status, and its bundle.
    pub fn status(&self, id: &str) -> Result<(Status, PathBuf)> {
        match self {
            Runtime::Engine(engine) => engine.state(id).map(|state| (state.status, state.bundle)),
            Runtime::Foreign(foreign) => foreign.status(id),
        }
    }

    /// The pids of all processes of the container.
    pub fn pids(&self, id: &str) -> Result<Vec<i32>> {
        match self {
            Runtime::Engine(engine) => engine.ps(id),
            Runtime::Foreign(foreign) => foreign.pids(id),
        }
    }

    /// Checkpoints the container to a directory, and removes it unless the options leave it running.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()> {
        match self {
            Runtime::Engine(engine) => engine.checkpoint(id, options),
            Runtime::Foreign(foreign) => foreign.checkpoint(id, options),
        }
    }

    /// Reads the statistics of the container's cgroup.
    pub fn stats(&self, id: &str) -> Result<Stats> {
        match self {
            Runtime::Engine(engine) => engine.stats(id),
            Runtime::Foreign(foreign) => foreign.stats(id),
        }
    }

    /// Watches for OOM kills; `None` without a memory controller.
    pub fn oom_watch(&self, id: &str) -> Result<Option<OomWatch>> {
        match self {
            Runtime::Engine(engine) => engine.oom_watch(id),
            Runtime::Foreign(foreign) => foreign.oom_watch(id),
        }
    }

    /// Updates the container's limits; `resources` is LinuxResources as JSON.
    pub fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        match self {
            Runtime::Engine(engine) => {
                let resources = parse_resources(resources)?;
                resources.warnings.iter().for_each(|warning| tracing::warn!(id, "update: {warning}"));
                engine.update(id, &resources.value)
            }
            Runtime::Foreign(foreign) => foreign.update(id, resources),
        }
    }
}

/// Whether two paths lead to the same directory; a directory that is gone is compared by its path alone.
fn is_same_directory(one: &Path, other: &Path) -> bool {
    one == other
        || std::fs::canonicalize(one).is_ok_and(|one| std::fs::canonicalize(other).is_ok_and(|other| one == other))
}

fn console(streams: Streams) -> (Console, Stdio) {
    match streams {
        Streams::Terminal => (Console::Caller, Stdio::Inherit),
        Streams::Fds(fds) => (Console::None, Stdio::Fds(fds)),
    }
}

/// Runs a blocking call on a thread of its own, holding the reaper meanwhile. The caller bounds the number of such
/// calls ([`crate::calls`]).
///
/// # Errors
/// The errors of `call`.
pub async fn blocking<T: Send + 'static>(
    reaper: &Arc<Reaper>,
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let _hold = reaper.hold();
    on_thread(call).await
}

/// Runs a blocking call that starts a process, like [`blocking`], and watches the process's exit from its start.
pub async fn launching<T: Send + 'static>(
    reaper: &Arc<Reaper>,
    call: impl FnOnce() -> Result<(Launched, T)> + Send + 'static,
) -> Result<(Watched, T)> {
    let hold = reaper.hold();
    let (launched, more) = on_thread(call).await?;
    let (pid, pidfd) = (launched.pid, Arc::new(launched.pidfd));
    let exit = reaper.watch(&hold, pid, Arc::clone(&pidfd));
    Ok((Watched { pid, pidfd, terminal: launched.terminal, exit }, more))
}

async fn on_thread<T: Send + 'static>(call: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    // Attributes what the engine logs on that thread to the container of the call.
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(call)).await {
        Ok(result) => result,
        Err(error) => Err(Error::other(format!("the call did not end: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_by_another_name_is_the_same() {
        let bundle = tempfile::tempdir().unwrap();
        let name = bundle.path().file_name().unwrap();
        assert!(is_same_directory(&bundle.path().join("..").join(name), bundle.path()));
        assert!(!is_same_directory(Path::new("/"), bundle.path()));
        assert!(is_same_directory(Path::new("/nowhere"), Path::new("/nowhere")));
        assert!(!is_same_directory(Path::new("/nowhere"), Path::new("/nor/here")));
    }

    #[test]
    fn a_binary_name_of_brig_s_own_is_the_engine() {
        for ours in ["", "brig", "/usr/local/sbin/brig"] {
            let record = Runtime::choose("default", "", ours, false);
            assert_eq!(record.root, "/run/containerd/brig/default");
            assert!(matches!(Runtime::new(&record, Path::new("/b")), Runtime::Engine(_)), "{ours}");
        }
        let record = Runtime::choose("moby", "/run/r", "/usr/sbin/runc", true);
        assert_eq!((record.root.as_str(), record.binary.as_str()), ("/run/r/moby", "/usr/sbin/runc"));
        assert!(matches!(Runtime::new(&record, Path::new("/b")), Runtime::Foreign(_)));
    }
}
