//! One container of the shim: its verbs, and the order of its events.
//!
//! No lock is held across a slow call except where two calls must not overlap:
//!
//! | lock | holders | purpose |
//! |---|---|---|
//! | `lifecycle` | start, pause, resume, update, checkpoint and delete of init | they run one after the other |
//! | `freezing` | pause exclusively; starts of execs shared | the freezer does not stop an exec that is half started |
//! | `calls` | calls of the runtime shared; a completed deletion exclusively | its answer is the last: the daemon hangs up after it |
//!
//! kill, state, pids, stats, wait, exec and resize take neither of the first two. The wait for a lock ends when the
//! caller goes ([`calls`]).
//!
//! The exit of a process is published after its start, and init's after those of all execs
//! (`Task::publish_init_exit`).

mod context;
mod exec;
mod launch;
mod restore;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::{CheckpointOptions, Status};
use containerd_shim_protos::events::task as events;
use tokio::sync::{Semaphore, oneshot};
use tracing::Instrument;

use crate::calls::{self, unless_abandoned};
use crate::events::timestamp;
use crate::exit_record::ExitRecord;
use crate::io::{Addresses, StdinEnds};
use crate::process::{Phase, Process};
use crate::reaper::Exit;
use crate::rpc_error::not_found;
use crate::runtime::{Checkpoint, CreateRequest, Runtime, blocking};
pub use context::{StreamOptions, TaskContext};
use exec::Exec;
use launch::launch;

/// The time that init may take to exit when a container is deleted that was never started.
const INIT_EXIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time that a deletion waits for calls in progress, which may be of a runtime that hangs.
const CALLS_TIMEOUT: Duration = Duration::from_secs(10);

/// The state that decides whether init's exit may be published.
#[derive(Debug, Default)]
struct PendingExit {
    /// Whether init's start is in progress.
    starting: bool,
    /// The number of execs that are starting or running.
    execs: usize,
    /// Init's exit, until it is published.
    init: Option<Exit>,
    /// Whether init has exited.
    init_exited: bool,
    /// Whether this shim has sent SIGKILL to init, or was about to, before any other sender can have.
    killed: bool,
}

/// The status of a process that was killed by SIGKILL.
const KILLED: u32 = 128 + libc::SIGKILL.cast_unsigned();

/// Whether a container still exists.
#[derive(Debug, Default, PartialEq, Eq)]
enum Existence {
    #[default]
    Present,
    Deleted,
}

/// A container; the module describes it.
#[derive(Debug)]
pub struct Task {
    /// The container's id.
    pub id: String,
    /// The bundle, as the request named it.
    pub bundle: PathBuf,
    /// The runtime that manages it.
    pub runtime: Arc<Runtime>,
    /// The init process.
    pub init: Arc<Process>,
    context: TaskContext,
    /// Whether all processes exit with init.
    own_pids: bool,
    streams: StreamOptions,
    /// The images that the start restores; `None` for a new container, and for one that has been restored.
    checkpoint: Mutex<Option<Checkpoint>>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    pending_exit: Mutex<PendingExit>,
    lifecycle: tokio::sync::Mutex<Existence>,
    freezing: tokio::sync::RwLock<()>,
    calls: tokio::sync::RwLock<()>,
    /// Permits for short calls.
    short: Semaphore,
    /// Permits for starts of execs.
    starts: Semaphore,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No method leaves half a change behind.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The input of [`Task::create`] besides the request.
pub struct Plan {
    /// The runtime of the container.
    pub runtime: Arc<Runtime>,
    /// Whether all processes exit with init.
    pub own_pids: bool,
    /// The set-up of standard streams.
    pub streams: StreamOptions,
    /// The time that a logger may take until it is ready.
    pub ready_timeout: Duration,
    /// The images that the start restores, instead of a request.
    pub checkpoint: Option<Checkpoint>,
    /// The runtime's input; its streams are filled in here.
    pub request: CreateRequest,
}

impl Task {
    /// Creates the container, without publishing it. [`Task::watch`] must follow, with the receiver of init's exit. A
    /// checkpointed container has no process until its start, and no receiver.
    ///
    /// # Errors
    /// Nothing of the container is left; its mounts are the caller's.
    pub async fn create(
        context: &TaskContext,
        plan: Plan,
        addresses: Addresses,
    ) -> Result<(Arc<Task>, Option<oneshot::Receiver<Exit>>)> {
        let Plan { runtime, own_pids, streams, ready_timeout, checkpoint, request } = plan;
        let (id, bundle) = (request.id.clone(), request.bundle.clone());
        let init = Process::new(String::new(), addresses);
        let exit = if checkpoint.is_some() {
            init.set_phase(Phase::Created);
            None
        } else {
            let owner = context.owner(&id, streams, ready_timeout);
            let creator = Arc::clone(&runtime);
            let create = move |streams| creator.create(CreateRequest { streams, ..request });
            let (process, copying) = launch(&context.reaper, &init.addresses, owner, false, create)
                .await
                .context("OCI runtime create failed")?;
            init.launched(Phase::Created, &process, copying);
            Some(process.exit)
        };
        let task = Task {
            id,
            bundle,
            runtime,
            init: Arc::new(init),
            context: context.clone(),
            own_pids,
            streams,
            checkpoint: Mutex::new(checkpoint),
            execs: Mutex::default(),
            pending_exit: Mutex::default(),
            lifecycle: tokio::sync::Mutex::default(),
            freezing: tokio::sync::RwLock::default(),
            calls: tokio::sync::RwLock::default(),
            short: Semaphore::new(calls::MAX_SHORT_CALLS),
            starts: Semaphore::new(calls::MAX_EXEC_STARTS),
        };
        Ok((Arc::new(task), exit))
    }

