//! All containers of this shim.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::root_mounts;
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as events;
use containerd_shim_protos::types::mount::Mount;
use protobuf::MessageField;
use tokio::sync::{Notify, Semaphore};

use crate::bundle::BundleConfig;
use crate::calls;
use crate::events::Publisher;
use crate::exit_record::ExitRecord;
use crate::io::Addresses;
use crate::oom::OomEvents;
use crate::options::{self, Options};
use crate::reaper::{Exit, Reaper};
use crate::rpc_error::not_found;
use crate::runtime::{Checkpoint, CreateRequest, Runtime, Streams, blocking};
use crate::setup;
use crate::task::{Plan, StreamOptions, Task, TaskContext};
use crate::trace::Tracer;

/// The containers of one server.
pub struct Shim {
    /// The parts of the server that containers use.
    pub context: TaskContext,
    /// The tracer of calls.
    pub tracer: Tracer,
    /// Notified when the server must exit.
    pub exiting: Notify,
    tasks: Mutex<Tasks>,
    /// Permits for creates.
    creates: Semaphore,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("namespace", &self.context.namespace).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Tasks {
    by_id: HashMap<String, Slot>,
    /// Whether the server is exiting: no container is created any more.
    closed: bool,
    /// Whether Shutdown arrived while a container was being created: if the create fails, the server exits.
    exit_if_create_fails: bool,
}

#[derive(Debug)]
enum Slot {
    /// The id is reserved, and the container is being created.
    Creating,
    Created(Arc<Task>),
}

/// A reserved id, until the container exists or this is dropped.
struct Reservation<'a> {
    shim: &'a Shim,
    id: &'a str,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut tasks = self.shim.tasks();
        if matches!(tasks.by_id.get(self.id), Some(Slot::Creating)) {
            tasks.by_id.remove(self.id);
            if tasks.exit_if_create_fails && tasks.by_id.is_empty() {
                tasks.closed = true;
                self.shim.exiting.notify_one();
            }
        }
    }
}

impl Shim {
    /// Creates a shim without containers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(namespace: &str, reaper: Arc<Reaper>, publisher: Publisher, tracer: Tracer) -> Result<Arc<Shim>> {
        let context =
            TaskContext { namespace: namespace.into(), reaper, oom: OomEvents::start(publisher.clone())?, publisher };
        let (tasks, creates) = (Mutex::default(), Semaphore::new(calls::MAX_CREATES));
        Ok(Arc::new(Shim { context, tracer, exiting: Notify::new(), tasks, creates }))
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        // No method leaves half a change behind.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container of this id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also while it is being created.
    pub fn task(&self, id: &str) -> Result<Arc<Task>> {
        match self.tasks().by_id.get(id) {
            Some(Slot::Created(task)) => Ok(Arc::clone(task)),
            Some(Slot::Creating) | None => Err(not_found("container", id)),
        }
    }

    /// All containers.
    pub fn all(&self) -> Vec<Arc<Task>> {
        let created = |slot: &Slot| match slot {
            Slot::Created(task) => Some(Arc::clone(task)),
            Slot::Creating => None,
        };
        self.tasks().by_id.values().filter_map(created).collect()
    }

    /// Removes a container, and frees its id ([`Task::delete`]).
    ///
    /// # Errors
    /// The errors of [`Task::delete`].
    pub async fn delete(&self, task: &Task) -> Result<(i32, Exit)> {
        let forget = || {
            self.tasks().by_id.remove(&task.id);
        };
        task.delete(forget).await
    }

    /// Kills and removes a container, at the exit of the shim.
    ///
    /// # Errors
    /// The container cannot be killed or deleted.
    pub async fn kill_and_delete(&self, task: &Task) -> Result<()> {
        match task.kill("", libc::SIGKILL, true).await {
            Err(error) if !matches!(error.kind(), ErrorKind::NoSuchProcess | ErrorKind::NotFound) => return Err(error),
            _ => {}
        }
        task.init.wait().await;
        self.delete(task).await.map(|_| ())
    }

    /// Ends the server if no container exists or is being created. True when it ends.
    pub fn exit_if_empty(&self) -> bool {
        let mut tasks = self.tasks();
        if !tasks.by_id.is_empty() {
            tasks.exit_if_create_fails = tasks.by_id.values().all(|slot| matches!(slot, Slot::Creating));
            return false;
        }
        tasks.closed = true;
        drop(tasks);
        self.exiting.notify_one();
        true
    }

