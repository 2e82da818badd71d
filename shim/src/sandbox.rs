//! The sandbox API (containerd.runtime.sandbox.v1.Sandbox), for containerd's `sandboxer = "shim"`: this shim creates
//! the pod itself, without a container of an image that CRI has pulled for it.
//!
//! A sandbox is a container of its own, with all the features of containers; its id is the sandbox's. Its process is
//! that of the bundle's config.json where containerd wrote one (`ctr sandboxes run`). CRI writes none: the process is
//! then [`pause`], in the namespaces that the pod's configuration asks for, and its pid is where CRI lets the pod's
//! containers find them.

mod config;
pub mod pause;
mod ready;

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use brig_engine::error::{Context, Error, ErrorKind, Result};
use containerd_shim_protos::api::CreateTaskRequest;
use containerd_shim_protos::sandbox_api as api;
use containerd_shim_protos::sandbox_async::{Sandbox as SandboxService, create_sandbox};
use containerd_shim_protos::shim::oci;
use containerd_shim_protos::types::platform::Platform;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use rustix::thread::CapabilitySet;
use ttrpc::r#async::{Service as Methods, TtrpcContext};

use crate::bundle::{OPTIONS, is_link, read_stored};
use crate::calls;
use crate::events::timestamp;
use crate::process::Phase;
use crate::rpc_error::{not_found, status};
use crate::runtime::blocking;
use crate::task::Task;
use crate::tasks::Shim;
use config::Pod;
use ready::ReadyPipe;

/// The names of a sandbox's state in CRI.
const READY: &str = "SANDBOX_READY";
const NOT_READY: &str = "SANDBOX_NOTREADY";

/// The directories in the root of a sandbox without an image.
const ROOT_DIRECTORIES: [&str; 2] = ["proc", "dev"];
/// The path in that root on which this program is bound.
const ROOT_FILE: &str = "pause";

/// The OOM score of pause processes in CRI (containerd's sandbox container).
const LOW_SCORE: i32 = -998;
/// This process, in the paths of /proc.
const OWN: &str = "self";

/// The sandbox of this shim; there is at most one.
#[derive(Debug)]
struct Sandbox {
    id: String,
    created: SystemTime,
    task: Arc<Task>,
    /// The report to wait for; `None` once received, and for another program than [`pause`].
    ready: Mutex<Option<ReadyPipe>>,
}

/// The sandbox service; the module describes it.
#[derive(Clone, Debug)]
pub struct Service {
    shim: Arc<Shim>,
    current: Arc<Mutex<Option<Arc<Sandbox>>>>,
}

/// The methods of the sandbox service of `shim`.
pub fn methods(shim: &Arc<Shim>) -> HashMap<String, Methods> {
    create_sandbox(Arc::new(Service { shim: Arc::clone(shim), current: Arc::default() }))
}

