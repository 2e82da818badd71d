//! The environment of the shim's tests: bundles, a socket directory, and a listener for events in the place of
//! containerd.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::{
    ConnectRequest, CreateTaskRequest, DeleteRequest, DeleteResponse, Empty, ExecProcessRequest, KillRequest,
    ShutdownRequest, StartRequest, StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::events::task::{TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit};
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::{Events, TaskClient, create_events};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::{Value, json};
use ttrpc::context::{self, Context};
use ttrpc::{Client, Code};

pub const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-brig-v2");
pub const NAMESPACE: &str = "brig-shim-test";
/// The limit of each wait.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Writes a script that will be executed. Another process writes the file: one that this process had open for writing
/// could not be executed (ETXTBSY) while a child that another thread has just forked still holds a copy of the
/// descriptor.
pub fn write_program(path: &Path, text: &str) {
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(&source, text).unwrap();
    assert!(Command::new("install").args(["-m", "755"]).args([source.path(), path]).status().unwrap().success());
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The events as short lines: `exit web`, `exec-added web e1`.
#[derive(Default)]
struct EventLog {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

struct Listener(Arc<EventLog>);

impl Events for Listener {
    fn forward(&self, _: &ttrpc::TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap_or_default();
        let bytes = &envelope.event.value;
        let verb = envelope.topic.strip_prefix("/tasks/").unwrap_or(&envelope.topic).to_owned();
        let line = match verb.as_str() {
            "exit" => {
                let exit = TaskExit::parse_from_bytes(bytes).unwrap();
                format!("exit {} {}", exit.id, exit.exit_status)
            }
            "exec-added" => format!("exec-added {}", TaskExecAdded::parse_from_bytes(bytes).unwrap().exec_id),
            "exec-started" => format!("exec-started {}", TaskExecStarted::parse_from_bytes(bytes).unwrap().exec_id),
            "delete" => format!("delete {}", TaskDelete::parse_from_bytes(bytes).unwrap().exit_status),
            _ => verb,
        };
        self.0.lines.lock().unwrap().push(line);
        self.0.more.notify_all();
        Ok(Empty::new())
    }
}

/// The environment of a test. Dropping it kills every server that it started, and removes what they left.
pub struct Environment {
    directory: tempfile::TempDir,
    log: Arc<EventLog>,
    server: Option<ttrpc::Server>,
    started: Mutex<Vec<(String, PathBuf, u32)>>,
}

/// A container's bundle and configuration.
pub struct Bundle {
    pub id: String,
    pub path: PathBuf,
    pub config: Value,
}

impl Environment {
    pub fn new() -> Environment {
        assert!(rustix::process::geteuid().is_root(), "these tests want root");
        let directory = tempfile::Builder::new().prefix("bs-").tempdir().unwrap();
        let log = Arc::new(EventLog::default());
        let address = format!("unix://{}/e", directory.path().display());
        let mut events = ttrpc::Server::new()
            .bind(&address)
            .unwrap()
            .register_service(create_events(Arc::new(Listener(Arc::clone(&log)))));
        events.start().unwrap();
        Environment { directory, log, server: Some(events), started: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Creates a bundle of busybox that runs `args`.
    pub fn bundle(&self, args: &[&str]) -> Bundle {
        let id = format!("bs-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = self.path().join(&id);
        let bin = path.join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for directory in ["proc", "dev", "tmp"] {
            fs::create_dir(path.join("rootfs").join(directory)).unwrap();
        }
        // Another process copies it: a file that this process has had open for writing may still be open in a forked
        // child.
        assert!(Command::new("cp").arg("/bin/busybox").arg(bin.join("busybox")).status().unwrap().success());
        for name in ["sh", "sleep", "true", "false", "cat", "echo", "stty", "kill"] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        let namespaces: Vec<Value> =
            ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({"type": kind})).to_vec();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": process(args),
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                 "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
            ],
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{id}")},
        });
        Bundle { id, path, config }
    }

    /// Runs the shim's binary in the bundle.
    pub fn shim(&self, bundle: &Bundle, action: &str, input: &[u8]) -> Output {
        let mut child = Command::new(SHIM)
            .args(["-namespace", NAMESPACE, "-address", self.path().to_str().unwrap(), "-publish-binary", "/bin/true"])
            .args(["-id", &bundle.id, "-debug", action])
            .current_dir(&bundle.path)
            .env("TTRPC_ADDRESS", self.path().join("e"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Parameters as containerd 2.3 gives them, with a socket directory of this environment.
    pub fn params(&self, bundle: &Bundle) -> Vec<u8> {
        let params = BootstrapParams {
            instance_id: bundle.id.clone(),
            namespace: NAMESPACE.to_owned(),
            containerd_ttrpc_address: self.path().join("e").to_str().unwrap().to_owned(),
            socket_dir: Some(self.path().join("s").to_str().unwrap().to_owned()),
            ..BootstrapParams::default()
        };
        params.write_to_bytes().unwrap()
    }

    /// Writes the configuration, starts a server or joins one, and connects.
    pub fn start(&self, bundle: &Bundle) -> Shim {
        fs::write(bundle.path.join("config.json"), bundle.config.to_string()).unwrap();
        let output = self.shim(bundle, "start", &self.params(bundle));
        assert!(output.status.success(), "{output:?}");
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((result.version, result.protocol.as_str()), (3, "ttrpc"));
        let shim = Shim::connect(&result.address, &bundle.id);
        self.started.lock().unwrap().push((bundle.id.clone(), bundle.path.clone(), shim.pid));
        shim
    }

    /// Starts a container and waits for the answer of `start`, without streams.
    pub fn run(&self, bundle: &Bundle) -> Shim {
        let shim = self.start(bundle);
        shim.create(bundle, |_| {}).unwrap();
        shim.start("").unwrap();
        shim
    }

    /// Waits until the events end with `wanted`.
    pub fn expect(&self, wanted: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.log.lines.lock().unwrap();
        while lines.len() < wanted.len() {
            let left = deadline.saturating_duration_since(Instant::now());
            let (more, late) = self.log.more.wait_timeout(lines, left).unwrap();
            lines = more;
            assert!(!late.timed_out(), "{lines:?} is not {wanted:?}");
        }
        assert_eq!(*lines, wanted);
    }

    pub fn events(&self) -> Vec<String> {
        self.log.lines.lock().unwrap().clone()
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        let made = std::mem::take(&mut *self.started.lock().unwrap());
        for (id, path, pid) in &made {
            // The server may have exited, and its pid may belong to another process.
            let name = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&name).contains(NAMESPACE) {
                let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                wait(|| !Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists());
            }
            let bundle = Bundle { id: id.clone(), path: path.clone(), config: Value::Null };
            self.shim(&bundle, "delete", b"");
        }
        if let Some(events) = self.server.take() {
            events.shutdown();
        }
    }
}

/// Waits until `condition` holds.
pub fn wait(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "it did not come about within {DEADLINE:?}");
        std::thread::yield_now();
    }
}

pub fn process(args: &[&str]) -> Value {
    json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}})
}

