//! All containers of this shim, and what they share.

use std::collections::HashMap;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::events::task as events;
use protobuf::MessageField;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::sync::{Notify, Semaphore};

use crate::bundle::Facts;
use crate::calls;
use crate::events::Publisher;
use crate::exit_record::ExitRecord;
use crate::io::Addresses;
use crate::oom::Watcher;
use crate::options::{self, Options};
use crate::reaper::Reaper;
use crate::rpc_error::not_found;
use crate::runtime::{Creation, Runtime, Saved, Streams, blocking};
use crate::setup;
use crate::task::{Plan, Task};
use crate::trace::Tracer;

/// What the containers of one server share.
pub struct Shim {
    /// containerd's namespace.
    pub namespace: String,
    /// The one reaper.
    pub reaper: Arc<Reaper>,
    /// The way to containerd.
    pub publisher: Publisher,
    /// Spans of calls.
    pub tracer: Tracer,
    /// Told when the server is to end.
    pub ending: Notify,
    oom: Watcher,
    /// The ids of containers that the OOM killer has been in.
    killed: Mutex<UnboundedReceiver<String>>,
    tasks: Mutex<Tasks>,
    /// Places for creates.
    creates: Semaphore,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Tasks {
    by_id: HashMap<String, Slot>,
    /// The server ends: no container is made any more.
    closed: bool,
    /// Shutdown came while a container was being made: if that fails, the server ends.
    unwanted: bool,
}

#[derive(Debug)]
enum Slot {
    /// Its id is taken, and it is being made.
    Making,
    Made(Arc<Task>),
}

/// An id that is taken until the container is there, or this is dropped.
struct Reservation<'a> {
    shim: &'a Shim,
    id: &'a str,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut tasks = self.shim.tasks();
        if matches!(tasks.by_id.get(self.id), Some(Slot::Making)) {
            tasks.by_id.remove(self.id);
            if tasks.unwanted && tasks.by_id.is_empty() {
                tasks.closed = true;
                self.shim.ending.notify_one();
            }
        }
    }
}