    /// Waits for init's exit in the background. Must follow the publication of the request.
    pub fn watch(self: &Arc<Self>, exit: oneshot::Receiver<Exit>) {
        let task = Arc::clone(self);
        let watching = async move {
            let exit = exit.await.unwrap_or_else(|_| Exit::now(255));
            ExitRecord::write(&task.bundle, "", task.init.pid(), exit);
            let killed = {
                let mut pending_exit = lock(&task.pending_exit);
                pending_exit.init_exited = true;
                exit.status == KILLED && !pending_exit.killed
            };
            // At once, because systemd removes a scope's cgroup as soon as it is empty, and its counts with it.
            task.context.oom.check_exited(&task.id, killed);
            if !task.own_pids
                && let Err(error) = task.run_verb(|runtime, id| runtime.kill(id, libc::SIGKILL, true)).await
                && !matches!(error.kind(), ErrorKind::NotRunning | ErrorKind::NotFound)
            {
                tracing::warn!(id = task.id, "processes may be left after init's exit: {error}");
            }
            task.init.wait_output_read().await;
            lock(&task.pending_exit).init = Some(exit);
            task.publish_init_exit();
        };
        tokio::spawn(watching.in_current_span());
    }

    /// Runs a short verb of the runtime, of which few run at the same time.
    async fn run_short_verb<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Runtime, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _permit = calls::acquire(&self.short).await?;
        self.run_verb(verb).await
    }

    /// Runs a verb of the runtime under `lifecycle`, which excludes others of its kind.
    async fn run_verb<T: Send + 'static>(
        &self,
        verb: impl FnOnce(&Runtime, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _call = unless_abandoned(self.calls.read()).await?;
        let (runtime, id) = (Arc::clone(&self.runtime), self.id.clone());
        blocking(&self.context.reaper, move || verb(&runtime, &id)).await
    }

    /// Publishes init's exit, unless its start or an exec's exit must precede it.
    fn publish_init_exit(&self) {
        let exit = {
            let mut pending_exit = lock(&self.pending_exit);
            if pending_exit.starting || pending_exit.execs > 0 {
                return;
            }
            pending_exit.init.take()
        };
        if let Some(exit) = exit {
            self.publish_exit(&self.id, &self.init, exit);
        }
    }

    fn publish_exit(&self, id: &str, process: &Process, exit: Exit) {
        self.context.oom.publish_pending(&self.id);
        self.context.publisher.publish(events::TaskExit {
            container_id: self.id.clone(),
            id: id.to_owned(),
            pid: process.pid().cast_unsigned(),
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        });
        process.set_exited(exit);
    }

    /// Starts init.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] unless it was created and has not been started.
    pub async fn start(self: &Arc<Self>, ready_timeout: Duration) -> Result<i32> {
        let _lifecycle = unless_abandoned(self.lifecycle.lock()).await?;
        self.init.begin(Phase::Created)?;
        lock(&self.pending_exit).starting = true;
        let checkpoint = lock(&self.checkpoint).clone();
        let result = match checkpoint {
            Some(checkpoint) => self.restore(checkpoint, ready_timeout).await.context("OCI runtime restore failed"),
            None => match self.open_stdin().await {
                Ok(()) => self.run_verb(Runtime::start).await.context("OCI runtime start failed"),
                Err(error) => Err(error),
            },
        };
        let pid = self.init.pid();
        match &result {
            Ok(()) => {
                self.init.set_phase(Phase::Running);
                self.context.publisher.publish(events::TaskStart {
                    container_id: self.id.clone(),
                    pid: pid.cast_unsigned(),
                    ..Default::default()
                });
            }
            Err(_) => self.init.set_phase(Phase::Created),
        }
        lock(&self.pending_exit).starting = false;
        self.publish_init_exit();
        result.map(|()| pid)
    }