/// A server, and the container that the calls are about.
pub struct Shim {
    pub client: TaskClient,
    pub raw: Client,
    pub address: String,
    pub id: String,
    pub pid: u32,
}

fn limit() -> Context {
    context::with_timeout(i64::try_from(DEADLINE.as_nanos()).unwrap())
}

/// The code of a failed call.
pub fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> Code {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => status.code(),
        other => panic!("{other}"),
    }
}

impl Shim {
    pub fn connect(address: &str, id: &str) -> Shim {
        let raw = Client::connect(address).unwrap();
        let client = TaskClient::new(raw.clone());
        let connected = client.connect(limit(), &ConnectRequest { id: id.to_owned(), ..Default::default() }).unwrap();
        Shim { client, raw, address: address.to_owned(), id: id.to_owned(), pid: connected.shim_pid }
    }

    pub fn create(&self, bundle: &Bundle, change: impl FnOnce(&mut CreateTaskRequest)) -> ttrpc::Result<u32> {
        let mut request = CreateTaskRequest {
            id: bundle.id.clone(),
            bundle: bundle.path.to_str().unwrap().to_owned(),
            ..Default::default()
        };
        change(&mut request);
        self.client.create(limit(), &request).map(|response| response.pid)
    }

    pub fn start(&self, exec_id: &str) -> ttrpc::Result<u32> {
        let request = StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.client.start(limit(), &request).map(|response| response.pid)
    }

