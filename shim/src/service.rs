//! The ttrpc services containerd.task.v2.Task and containerd.task.v3.Task, which differ in their names only.
//!
//! A started call runs to its end when its caller goes away or stops waiting ([`calls`]). Only Wait ends with its
//! caller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use brig_engine::error::{Error, ErrorKind, Result};
use brig_engine::{AfterCheckpoint, CgroupsMode, CheckpointOptions, CriuFeatures, CriuOptions, Status};
use containerd_shim_protos::api;
use containerd_shim_protos::shim::oci::{self, ProcessDetails};
use containerd_shim_protos::shim_async::{Task as TaskService, create_task};
use containerd_shim_protos::types::task::{ProcessInfo, Status as ApiStatus};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use tracing::Instrument;
use ttrpc::r#async::{Service as Methods, TtrpcContext};

use crate::calls;
use crate::events::timestamp;
use crate::io::Addresses;
use crate::rpc_error::status;
use crate::tasks::Shim;

/// The names of the service.
const NAMES: [&str; 2] = ["containerd.task.v2.Task", "containerd.task.v3.Task"];

/// The highest signal number of the kernel (_NSIG).
const MAX_SIGNAL: i32 = 64;

/// The task service; the module describes it.
#[derive(Debug)]
pub struct Service {
    shim: Arc<Shim>,
}

/// The methods of `shim`, under both names.
pub fn methods(shim: &Arc<Shim>) -> HashMap<String, Methods> {
    let service = Arc::new(Service { shim: Arc::clone(shim) });
    let named = NAMES
        .iter()
        .flat_map(|name| create_task(service.clone()).into_values().map(|methods| ((*name).to_owned(), methods)));
    named.collect()
}

/// The time that a call may wait for a logger: no work may continue after its caller has given up.
fn ready_timeout(context: &TtrpcContext) -> Duration {
    match u64::try_from(context.timeout_nano) {
        Ok(nanoseconds) if nanoseconds > 0 => crate::io::READY.min(Duration::from_nanos(nanoseconds)),
        _ => crate::io::READY,
    }
}

/// The container, and the exec of it, that a call names, for the log.
struct CallTarget<'a> {
    id: &'a str,
    exec: Option<&'a str>,
}

impl<'a> From<&'a String> for CallTarget<'a> {
    fn from(id: &'a String) -> CallTarget<'a> {
        CallTarget { id, exec: None }
    }
}

impl<'a> From<&'a (String, String)> for CallTarget<'a> {
    fn from((id, exec): &'a (String, String)) -> CallTarget<'a> {
        CallTarget { id, exec: Some(exec.as_str()).filter(|exec| !exec.is_empty()) }
    }
}

impl Service {
    /// Runs a call to its end, even if its caller goes.
    async fn run<T, F>(
        &self,
        context: &TtrpcContext,
        name: &'static str,
        target: impl Into<CallTarget<'_>>,
        call: impl FnOnce(Arc<Shim>) -> F,
    ) -> ttrpc::Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let target = target.into();
        // The span is on every line that the call and its tasks write to the log, the engine's among them.
        let span = tracing::info_span!("call", id = target.id);
        let call = calls::run_to_end(call(Arc::clone(&self.shim))).instrument(span);
        self.observe(context, name, target, call).await
    }

    /// Logs and traces a call, which is dropped with its caller.
    async fn observe<T>(
        &self,
        context: &TtrpcContext,
        name: &'static str,
        CallTarget { id, exec }: CallTarget<'_>,
        call: impl Future<Output = Result<T>>,
    ) -> ttrpc::Result<T> {
        tracing::debug!(id, exec, "{name}");
        let mut span = self.shim.tracer.call(NAMES[1], name, &context.metadata);
        span.attribute("container.id", id);
        call.await.map_err(|error| {
            tracing::debug!(id, exec, "{name}: {error}");
            span.fail(&error.to_string());
            status(&error)
        })
    }
}