    /// Opens init's standard input.
    async fn open_stdin(&self) -> Result<()> {
        let Some(path) = self.init.unopened_stdin() else { return Ok(()) };
        let ends = blocking(&self.context.reaper, move || StdinEnds::open(&path)).await?;
        self.init.copy_stdin(ends)
    }

    /// Calls `f` with the process of this exec, or with init.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for an unknown exec.
    pub fn with_process<T>(&self, exec_id: &str, f: impl FnOnce(&Process) -> T) -> Result<T> {
        if exec_id.is_empty() {
            return Ok(f(&self.init));
        }
        let exec = self.exec(exec_id)?;
        Ok(f(&exec.process))
    }

    /// Sends a signal to a process, or with `all` to every process of the container.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::NoSuchProcess`] when it has exited.
    pub async fn kill(&self, exec_id: &str, signal: i32, all: bool) -> Result<()> {
        if !exec_id.is_empty() {
            return self.exec(exec_id)?.process.signal(signal);
        }
        let gone = |error: Error| match error.kind() {
            ErrorKind::NotRunning => Error::new(ErrorKind::NoSuchProcess, "process already finished"),
            _ => error,
        };
        if !all && self.init.phase() == Phase::Stopped {
            return Err(Error::new(ErrorKind::NoSuchProcess, "process already finished"));
        }
        if signal == libc::SIGKILL && !self.context.oom.check_before_kill(&self.id) {
            lock(&self.pending_exit).killed = true;
        }
        self.run_short_verb(move |runtime, id| runtime.kill(id, signal, all)).await.map_err(gone)
    }

    /// Removes the container, whose init has exited or was never started. A completed part is not repeated when a later
    /// one fails, and a second attempt continues from there. `forget` frees the id; the deletion is published after it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] while it is running, [`ErrorKind::NotFound`] when it has been deleted.
    pub async fn delete(&self, forget: impl FnOnce() + Send) -> Result<(i32, Exit)> {
        // At once, because the holder of the lock may be slow, such as a start with its hooks.
        self.refuse_while_running()?;
        let mut existence = unless_abandoned(self.lifecycle.lock()).await?;
        if *existence == Existence::Deleted {
            return Err(not_found("container", &self.id));
        }
        self.refuse_while_running()?;
        // The removal of the cgroup removes its counts too.
        self.context.oom.publish_pending(&self.id);
        let bundle = self.bundle.clone();
        self.run_verb(move |runtime, id| runtime.delete_stopped(id, &bundle))
            .await
            .context("OCI runtime delete failed")?;
        if self.init.pid() == 0 {
            // A container that was checkpointed and never restored.
            self.init.set_exited(Exit::now(0));
        }
        let late = |_| Error::new(ErrorKind::TimedOut, format!("init did not exit within {INIT_EXIT_TIMEOUT:?}"));
        let exit = tokio::time::timeout(INIT_EXIT_TIMEOUT, self.init.wait()).await.map_err(late)?;
        self.init.drain().await;
        let rootfs = self.bundle.join("rootfs");
        blocking(&self.context.reaper, move || brig_engine::root_mounts::unmount(&rootfs)).await?;
        let pid = self.init.pid();
        self.context.oom.forget(&self.id);
        *existence = Existence::Deleted;
        forget();
        self.context.publisher.publish(events::TaskDelete {
            container_id: self.id.clone(),
            pid: pid.cast_unsigned(),
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        });
        // No further call finds the container. A kill is still in progress where its thread has not run since the
        // signal was sent.
        if tokio::time::timeout(CALLS_TIMEOUT, self.calls.write()).await.is_err() {
            tracing::warn!(id = self.id, "calls of the deleted container are still running after {CALLS_TIMEOUT:?}");
        }
        Ok((pid, exit))
    }

    fn refuse_while_running(&self) -> Result<()> {
        match self.init.phase() {
            Phase::Starting | Phase::Running => {
                Err(Error::new(ErrorKind::InvalidState, format!("container {} is running", self.id)))
            }
            Phase::Added | Phase::Created | Phase::Stopped => Ok(()),
        }
    }

    /// Freezes the container.
    pub async fn pause(&self) -> Result<()> {
        let _lifecycle = unless_abandoned(self.lifecycle.lock()).await?;
        let _freezing = unless_abandoned(self.freezing.write()).await?;
        self.run_verb(Runtime::pause).await.context("OCI runtime pause failed")?;
        self.context.publisher.publish(events::TaskPaused { container_id: self.id.clone(), ..Default::default() });
        Ok(())
    }