impl Service {
    /// Locks the sandbox, and ignores poisoning: it is either absent or complete.
    fn current(&self) -> MutexGuard<'_, Option<Arc<Sandbox>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.current().as_ref().filter(|sandbox| sandbox.id == id).cloned().ok_or_else(|| not_found("sandbox", id))
    }

    async fn create(&self, request: api::CreateSandboxRequest) -> Result<()> {
        let id = request.sandbox_id.clone();
        if let Some(sandbox) = self.current().as_ref() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("this shim has the sandbox {} already", sandbox.id),
            ));
        }
        let pod = Pod::read(request.options.as_ref())?;
        let (bundle, netns) = (request.bundle_path.clone(), request.netns_path.clone());
        let of = id.clone();
        let prepared = blocking(&self.shim.context.reaper, move || {
            let ours = prepare(Path::new(&bundle), &of, &netns, &pod)?;
            Ok((ours, runtime_options(Path::new(&bundle), &pod)?))
        });
        let (ours, options) = prepared.await?;
        let mut ready = if ours { Some(ReadyPipe::open(Path::new(&request.bundle_path))?) } else { None };
        let create = CreateTaskRequest {
            id: id.clone(),
            bundle: request.bundle_path,
            rootfs: request.rootfs,
            stdout: ready.as_ref().map(ReadyPipe::address).unwrap_or_default(),
            options: MessageField::some(options),
            ..CreateTaskRequest::default()
        };
        self.shim.create(&create, crate::io::READY).await.context("unable to create the sandbox")?;
        let task = self.shim.task(&id)?;
        ready.as_mut().map_or(Ok(()), ReadyPipe::unlink)?;
        *self.current() = Some(Arc::new(Sandbox { id, created: SystemTime::now(), task, ready: Mutex::new(ready) }));
        Ok(())
    }

    /// Starts the pause process, waits until it handles signals, and returns its pid.
    async fn start(&self, sandbox: &Sandbox) -> Result<i32> {
        let pid = sandbox.task.start(crate::io::READY).await?;
        let ready = sandbox.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ready) = ready {
            tokio::select! {
                reported = ready.wait() => reported?,
                exit = sandbox.task.init.wait() => {
                    let message = format!("the pause process exited with status {} before it was ready", exit.status);
                    return Err(Error::other(message));
                }
                () = tokio::time::sleep(crate::io::READY) => {
                    let seconds = crate::io::READY.as_secs();
                    return Err(Error::other(format!("the pause process was not ready after {seconds} s")));
                }
            }
        }
        Ok(pid)
    }

    async fn stop(&self, id: &str, timeout: Duration) -> Result<()> {
        let task = Arc::clone(&self.sandbox(id)?.task);
        if task.init.phase() == Phase::Stopped {
            return Ok(());
        }
        if !timeout.is_zero() {
            ignore_exited(task.kill("", libc::SIGTERM, false).await)?;
            if tokio::time::timeout(timeout, task.init.wait()).await.is_ok() {
                return Ok(());
            }
        }
        ignore_exited(task.kill("", libc::SIGKILL, true).await)?;
        task.init.wait().await;
        Ok(())
    }

    async fn shut_down(&self, id: &str) -> Result<()> {
        // No container is created from here on; the existing ones are removed, the sandbox last: others may be in its
        // namespaces.
        self.shim.close();
        let is_sandbox = |task: &Arc<Task>| task.id == id;
        let (sandbox, others): (Vec<_>, Vec<_>) = self.shim.all().into_iter().partition(is_sandbox);
        for task in others.into_iter().chain(sandbox) {
            self.shim.kill_and_delete(&task).await.with_context(|| format!("unable to kill and delete {}", task.id))?;
        }
        // containerd removes the bundle next, which fails while the root is not empty.
        if let Some(sandbox) = self.current().take() {
            empty_rootfs(&sandbox.task.bundle)?;
        }
        self.shim.exit_if_empty();
        Ok(())
    }

    fn status_of(&self, id: &str, verbose: bool) -> Result<api::SandboxStatusResponse> {
        let sandbox = self.sandbox(id)?;
        let init = &sandbox.task.init;
        let state = if init.phase() == Phase::Running { READY } else { NOT_READY };
        let mut info = HashMap::new();
        if verbose {
            info.insert("process".to_owned(), sandbox.task.describe());
        }
        Ok(api::SandboxStatusResponse {
            sandbox_id: id.to_owned(),
            pid: init.pid().cast_unsigned(),
            state: state.to_owned(),
            info,
            created_at: timestamp(sandbox.created),
            exited_at: init.exit().map(|exit| timestamp(exit.at)).unwrap_or_default(),
            ..Default::default()
        })
    }
}

/// Treats a process that has exited as killed.
fn ignore_exited(killed: Result<()>) -> Result<()> {
    match killed {
        Err(error) if matches!(error.kind(), ErrorKind::NoSuchProcess | ErrorKind::NotFound) => Ok(()),
        other => other,
    }
}

/// The runtime options that `start` has stored. Without any, the form of the pod's cgroup path decides.
fn runtime_options(bundle: &Path, pod: &Pod) -> Result<Any> {
    let unreadable = |error| Error::other(format!("runtime options: {error}"));
    let path = bundle.join(OPTIONS);
    if let Some(bytes) = read_stored(&path)? {
        return Any::parse_from_bytes(&bytes).map_err(unreadable);
    }
    let options = oci::Options { systemd_cgroup: pod.has_systemd_cgroup(), ..oci::Options::default() };
    let value = options.write_to_bytes().map_err(unreadable)?;
    Ok(Any { type_url: "containerd.runc.v1.Options".to_owned(), value, ..Any::default() })
}