fn pid(pid: i32) -> u32 {
    pid.cast_unsigned()
}

fn api_status(status: Status) -> ApiStatus {
    match status {
        Status::Creating | Status::Created => ApiStatus::CREATED,
        Status::Running => ApiStatus::RUNNING,
        Status::Paused => ApiStatus::PAUSED,
        Status::Stopped => ApiStatus::STOPPED,
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::InvalidConfig, message)
}

fn cells(number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| invalid("a terminal's size is at most 65535 by 65535"))
}

#[async_trait]
impl TaskService for Service {
    async fn create(&self, c: &TtrpcContext, r: api::CreateTaskRequest) -> ttrpc::Result<api::CreateTaskResponse> {
        let id = r.id.clone();
        let ready_timeout = ready_timeout(c);
        let init = self.run(c, "Create", &id, |shim| async move { shim.create(&r, ready_timeout).await }).await?;
        Ok(api::CreateTaskResponse { pid: pid(init), ..Default::default() })
    }

    async fn start(&self, c: &TtrpcContext, r: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let (of, timeout) = ((r.id.clone(), r.exec_id.clone()), ready_timeout(c));
        let started = self.run(c, "Start", &of, |shim| async move {
            let task = shim.task(&r.id)?;
            if r.exec_id.is_empty() { task.start(timeout).await } else { task.start_exec(&r.exec_id, timeout).await }
        });
        Ok(api::StartResponse { pid: pid(started.await?), ..Default::default() })
    }