    pub fn exec(
        &self,
        exec_id: &str,
        args: &[&str],
        change: impl FnOnce(&mut ExecProcessRequest),
    ) -> ttrpc::Result<()> {
        let spec = Any { value: process(args).to_string().into_bytes(), ..Any::default() };
        let mut request = ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            spec: MessageField::some(spec),
            ..Default::default()
        };
        change(&mut request);
        self.client.exec(limit(), &request).map(|_| ())
    }

    pub fn kill(&self, exec_id: &str, signal: i32, all: bool) -> ttrpc::Result<()> {
        let signal = u32::try_from(signal).unwrap();
        let request =
            KillRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), signal, all, ..Default::default() };
        self.client.kill(limit(), &request).map(|_| ())
    }

    pub fn wait(&self, exec_id: &str) -> ttrpc::Result<u32> {
        let request = WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.client.wait(limit(), &request).map(|response| response.exit_status)
    }

    /// Starts a Wait on a connection of its own; on return the shim has received the call. The thread returns its
    /// answer.
    pub fn waiter(&self, exec_id: &str) -> JoinHandle<u32> {
        let wait = WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        let connect = ConnectRequest { id: self.id.clone(), ..Default::default() };
        let wait = task_request("Wait", wait.write_to_bytes().unwrap());
        let connect = task_request("Connect", connect.write_to_bytes().unwrap());
        let (address, (sent, is_sent)) = (self.address.clone(), std::sync::mpsc::channel());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let response = runtime.block_on(async {
                let client = ttrpc::asynchronous::Client::connect(&address).await.unwrap();
                let mut waiting = Box::pin(client.request(wait));
                // Calls of one connection are received in their order: the second one's answer comes after the first
                // was received.
                tokio::select! {
                    biased;
                    early = &mut waiting => panic!("the wait is over: {early:?}"),
                    connected = client.request(connect) => drop(connected.unwrap()),
                }
                sent.send(()).unwrap();
                waiting.await.unwrap()
            });
            WaitResponse::parse_from_bytes(&response.payload).unwrap().exit_status
        });
        is_sent.recv_timeout(DEADLINE).expect("the shim did not take the call");
        thread
    }

    pub fn delete(&self, exec_id: &str) -> ttrpc::Result<DeleteResponse> {
        let request = DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.client.delete(limit(), &request)
    }

    pub fn state(&self, exec_id: &str) -> ttrpc::Result<StateResponse> {
        let request = StateRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.client.state(limit(), &request)
    }

    /// Requests the server's shutdown.
    pub fn shutdown(&self) {
        let request = ShutdownRequest { id: self.id.clone(), ..Default::default() };
        self.client.shutdown(limit(), &request).unwrap();
    }

    pub fn is_gone(&self) -> bool {
        // The server's parent has exited, so another process may have to reap it.
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).map_or(true, |stat| stat.contains(") Z "))
    }

    /// Calls a method by its names: service, method, payload.
    pub fn call(&self, service: &str, method: &str, payload: Vec<u8>) -> ttrpc::Result<Vec<u8>> {
        self.raw.request(named_request(service, method, payload)).map(|response| response.payload)
    }
}

fn task_request(method: &str, payload: Vec<u8>) -> ttrpc::Request {
    named_request("containerd.task.v2.Task", method, payload)
}

fn named_request(service: &str, method: &str, payload: Vec<u8>) -> ttrpc::Request {
    ttrpc::Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: i64::try_from(DEADLINE.as_nanos()).unwrap(),
        ..Default::default()
    }
}

/// The timeout of calls that are made directly.
pub fn call_limit() -> Context {
    limit()
}

/// The number of occurrences of each of `lines`.
pub fn count(lines: &[String]) -> HashMap<&str, usize> {
    lines.iter().fold(HashMap::new(), |mut counts, line| {
        *counts.entry(line.as_str()).or_default() += 1;
        counts
    })
}