    /// Thaws the container.
    pub async fn resume(&self) -> Result<()> {
        let _lifecycle = unless_abandoned(self.lifecycle.lock()).await?;
        self.run_verb(Runtime::resume).await.context("OCI runtime resume failed")?;
        self.context.publisher.publish(events::TaskResumed { container_id: self.id.clone(), ..Default::default() });
        Ok(())
    }

    /// Updates the container's limits: LinuxResources, as JSON.
    pub async fn update(&self, resources: Vec<u8>) -> Result<()> {
        let _lifecycle = unless_abandoned(self.lifecycle.lock()).await?;
        self.run_verb(move |runtime, id| runtime.update(id, &resources)).await.context("OCI runtime update failed")
    }

    /// Checkpoints the container.
    pub async fn checkpoint(&self, options: CheckpointOptions) -> Result<()> {
        let _lifecycle = unless_abandoned(self.lifecycle.lock()).await?;
        let _freezing = unless_abandoned(self.freezing.write()).await?;
        let checkpoint = options.images.to_string_lossy().into_owned();
        let written = self.run_verb(move |runtime, id| runtime.checkpoint(id, &options));
        written.await.context("OCI runtime checkpoint failed")?;
        let container_id = self.id.clone();
        self.context.publisher.publish(events::TaskCheckpointed { container_id, checkpoint, ..Default::default() });
        Ok(())
    }

    /// The current status of a process.
    pub async fn status(&self, exec_id: &str) -> Result<Status> {
        let phase = self.with_process(exec_id, Process::phase)?;
        match phase {
            Phase::Added | Phase::Starting | Phase::Created => Ok(Status::Created),
            Phase::Stopped => Ok(Status::Stopped),
            Phase::Running if !exec_id.is_empty() => Ok(Status::Running),
            Phase::Running => match self.run_short_verb(Runtime::status).await {
                Ok((Status::Paused, _)) => Ok(Status::Paused),
                // The exit alone reports an exited process, and may be on its way.
                _ if self.init.phase() == Phase::Stopped => Ok(Status::Stopped),
                Ok(_) => Ok(Status::Running),
                Err(error) => Err(error),
            },
        }
    }

    /// The pids of all processes, and the exec that each is the first process of. Init's is listed until Delete: a
    /// daemon that restarts and gets no pid takes the task for leaked, and its exit is lost.
    pub async fn pids(&self) -> Result<Vec<(i32, Option<String>)>> {
        let mut pids = match self.run_short_verb(Runtime::pids).await {
            // The container has stopped and is partly deleted.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        if pids.is_empty() {
            pids.extend(Some(self.init.pid()).filter(|pid| *pid != 0));
        }
        let execs = lock(&self.execs);
        let running = execs.values().filter(|exec| exec.process.phase() == Phase::Running);
        let by_pid: HashMap<i32, &str> =
            running.map(|exec| (exec.process.pid(), exec.process.exec_id.as_str())).collect();
        Ok(pids.into_iter().map(|pid| (pid, by_pid.get(&pid).map(|id| (*id).to_owned()))).collect())
    }

    /// The container's statistics, in containerd's message.
    pub async fn stats(&self) -> Result<protobuf::well_known_types::any::Any> {
        self.run_short_verb(|runtime, id| crate::stats::metrics(&runtime.stats(id)?)).await
    }

    /// Waits for the exit of a process, also while it is deleted.
    pub async fn wait(&self, exec_id: &str) -> Result<Exit> {
        if exec_id.is_empty() {
            let init = Arc::clone(&self.init);
            return Ok(init.wait().await);
        }
        let exec = self.exec(exec_id)?;
        Ok(exec.process.wait().await)
    }

    /// Describes the state of the container and its processes, for the log.
    pub fn describe(&self) -> String {
        use std::fmt::Write;
        let mut text = format!("container {}: init {} {:?}", self.id, self.init.pid(), self.init.phase());
        // Writing to a string cannot fail.
        let _ = write!(text, ", {:?}", lock(&self.pending_exit));
        for exec in lock(&self.execs).values() {
            let process = &exec.process;
            let _ = write!(text, "; exec {} {} {:?}", process.exec_id, process.pid(), process.phase());
        }
        let free = (self.short.available_permits(), self.starts.available_permits());
        let _ = write!(
            text,
            "; free: {} of {} short calls, {} of {} starts of execs",
            free.0,
            calls::MAX_SHORT_CALLS,
            free.1,
            calls::MAX_EXEC_STARTS
        );
        text
    }
}