impl Shim {
    /// A shim without containers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(namespace: String, reaper: Arc<Reaper>, publisher: Publisher, tracer: Tracer) -> Result<Arc<Shim>> {
        let (report, killed) = mpsc::unbounded_channel();
        let shim = Arc::new(Shim {
            namespace,
            reaper,
            publisher,
            tracer,
            ending: Notify::new(),
            oom: Watcher::start(report)?,
            killed: Mutex::new(killed),
            tasks: Mutex::default(),
            creates: Semaphore::new(calls::CREATES),
        });
        let weak = Arc::downgrade(&shim);
        // Reports come from the watcher's task, or from `tell_oom`: whoever is first publishes them.
        tokio::spawn(poll_fn(move |context| {
            let Some(shim) = weak.upgrade() else { return Poll::Ready(()) };
            while let Poll::Ready(id) = shim.killed().poll_recv(context) {
                let Some(id) = id else { return Poll::Ready(()) };
                shim.publish_oom(id);
            }
            Poll::Pending
        }));
        Ok(shim)
    }

    fn killed(&self) -> MutexGuard<'_, UnboundedReceiver<String>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish_oom(&self, container_id: String) {
        self.publisher.publish(events::TaskOOM { container_id, ..Default::default() });
    }

    /// Reads what the OOM killer has done in a container whose init has ended, which is published in due course.
    /// `killed`: by a signal that we have not sent.
    pub fn look_for_oom(&self, id: &str, killed: bool) {
        if killed {
            self.oom.check_killed(id);
        } else {
            self.oom.check(id);
        }
    }

    /// The same for a container that is to be killed. True when it may be that the OOM killer was faster.
    pub fn look_for_earlier_oom(&self, id: &str) -> bool {
        self.oom.check(id)
    }

    /// Publishes what the OOM killer has done in a container so far: to be called before an exit is told.
    pub fn tell_oom(&self, id: &str) {
        self.oom.check(id);
        // The lock is not held while one is published.
        let next = || self.killed().try_recv();
        while let Ok(id) = next() {
            self.publish_oom(id);
        }
    }

    /// Watches for the OOM killer. A host that has no memory controller has nothing to watch.
    pub async fn watch_oom(&self, runtime: &Arc<Runtime>, id: &str) {
        let (runtime, of) = (Arc::clone(runtime), id.to_owned());
        let watch = blocking(&self.reaper, move || runtime.oom_watch(&of));
        let added = watch.await.and_then(|watch| watch.map_or(Ok(()), |watch| self.oom.add(id, watch)));
        match added {
            // It has ended already.
            Err(error) if matches!(error.kind(), ErrorKind::NotRunning | ErrorKind::NotFound) => {}
            Err(error) => tracing::warn!(id, "there will be no word of the OOM killer: {error}"),
            Ok(()) => {}
        }
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        // No method leaves half a change behind.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The container of this id.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also while it is being made.
    pub fn task(&self, id: &str) -> Result<Arc<Task>> {
        match self.tasks().by_id.get(id) {
            Some(Slot::Made(task)) => Ok(Arc::clone(task)),
            Some(Slot::Making) | None => Err(not_found("container", id)),
        }
    }

    /// All containers.
    pub fn all(&self) -> Vec<Arc<Task>> {
        let made = |slot: &Slot| match slot {
            Slot::Made(task) => Some(Arc::clone(task)),
            Slot::Making => None,
        };
        self.tasks().by_id.values().filter_map(made).collect()
    }

    /// Whether this very container is still there.
    pub fn has(&self, task: &Arc<Task>) -> bool {
        matches!(self.tasks().by_id.get(&task.id), Some(Slot::Made(there)) if Arc::ptr_eq(there, task))
    }

    /// It has been deleted.
    pub fn forget(&self, task: &Arc<Task>) {
        self.oom.remove(&task.id);
        if self.has(task) {
            self.tasks().by_id.remove(&task.id);
        }
    }

    /// Ends the server if there is no container, neither made nor being made. True when it ends.
    pub fn end_if_empty(&self) -> bool {
        let mut tasks = self.tasks();
        if !tasks.by_id.is_empty() {
            tasks.unwanted = tasks.by_id.values().all(|slot| matches!(slot, Slot::Making));
            return false;
        }
        tasks.closed = true;
        drop(tasks);
        self.ending.notify_one();
        true
    }

    /// No container is made from here on.
    pub fn close(&self) {
        self.tasks().closed = true;
    }

    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reservation<'a>> {
        brig_engine::state::check_id(id)?;
        let mut tasks = self.tasks();
        if tasks.closed {
            return Err(Error::new(ErrorKind::InvalidState, "the shim ends"));
        }
        if tasks.by_id.contains_key(id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("container {id}: already exists")));
        }
        tasks.by_id.insert(id.to_owned(), Slot::Making);
        tasks.unwanted = false;
        Ok(Reservation { shim: self, id })
    }

    /// Makes a container, and gives init's pid.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`], [`ErrorKind::InvalidConfig`], or what failed. Nothing is left then.
    pub async fn create(self: &Arc<Self>, request: &CreateTaskRequest, patience: Duration) -> Result<i32> {
        let reservation = self.reserve(&request.id)?;
        let _place = calls::place(&self.creates).await?;
        let bundle = PathBuf::from(&request.bundle);
        let (shim, of) = (Arc::clone(self), request.clone());
        let plan = blocking(&self.reaper, move || {
            let bundle = Path::new(&of.bundle);
            let plan = shim.plan(&of, bundle, patience)?;
            crate::rootfs::mount(&of.rootfs, &bundle.join("rootfs"))?;
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
        let (task, ended) = match Task::create(self, plan, addresses).await {
            Ok(made) => made,
            Err(error) => {
                self.clean_up(&runtime, request, &bundle, &error).await;
                return Err(error);
            }
        };
        if ended.is_some() {
            self.watch_oom(&runtime, &request.id).await;
        }
        let pid = task.init.pid();
        self.tasks().by_id.insert(request.id.clone(), Slot::Made(Arc::clone(&task)));
        drop(reservation);
        self.publisher.publish(created(request, pid));
        if let Some(ended) = ended {
            task.watch(ended);
        }
        Ok(pid)
    }

    fn plan(&self, request: &CreateTaskRequest, bundle: &Path, patience: Duration) -> Result<Plan> {
        if !bundle.is_absolute() {
            return Err(Error::new(ErrorKind::InvalidConfig, format!("the bundle {:?} is not absolute", request.bundle)));
        }
        let options = options::parse(request.options.as_ref())?;
        let facts = Facts::read(bundle)?;
        // Docker passes no options to a runtime of another type than runc's: its driver shows in the path alone.
        let systemd = options.systemd_cgroup.unwrap_or_else(|| facts.names_scope() && setup::systemd_is_running());
        let kept = Runtime::choose(&self.namespace, &options.root, &options.binary_name, systemd);
        let runtime = Runtime::new(&kept, bundle);
        let saved = saved(request, &options)?;
        // An earlier container of the same bundle is none of this one's business.
        ExitRecord::remove(bundle, "").and_then(|()| kept.write(bundle)).context("unable to prepare the bundle")?;
        Ok(Plan {
            runtime: Arc::new(runtime),
            own_pids: facts.own_pids(),
            ids: (options.io_uid, options.io_gid),
            timeouts: options.output_timeouts,
            patience,
            saved,
            creation: Creation {
                id: request.id.clone(),
                bundle: bundle.to_owned(),
                streams: Streams::Terminal,
                no_pivot: options.no_pivot_root,
                no_new_keyring: options.no_new_keyring,
            },
        })
    }

    /// After a create that failed: containerd need not call `delete` for it.
    async fn clean_up(&self, runtime: &Arc<Runtime>, request: &CreateTaskRequest, bundle: &Path, error: &Error) {
        // One that exists already is somebody else's.
        if error.kind() != ErrorKind::AlreadyExists {
            let (runtime, id, bundle) = (Arc::clone(runtime), request.id.clone(), bundle.to_owned());
            let removed = blocking(&self.reaper, move || runtime.delete_own(&id, &bundle)).await;
            if let Err(error) = removed {
                tracing::warn!(id = request.id, "unable to clean up: {error}");
            }
        }
        let target = bundle.join("rootfs");
        if let Err(error) = blocking(&self.reaper, move || crate::rootfs::unmount(&target)).await {
            tracing::warn!(id = request.id, "unable to clean up: {error}");
        }
    }

    /// For the log: everything.
    pub fn describe(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{} containers, {} watched for the OOM killer; {} children are watched; {} events wait, {} were lost; {} log lines were dropped",
            self.tasks().by_id.len(),
            self.oom.count(),
            self.reaper.watched(),
            self.publisher.waiting(),
            self.publisher.lost(),
            crate::log::dropped(),
        )];
        lines.extend(self.all().iter().map(|task| task.describe()));
        lines
    }
}

/// What the container is to be restored from, if it is. The option `CriuImagePath` is containerd's own affair: what it
/// names comes as the request's checkpoint.
fn saved(request: &CreateTaskRequest, options: &Options) -> Result<Option<Saved>> {
    let images = &request.checkpoint;
    if images.is_empty() {
        return Ok(None);
    }
    if !Path::new(images).is_dir() {
        let message = format!("checkpoint: there is no directory {images:?}: expected one with CRIU's images");
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(Some(Saved { images: images.into(), work: options.criu_work_path.clone().into() }))
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