/// Writes the bundle's config.json, and creates the root that it names, where containerd has written none. True if this
/// was done: the process is then [`pause`].
fn prepare(bundle: &Path, id: &str, netns: &str, pod: &Pod) -> Result<bool> {
    let path = bundle.join("config.json");
    if path.exists() {
        return Ok(false);
    }
    let rootfs = bundle.join("rootfs");
    match std::fs::create_dir(&rootfs) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("unable to make {}", rootfs.display()));
        }
        _ => {}
    }
    brig_engine::root_mounts::refuse_link(&rootfs)?;
    // Mount points, which cannot be added to a read-only root later.
    for name in ROOT_DIRECTORIES {
        std::fs::create_dir_all(rootfs.join(name)).with_context(|| format!("unable to make /{name} of a sandbox"))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(rootfs.join(ROOT_FILE)).context("unable to make /pause of a sandbox")?;
    let binary = std::env::current_exe().context("unable to find this program")?;
    let config = pod.config(id, netns, &binary, oom_score()?);
    brig_engine::replace(&path, config.to_string().as_bytes(), 0o600)?;
    Ok(true)
}

/// Empties the root that `prepare` has created, and leaves any other as it is.
///
/// # Errors
/// The root cannot be read, or something in it cannot be removed.
pub fn empty_rootfs(bundle: &Path) -> Result<()> {
    let rootfs = bundle.join("rootfs");
    let unable = || format!("unable to empty {}", rootfs.display());
    let mut names = Vec::new();
    if is_link(&rootfs) {
        return Ok(());
    }
    match std::fs::read_dir(&rootfs) {
        Ok(entries) => {
            for entry in entries {
                names.push(entry.with_context(unable)?.file_name());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(unable),
    }
    let ours = |name: &std::ffi::OsString| name == ROOT_FILE || ROOT_DIRECTORIES.iter().any(|one| name == one);
    if !names.iter().all(ours) || !names.iter().any(|name| name == ROOT_FILE) {
        return Ok(());
    }
    for name in &names {
        let path = rootfs.join(name);
        let removed = if name == ROOT_FILE { std::fs::remove_file(&path) } else { std::fs::remove_dir(&path) };
        removed.with_context(|| format!("unable to remove {}", path.display()))?;
    }
    Ok(())
}

/// The OOM score of a pod's pause process: the OOM killer must choose it last, as in CRI. Without the capability to
/// lower a score, this shim's own score is the lowest possible.
fn oom_score() -> Result<i32> {
    let capabilities = rustix::thread::capabilities(None).context("unable to read the capabilities of this process")?;
    if capabilities.effective.contains(CapabilitySet::SYS_RESOURCE) {
        return Ok(LOW_SCORE);
    }
    Ok(crate::setup::oom_score(OWN)?.max(LOW_SCORE))
}

/// The platform of this program in Go's names, which containerd compares with those of images.
fn platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "x86" => ("386", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
        other => (other, ""),
    };
    Platform { os: "linux".into(), architecture: architecture.into(), variant: variant.into(), ..Platform::default() }
}

#[async_trait]
impl SandboxService for Service {
    async fn create_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::CreateSandboxRequest,
    ) -> ttrpc::Result<api::CreateSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "create sandbox");
        let service = self.clone();
        let created = calls::run_to_end(async move { service.create(request).await });
        created.await.map_err(|error| status(&error))?;
        Ok(api::CreateSandboxResponse::default())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StartSandboxRequest,
    ) -> ttrpc::Result<api::StartSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "start sandbox");
        let sandbox = self.sandbox(&request.sandbox_id).map_err(|error| status(&error))?;
        let (service, of) = (self.clone(), Arc::clone(&sandbox));
        let started = calls::run_to_end(async move { service.start(&of).await });
        let pid = started.await.map_err(|error| status(&error))?;
        Ok(api::StartSandboxResponse {
            pid: pid.cast_unsigned(),
            created_at: timestamp(sandbox.created),
            ..Default::default()
        })
    }

    async fn platform(&self, _: &TtrpcContext, _: api::PlatformRequest) -> ttrpc::Result<api::PlatformResponse> {
        Ok(api::PlatformResponse { platform: MessageField::some(platform()), ..Default::default() })
    }

    async fn stop_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::StopSandboxRequest,
    ) -> ttrpc::Result<api::StopSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "stop sandbox");
        let timeout = Duration::from_secs(request.timeout_secs.into());
        let service = self.clone();
        let stopped = calls::run_to_end(async move { service.stop(&request.sandbox_id, timeout).await });
        stopped.await.map_err(|error| status(&error))?;
        Ok(api::StopSandboxResponse::default())
    }

    async fn wait_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::WaitSandboxRequest,
    ) -> ttrpc::Result<api::WaitSandboxResponse> {
        let sandbox = self.sandbox(&request.sandbox_id).map_err(|error| status(&error))?;
        let exit = sandbox.task.init.wait().await;
        Ok(api::WaitSandboxResponse { exit_status: exit.status, exited_at: timestamp(exit.at), ..Default::default() })
    }

    async fn sandbox_status(
        &self,
        _: &TtrpcContext,
        request: api::SandboxStatusRequest,
    ) -> ttrpc::Result<api::SandboxStatusResponse> {
        self.status_of(&request.sandbox_id, request.verbose).map_err(|error| status(&error))
    }

    async fn ping_sandbox(&self, _: &TtrpcContext, request: api::PingRequest) -> ttrpc::Result<api::PingResponse> {
        let sandbox = self.sandbox(&request.sandbox_id).map_err(|error| status(&error))?;
        match sandbox.task.init.phase() {
            Phase::Stopped => Err(status(&Error::new(ErrorKind::NotRunning, "the sandbox has exited"))),
            _ => Ok(api::PingResponse::default()),
        }
    }

    async fn shutdown_sandbox(
        &self,
        _: &TtrpcContext,
        request: api::ShutdownSandboxRequest,
    ) -> ttrpc::Result<api::ShutdownSandboxResponse> {
        tracing::debug!(id = request.sandbox_id, "shut down sandbox");
        let service = self.clone();
        let shut_down = calls::run_to_end(async move { service.shut_down(&request.sandbox_id).await });
        shut_down.await.map_err(|error| status(&error))?;
        Ok(api::ShutdownSandboxResponse::default())
    }

    async fn sandbox_metrics(
        &self,
        _: &TtrpcContext,
        request: api::SandboxMetricsRequest,
    ) -> ttrpc::Result<api::SandboxMetricsResponse> {
        let sandbox = self.sandbox(&request.sandbox_id).map_err(|error| status(&error))?;
        let stats = sandbox.task.stats().await.map_err(|error| status(&error))?;
        let mut response = api::SandboxMetricsResponse::default();
        let metrics = response.metrics.mut_or_insert_default();
        metrics.timestamp = timestamp(SystemTime::now());
        metrics.id = request.sandbox_id;
        metrics.data = MessageField::some(stats);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bundle_without_a_configuration_is_given_one_and_another_is_left_alone() {
        let bundle = tempfile::tempdir().unwrap();
        let path = bundle.path().join("config.json");
        assert!(prepare(bundle.path(), "box", "", &Pod::default()).unwrap());
        let first = std::fs::read(&path).unwrap();
        brig_engine::config::parse_spec(&first).unwrap();
        for name in ["rootfs/proc", "rootfs/dev", "rootfs/pause"] {
            assert!(bundle.path().join(name).exists(), "{name}");
        }
        std::fs::write(&path, "{}").unwrap();
        assert!(!prepare(bundle.path(), "box", "", &Pod::default()).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"{}");
    }

    #[test]
    fn the_root_that_was_made_is_emptied_and_another_is_left_alone() {
        let bundle = tempfile::tempdir().unwrap();
        let rootfs = bundle.path().join("rootfs");
        let count = || std::fs::read_dir(&rootfs).unwrap().count();
        empty_rootfs(bundle.path()).unwrap();
        prepare(bundle.path(), "box", "", &Pod::default()).unwrap();
        empty_rootfs(bundle.path()).unwrap();
        assert_eq!(count(), 0);
        empty_rootfs(bundle.path()).unwrap();
        std::fs::create_dir(rootfs.join("proc")).unwrap();
        empty_rootfs(bundle.path()).unwrap();
        assert_eq!(count(), 1, "an image's empty root");
        std::fs::write(rootfs.join("pause"), "").unwrap();
        std::fs::write(rootfs.join("more"), "").unwrap();
        empty_rootfs(bundle.path()).unwrap();
        assert_eq!(count(), 3, "a root with something else in it");
    }

    #[test]
    fn the_platform_has_gos_names() {
        let found = platform();
        assert_eq!(found.os, "linux");
        assert!(!["x86_64", "aarch64"].contains(&found.architecture.as_str()));
    }
}
