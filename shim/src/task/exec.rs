//! Execs: registered, started as processes of the container, and deleted.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::process::is_exiting;
use containerd_shim_protos::events::task as events;
use tracing::Instrument;

use super::launch::launch;
use super::{Task, lock};
use crate::bundle::remove_if_there;
use crate::calls;
use crate::exit_record::ExitRecord;
use crate::io::Addresses;
use crate::process::{Phase, Process};
use crate::reaper::Exit;
use crate::rpc_error::not_found;
use crate::runtime::ExecRequest;

/// The error of an exec after init's exit.
const STOPPED: &str = "cannot exec in a stopped container";

/// The longest exec id, in bytes: the names of its files in the bundle, such as `exec.ID.exit`, have at most 255.
const MAX_ID_LEN: usize = 240;

/// A further process of a container.
#[derive(Debug)]
pub(super) struct Exec {
    pub(super) process: Process,
    /// The OCI process object, as JSON, until it is started.
    spec: Mutex<Vec<u8>>,
}

impl Task {
    pub(super) fn exec(&self, exec_id: &str) -> Result<Arc<Exec>> {
        lock(&self.execs).get(exec_id).cloned().ok_or_else(|| not_found("process", exec_id))
    }

    /// Registers an exec. `spec` is the OCI process object, as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`]; [`ErrorKind::InvalidState`] after init's exit; [`ErrorKind::InvalidConfig`] for an
    /// id that is no file name, or no JSON.
    pub fn add_exec(&self, exec_id: &str, addresses: Addresses, spec: &[u8]) -> Result<()> {
        let invalid = |message: String| Error::new(ErrorKind::InvalidConfig, message);
        if exec_id.is_empty() || exec_id.contains('/') || exec_id == "." || exec_id == ".." {
            return Err(invalid(format!("{exec_id:?} is no exec id")));
        }
        if exec_id.len() > MAX_ID_LEN {
            return Err(invalid(format!(
                "exec id of {} bytes: expected at most {MAX_ID_LEN}, for it names files",
                exec_id.len()
            )));
        }
        if lock(&self.pending_exit).init_exited {
            return Err(Error::new(ErrorKind::InvalidState, STOPPED));
        }
        let mut spec: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(spec).map_err(|error| invalid(format!("the process is no JSON object: {error}")))?;
        spec.insert("terminal".to_owned(), addresses.terminal.into());
        let spec = serde_json::to_vec(&spec).context("unable to write the process")?;
        let mut execs = lock(&self.execs);
        if execs.contains_key(exec_id) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("process {exec_id}: already exists")));
        }
        let exec = Exec { process: Process::new(exec_id.to_owned(), addresses), spec: Mutex::new(spec) };
        execs.insert(exec_id.to_owned(), Arc::new(exec));
        drop(execs);
        self.context.publisher.publish(events::TaskExecAdded {
            container_id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            ..Default::default()
        });
        Ok(())
    }

    /// Starts an exec.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidState`] when it was started, or the container is paused or has
    /// stopped. An exec that fails to start has exited.
    pub async fn start_exec(self: &Arc<Self>, exec_id: &str, ready_timeout: Duration) -> Result<i32> {
        let exec = self.exec(exec_id)?;
        let _permit = calls::acquire(&self.starts).await?;
        exec.process.begin(Phase::Added)?;
        let counted = Arc::new(AtomicBool::new(false));
        let owner = self.context.owner(&self.id, self.streams, ready_timeout);
        let (runtime, id, process) =
            (Arc::clone(&self.runtime), self.id.clone(), std::mem::take(&mut *lock(&exec.spec)));
        let pid_file = self.pid_file(exec_id);
        let (task, is_counted) = (Arc::clone(self), Arc::clone(&counted));
        // The streams must be open first, and may never be: neither a pause nor init's exit waits for that.
        let make = move |streams| {
            let _freezing = task.freezing.blocking_read();
            task.count_exec()?;
            is_counted.store(true, Ordering::SeqCst);
            runtime.exec(ExecRequest { id, process, streams, pid_file })
        };
        match launch(&self.context.reaper, &exec.process.addresses, owner, true, make)
            .await
            .context("OCI runtime exec failed")
        {
            Ok((started, copying)) => {
                let pid = started.pid;
                exec.process.launched(Phase::Running, &started, copying);
                self.context.publisher.publish(events::TaskExecStarted {
                    container_id: self.id.clone(),
                    exec_id: exec_id.to_owned(),
                    pid: pid.cast_unsigned(),
                    ..Default::default()
                });
                let task = Arc::clone(self);
                let watching = async move {
                    let exit = started.exit.await.unwrap_or_else(|_| Exit::now(255));
                    ExitRecord::write(&task.bundle, &exec.process.exec_id, pid, exit);
                    exec.process.wait_output_read().await;
                    task.publish_exit(&exec.process.exec_id, &exec.process, exit);
                    task.exec_is_done();
                };
                tokio::spawn(watching.in_current_span());
                Ok(pid)
            }
            Err(error) => {
                // The namespaces to join have disappeared, at whatever step of the start.
                let stopped = error.kind() == ErrorKind::Other && self.init_is_ending();
                exec.process.set_exited(Exit::now(255));
                if counted.load(Ordering::SeqCst) {
                    self.exec_is_done();
                }
                Err(if stopped { error.with_kind(ErrorKind::InvalidState).context(STOPPED) } else { error })
            }
        }
    }

    fn init_is_ending(&self) -> bool {
        // The pid cannot be reused until the process is reaped, which `init_exited` records.
        lock(&self.pending_exit).init_exited || is_exiting(self.init.pid()).unwrap_or(false)
    }

    /// Counts one more exec, whose exit must be published before init's.
    fn count_exec(&self) -> Result<()> {
        let mut pending_exit = lock(&self.pending_exit);
        if pending_exit.init_exited {
            return Err(Error::new(ErrorKind::InvalidState, STOPPED));
        }
        pending_exit.execs += 1;
        Ok(())
    }

    fn exec_is_done(&self) {
        lock(&self.pending_exit).execs -= 1;
        self.publish_init_exit();
    }

    fn pid_file(&self, exec_id: &str) -> PathBuf {
        // An exec may be called init, but that file name is init's own.
        let name = if exec_id == "init" { "exec.init" } else { exec_id };
        self.bundle.join(format!("{name}.pid"))
    }

    /// Removes an exec that is not running.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] while it is running.
    pub async fn delete_exec(&self, exec_id: &str) -> Result<(i32, Exit)> {
        let exec = self.exec(exec_id)?;
        let exit = match exec.process.phase() {
            Phase::Starting | Phase::Running | Phase::Created => {
                return Err(Error::new(ErrorKind::InvalidState, format!("process {exec_id} is running")));
            }
            // It cannot be started from here on.
            Phase::Added => {
                exec.process.begin(Phase::Added)?;
                let exit = Exit::now(0);
                exec.process.set_exited(exit);
                exit
            }
            Phase::Stopped => exec.process.wait().await,
        };
        exec.process.drain().await;
        lock(&self.execs).remove(exec_id);
        remove_if_there(&self.pid_file(exec_id))?;
        ExitRecord::remove(&self.bundle, exec_id)?;
        Ok((exec.process.pid(), exit))
    }
}