    async fn delete(&self, c: &TtrpcContext, r: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        let of = (r.id.clone(), r.exec_id.clone());
        let deleted = self.run(c, "Delete", &of, |shim| async move {
            let task = shim.task(&r.id)?;
            if r.exec_id.is_empty() { shim.delete(&task).await } else { task.delete_exec(&r.exec_id).await }
        });
        let (of, exit) = deleted.await?;
        Ok(api::DeleteResponse {
            pid: pid(of),
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    async fn exec(&self, c: &TtrpcContext, r: api::ExecProcessRequest) -> ttrpc::Result<api::Empty> {
        let of = (r.id.clone(), r.exec_id.clone());
        let added = self.run(c, "Exec", &of, |shim| async move {
            let task = shim.task(&r.id)?;
            let spec = r.spec.as_ref().ok_or_else(|| invalid("an exec without a process"))?;
            let addresses = Addresses { stdin: r.stdin, stdout: r.stdout, stderr: r.stderr, terminal: r.terminal };
            task.add_exec(&r.exec_id, addresses, &spec.value)
        });
        added.await.map(|()| api::Empty::default())
    }

    async fn state(&self, c: &TtrpcContext, r: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let of = (r.id.clone(), r.exec_id.clone());
        let looked = self.run(c, "State", &of, |shim| async move {
            let task = shim.task(&r.id)?;
            let status = task.status(&r.exec_id).await?;
            let own = if r.exec_id.is_empty() { &r.id } else { &r.exec_id };
            task.with_process(&r.exec_id, |process| {
                let Addresses { stdin, stdout, stderr, terminal } = process.addresses.clone();
                let exit = process.exit();
                api::StateResponse {
                    id: own.clone(),
                    bundle: task.bundle.to_string_lossy().into_owned(),
                    pid: pid(process.pid()),
                    status: api_status(status).into(),
                    stdin,
                    stdout,
                    stderr,
                    terminal,
                    exit_status: exit.map_or(0, |exit| exit.status),
                    exited_at: exit.map_or_else(MessageField::none, |exit| timestamp(exit.at)),
                    exec_id: r.exec_id.clone(),
                    ..Default::default()
                }
            })
        });
        looked.await
    }

    async fn wait(&self, c: &TtrpcContext, r: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        let of = (r.id.clone(), r.exec_id.clone());
        let wait = async { self.shim.task(&r.id)?.wait(&r.exec_id).await };
        let exit = self.observe(c, "Wait", CallTarget::from(&of), wait).await?;
        Ok(api::WaitResponse { exit_status: exit.status, exited_at: timestamp(exit.at), ..Default::default() })
    }

    async fn kill(&self, c: &TtrpcContext, r: api::KillRequest) -> ttrpc::Result<api::Empty> {
        let of = (r.id.clone(), r.exec_id.clone());
        let killed = self.run(c, "Kill", &of, |shim| async move {
            tracing::debug!(signal = r.signal, all = r.all, "a signal is sent");
            let signal = i32::try_from(r.signal).ok().filter(|signal| *signal <= MAX_SIGNAL);
            let signal = signal.ok_or_else(|| invalid(&format!("signal {}: expected 0 to {MAX_SIGNAL}", r.signal)))?;
            shim.task(&r.id)?.kill(&r.exec_id, signal, r.all).await
        });
        killed.await.map(|()| api::Empty::default())
    }

    async fn pids(&self, c: &TtrpcContext, r: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let id = r.id.clone();
        let pids = self.run(c, "Pids", &id, |shim| async move { shim.task(&r.id)?.pids().await }).await?;
        let process = |(of, exec): (i32, Option<String>)| {
            Ok(ProcessInfo { pid: pid(of), info: exec.map(details).transpose()?.into(), ..Default::default() })
        };
        let processes: Result<Vec<ProcessInfo>> = pids.into_iter().map(process).collect();
        Ok(api::PidsResponse { processes: processes.map_err(|error| status(&error))?, ..Default::default() })
    }

    async fn pause(&self, c: &TtrpcContext, r: api::PauseRequest) -> ttrpc::Result<api::Empty> {
        let id = r.id.clone();
        let paused = self.run(c, "Pause", &id, |shim| async move { shim.task(&r.id)?.pause().await });
        paused.await.map(|()| api::Empty::default())
    }

    async fn resume(&self, c: &TtrpcContext, r: api::ResumeRequest) -> ttrpc::Result<api::Empty> {
        let id = r.id.clone();
        let resumed = self.run(c, "Resume", &id, |shim| async move { shim.task(&r.id)?.resume().await });
        resumed.await.map(|()| api::Empty::default())
    }

    async fn update(&self, c: &TtrpcContext, r: api::UpdateTaskRequest) -> ttrpc::Result<api::Empty> {
        let id = r.id.clone();
        let updated = self.run(c, "Update", &id, |shim| async move {
            let task = shim.task(&r.id)?;
            let resources = r.resources.into_option().ok_or_else(|| invalid("an update without resources"))?;
            task.update(resources.value).await
        });
        updated.await.map(|()| api::Empty::default())
    }

    async fn resize_pty(&self, c: &TtrpcContext, r: api::ResizePtyRequest) -> ttrpc::Result<api::Empty> {
        let of = (r.id.clone(), r.exec_id.clone());
        let resized = self.run(c, "ResizePty", &of, |shim| async move {
            let task = shim.task(&r.id)?;
            let (rows, columns) = (cells(r.height)?, cells(r.width)?);
            task.with_process(&r.exec_id, |process| process.resize(rows, columns))?
        });
        resized.await.map(|()| api::Empty::default())
    }

    async fn close_io(&self, c: &TtrpcContext, r: api::CloseIORequest) -> ttrpc::Result<api::Empty> {
        let of = (r.id.clone(), r.exec_id.clone());
        let closed = self.run(c, "CloseIO", &of, |shim| async move {
            let task = shim.task(&r.id)?;
            task.with_process(&r.exec_id, |process| {
                if r.stdin {
                    process.close_stdin()
                }
            })
        });
        closed.await.map(|()| api::Empty::default())
    }

    async fn checkpoint(&self, c: &TtrpcContext, r: api::CheckpointTaskRequest) -> ttrpc::Result<api::Empty> {
        let id = r.id.clone();
        let saved = self.run(c, "Checkpoint", &id, |shim| async move {
            let task = shim.task(&r.id)?;
            task.checkpoint(checkpoint_options(&r)?).await
        });
        saved.await.map(|()| api::Empty::default())
    }

    async fn stats(&self, c: &TtrpcContext, r: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let id = r.id.clone();
        let stats = self.run(c, "Stats", &id, |shim| async move { shim.task(&r.id)?.stats().await }).await?;
        Ok(api::StatsResponse { stats: MessageField::some(stats), ..Default::default() })
    }

    async fn connect(&self, _: &TtrpcContext, r: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        // A container that does not exist has no pid, and the shim still answers: containerd checks that it does.
        let init = self.shim.task(&r.id).map_or(0, |task| task.init.pid());
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: pid(init),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..Default::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, r: api::ShutdownRequest) -> ttrpc::Result<api::Empty> {
        let ends = self.shim.exit_if_empty();
        tracing::debug!(id = r.id, ends, "Shutdown");
        Ok(api::Empty::default())
    }
}

/// Reads the checkpoint options of runc's shim, which are those of every client.
fn checkpoint_options(request: &api::CheckpointTaskRequest) -> Result<CheckpointOptions> {
    let wrong = |error: protobuf::Error| invalid(&format!("options of the checkpoint: {error}"));
    let bytes = request.options.as_ref().map_or(&[][..], |any| &any.value);
    let mut options = oci::CheckpointOptions::parse_from_bytes(bytes).map_err(wrong)?;
    if request.options.as_ref().is_some_and(|any| any.type_url.ends_with("containerd.linux.runc.CheckpointOptions")) {
        // containerd 1.6's own message for runtimes of other names differs in the order of the two paths only.
        std::mem::swap(&mut options.image_path, &mut options.work_path);
    }
    let cgroups = match options.cgroups_mode.as_str() {
        "" => CgroupsMode::default(),
        "ignore" => CgroupsMode::Ignore,
        "soft" => CgroupsMode::Soft,
        "full" => CgroupsMode::Full,
        "strict" => CgroupsMode::Strict,
        other => {
            let message = format!("checkpoint: cgroups_mode {other:?}: expected ignore, soft, full or strict");
            return Err(invalid(&message));
        }
    };
    // The network namespace is always left empty; the engine supports no other.
    if let Some(other) = options.empty_namespaces.iter().find(|name| *name != "network") {
        let message = format!("checkpoint: empty_namespaces {other:?}: only that of the network can be saved empty");
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    let features = [
        (options.open_tcp, CriuFeatures::TCP_ESTABLISHED),
        (options.external_unix_sockets, CriuFeatures::EXTERNAL_UNIX),
        (options.terminal, CriuFeatures::SHELL_JOB),
        (options.file_locks, CriuFeatures::FILE_LOCKS),
    ];
    let features = features.into_iter().filter_map(|(wanted, feature)| wanted.then_some(feature)).collect();
    let common = CriuOptions { features, cgroups };
    // containerd reads the images from the path of its request; a direct client of the shim may leave the path to the
    // options.
    let images = if request.path.is_empty() { options.image_path } else { request.path.clone() };
    if images.is_empty() {
        return Err(invalid("checkpoint: the request names no path for its images"));
    }
    Ok(CheckpointOptions {
        images: images.into(),
        work: options.work_path.into(),
        after: if options.exit { AfterCheckpoint::Stop } else { AfterCheckpoint::Continue },
        common,
        ..CheckpointOptions::default()
    })
}

/// The details of a process that is an exec's, for containerd.
fn details(exec_id: String) -> Result<Any> {
    let details = ProcessDetails { exec_id, ..Default::default() };
    let value = details.write_to_bytes().map_err(|error| Error::other(error.to_string()))?;
    Ok(Any { type_url: "containerd.runc.v1.ProcessDetails".to_owned(), value, ..Default::default() })
}