    /// Refuses creates from here on.
    pub fn close(&self) {
        self.tasks().closed = true;
    }

    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reservation<'a>> {
        brig_engine::check_id(id)?;
        let mut tasks = self.tasks();
        if tasks.closed {
            return Err(Error::new(ErrorKind::InvalidState, "the shim is exiting"));
        }
        if tasks.by_id.contains_key(id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("container {id}: already exists")));
        }
        tasks.by_id.insert(id.to_owned(), Slot::Creating);
        tasks.exit_if_create_fails = false;
        Ok(Reservation { shim: self, id })
    }

    /// Creates a container, and returns init's pid.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidConfig`], or the failure. Nothing is left of the container
    /// then.
    pub async fn create(self: &Arc<Self>, request: &CreateTaskRequest, ready_timeout: Duration) -> Result<i32> {
        let reservation = self.reserve(&request.id)?;
        let _permit = calls::acquire(&self.creates).await?;
        let bundle = PathBuf::from(&request.bundle);
        let (shim, of) = (Arc::clone(self), request.clone());
        let plan = blocking(&self.context.reaper, move || {
            let bundle = Path::new(&of.bundle);
            let plan = shim.plan(&of, bundle, ready_timeout)?;
            let rootfs: Vec<_> = of.rootfs.iter().map(root_mount).collect();
            root_mounts::mount(&rootfs, &bundle.join("rootfs"))?;
            Ok(plan)
        });
        let plan = plan.await?;
        let addresses = Addresses {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
        };
        let runtime = Arc::clone(&plan.runtime);
        let (task, exit) = match Task::create(&self.context, plan, addresses).await {
            Ok(created) => created,
            Err(error) => {
                self.clean_up(&runtime, request, &bundle, &error).await;
                return Err(error);
            }
        };
        if exit.is_some() {
            self.context.oom.watch(&self.context.reaper, &runtime, &request.id).await;
        }
        let pid = task.init.pid();
        self.tasks().by_id.insert(request.id.clone(), Slot::Created(Arc::clone(&task)));
        drop(reservation);
        self.context.publisher.publish(created(request, pid));
        if let Some(exit) = exit {
            task.watch(exit);
        }
        Ok(pid)
    }

    fn plan(&self, request: &CreateTaskRequest, bundle: &Path, ready_timeout: Duration) -> Result<Plan> {
        if !bundle.is_absolute() {
            return Err(Error::new(
                ErrorKind::InvalidConfig,
                format!("the bundle {:?} is not absolute", request.bundle),
            ));
        }
        let options = options::parse(request.options.as_ref())?;
        let config = BundleConfig::read(bundle)?;
        // Docker passes no options to a runtime of another type than runc's: its cgroup driver shows in the path alone.
        let systemd = options.systemd_cgroup.unwrap_or_else(|| config.has_scope_path() && setup::systemd_is_running());
        let record = Runtime::choose(&self.context.namespace, &options.root, &options.binary_name, systemd);
        let runtime = Runtime::new(&record, bundle);
        let checkpoint = checkpoint(request, &options)?;
        // Records of an earlier container of the same bundle must not be taken for this one's.
        ExitRecord::remove(bundle, "").and_then(|()| record.write(bundle)).context("unable to prepare the bundle")?;
        Ok(Plan {
            runtime: Arc::new(runtime),
            own_pids: config.has_own_pid_namespace(),
            streams: StreamOptions { ids: (options.io_uid, options.io_gid), timeouts: options.output_timeouts },
            ready_timeout,
            checkpoint,
            request: CreateRequest {
                id: request.id.clone(),
                bundle: bundle.to_owned(),
                streams: Streams::Terminal,
                no_pivot: options.no_pivot_root,
                no_new_keyring: options.no_new_keyring,
            },
        })
    }

    /// Cleans up after a failed create: containerd need not call `delete` for it.
    async fn clean_up(&self, runtime: &Arc<Runtime>, request: &CreateTaskRequest, bundle: &Path, error: &Error) {
        // A container that exists already belongs to another create.
        if error.kind() != ErrorKind::AlreadyExists {
            let (runtime, id, bundle) = (Arc::clone(runtime), request.id.clone(), bundle.to_owned());
            let removed = blocking(&self.context.reaper, move || runtime.delete_own(&id, &bundle)).await;
            if let Err(error) = removed {
                tracing::warn!(id = request.id, "cleaning up after a failed create: {error}");
            }
        }
        let target = bundle.join("rootfs");
        if let Err(error) = blocking(&self.context.reaper, move || root_mounts::unmount(&target)).await {
            tracing::warn!(id = request.id, "cleaning up after a failed create: {error}");
        }
    }

    /// Describes the state of all containers, for the log.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} containers, {} watched for the OOM killer; {} children are watched; {} events wait, {} were lost; {} log lines were dropped",
            self.tasks().by_id.len(),
            self.context.oom.count(),
            self.context.reaper.watched(),
            self.context.publisher.waiting(),
            self.context.publisher.dropped(),
            crate::log::dropped(),
        )];
        lines.extend(self.all().iter().map(|task| task.describe()));
        lines
    }
}

/// The images that the container is restored from, if any. containerd reads the option `CriuImagePath` itself, and
/// sends that path as the request's checkpoint.
fn checkpoint(request: &CreateTaskRequest, options: &Options) -> Result<Option<Checkpoint>> {
    let images = &request.checkpoint;
    if images.is_empty() {
        return Ok(None);
    }
    if !Path::new(images).is_dir() {
        let message = format!("checkpoint: there is no directory {images:?}: expected one with CRIU's images");
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(Some(Checkpoint { images: images.into(), work: options.criu_work_path.clone().into() }))
}

fn root_mount(mount: &Mount) -> root_mounts::Mount {
    root_mounts::Mount {
        kind: mount.type_.clone(),
        source: mount.source.clone(),
        target: mount.target.clone().into(),
        options: mount.options.clone(),
    }
}

fn created(request: &CreateTaskRequest, pid: i32) -> events::TaskCreate {
    events::TaskCreate {
        container_id: request.id.clone(),
        bundle: request.bundle.clone(),
        rootfs: request.rootfs.clone(),
        io: MessageField::some(events::TaskIO {
            stdin: request.stdin.clone(),
            stdout: request.stdout.clone(),
            stderr: request.stderr.clone(),
            terminal: request.terminal,
            ..Default::default()
        }),
        checkpoint: request.checkpoint.clone(),
        pid: pid.cast_unsigned(),
        ..Default::default()
    }
}
