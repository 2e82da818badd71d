//! Another OCI runtime, run by its command: the one that BinaryName names (runc's command line).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{ErrorKind as IoErrorKind, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use brig_engine::cgroup::{Cgroup, CgroupRecord, OomWatch, Stats};
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::process::Pidfd;
use brig_engine::{AfterCheckpoint, CheckpointOptions, CriuFeatures, Launched, Status};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::Deserialize;

use super::{CreateRequest, ExecRequest, RestoreRequest, Streams};

/// The command of a runtime.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The binary, a path or a name on PATH.
    pub binary: PathBuf,
    /// The value of `--root`.
    pub root: PathBuf,
    /// Whether `--systemd-cgroup` is passed.
    pub systemd_cgroup: bool,
    /// The value of `--log` of every verb, as go-runc passes it: a wrapper may rely on it.
    pub log: PathBuf,
}

/// The fields of `state`'s output that are used here.
#[derive(Deserialize)]
struct State {
    status: String,
    bundle: PathBuf,
    #[serde(default)]
    pid: i32,
}

impl Foreign {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--root").arg(&self.root);
        command.arg("--log").arg(&self.log).args(["--log-format", "json"]);
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup");
        }
        command
    }

    /// The error of a verb that failed: its standard error, else the new entries of the log, which held `log_len` bytes.
    fn failure(&self, stderr: &[u8], status: ExitStatus, log_len: u64) -> Error {
        let printed = String::from_utf8_lossy(stderr);
        match printed.trim() {
            "" => classify(&last_error(&self.log, log_len).unwrap_or_else(|| status.to_string())),
            printed => classify(printed),
        }
    }

    /// The log's size in bytes.
    fn log_len(&self) -> u64 {
        std::fs::metadata(&self.log).map_or(0, |metadata| metadata.len())
    }

    /// Runs a verb, and returns its standard output.
    fn output(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
        let unable = || format!("unable to execute the runtime {:?} (BinaryName)", self.binary);
        let log_len = self.log_len();
        let mut command = self.command();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(unable)?;
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(input) {
                // The command may exit without reading all of its input.
                Err(error) if error.kind() != IoErrorKind::BrokenPipe => return Err(error).with_context(unable),
                _ => {}
            }
        }
        let output = child.wait_with_output().with_context(unable)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(self.failure(&output.stderr, output.status, log_len))
    }

    pub(super) fn run(&self, arguments: &[&str]) -> Result<()> {
        self.output(arguments, b"").map(|_| ())
    }

    pub(super) fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let signal = signal.to_string();
        if all { self.run(&["kill", "--all", id, &signal]) } else { self.run(&["kill", id, &signal]) }
    }

    pub(super) fn delete(&self, id: &str, force: bool) -> Result<()> {
        if force { self.run(&["delete", "--force", id]) } else { self.run(&["delete", id]) }
    }

    fn state(&self, id: &str) -> Result<State> {
        serde_json::from_slice(&self.output(&["state", id], b"")?).context("state printed no JSON")
    }

    pub(super) fn status(&self, id: &str) -> Result<(Status, PathBuf)> {
        let state = self.state(id)?;
        let all = [Status::Creating, Status::Created, Status::Running, Status::Paused, Status::Stopped];
        let status = all.into_iter().find(|status| status.as_str() == state.status);
        let status =
            status.ok_or_else(|| Error::other(format!("state printed an unknown status {:?}", state.status)))?;
        Ok((status, state.bundle))
    }

    pub(super) fn pids(&self, id: &str) -> Result<Vec<i32>> {
        let printed = self.output(&["ps", "--format", "json", id], b"")?;
        let pids: Option<Vec<i32>> = serde_json::from_slice(&printed).context("ps printed no JSON")?;
        Ok(pids.unwrap_or_default())
    }

    pub(super) fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<()> {
        let log_len = self.log_len();
        let mut command = self.command();
        command.arg("checkpoint").arg("--image-path").arg(&options.images);
        if options.work != Path::new("") {
            command.arg("--work-path").arg(&options.work);
        }
        let has = |feature| options.common.features.contains(feature);
        let flags = [
            (options.after != AfterCheckpoint::Stop, "--leave-running"),
            (has(CriuFeatures::TCP_ESTABLISHED), "--tcp-established"),
            (has(CriuFeatures::EXTERNAL_UNIX), "--ext-unix-sk"),
            (has(CriuFeatures::SHELL_JOB), "--shell-job"),
            (has(CriuFeatures::FILE_LOCKS), "--file-locks"),
        ];
        command.args(flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag)).arg(id);
        let output = command
            .output()
            .with_context(|| format!("unable to execute the runtime {:?} (BinaryName)", self.binary))?;
        if output.status.success() { Ok(()) } else { Err(self.failure(&output.stderr, output.status, log_len)) }
    }

    pub(super) fn stats(&self, id: &str) -> Result<Stats> {
        self.cgroup(id)?.stats()
    }

    pub(super) fn oom_watch(&self, id: &str) -> Result<Option<OomWatch>> {
        self.cgroup(id)?.oom_watch()
    }

    /// The container's cgroup: from runc's record, or, with a runtime that keeps another record, that of init.
    fn cgroup(&self, id: &str) -> Result<Cgroup> {
        /// The fields of runc's record that are used here.
        #[derive(Deserialize)]
        struct Record {
            cgroup_paths: BTreeMap<String, PathBuf>,
        }
        let path = self.root.join(id).join("state.json");
        match std::fs::read(&path) {
            Ok(bytes) => {
                let Record { cgroup_paths: paths } =
                    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
                Ok(Cgroup::from_record(&CgroupRecord { paths, ..CgroupRecord::default() }))
            }
            Err(error) if error.kind() == IoErrorKind::NotFound => match self.state(id)?.pid {
                0 => Err(Error::new(ErrorKind::NotRunning, "container not running")),
                pid => Cgroup::of_process(pid),
            },
            Err(error) => Err(error).with_context(|| format!("unable to read {}", path.display())),
        }
    }

    pub(super) fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        self.output(&["update", "--resources", "-", id], resources).map(|_| ())
    }

    pub(super) fn create(&self, request: CreateRequest) -> Result<Launched> {
        let pid_file = request.bundle.join("init.pid");
        self.launch(&pid_file, request.streams, |command| {
            command.arg("create").arg("--bundle").arg(&request.bundle);
            if request.no_pivot {
                command.arg("--no-pivot");
            }
            if request.no_new_keyring {
                command.arg("--no-new-keyring");
            }
            &request.id
        })
    }

    pub(super) fn restore(&self, request: RestoreRequest) -> Result<Launched> {
        let RestoreRequest { id, bundle, checkpoint, streams } = request;
        self.launch(&bundle.join("init.pid"), streams, |command| {
            command.args(["restore", "--detach", "--no-subreaper", "--bundle"]).arg(&bundle);
            command.arg("--image-path").arg(&checkpoint.images);
            if checkpoint.work != Path::new("") {
                command.arg("--work-path").arg(&checkpoint.work);
            }
            &id
        })
    }

    pub(super) fn exec(&self, request: ExecRequest) -> Result<Launched> {
        // An exec may be called config, and the file of that name is the container's configuration.
        let name = request.pid_file.file_stem().unwrap_or_default().to_string_lossy();
        let file = request.pid_file.with_file_name(format!("exec.{name}.json"));
        brig_engine::replace(&file, &request.process, 0o600)?;
        let launched = self.launch(&request.pid_file, request.streams, |command| {
            command.args(["exec", "--detach", "--process"]).arg(&file);
            &request.id
        });
        let removed = std::fs::remove_file(&file).with_context(|| format!("unable to remove {}", file.display()));
        launched.and_then(|launched| removed.map(|()| launched))
    }

    /// Runs create or exec, and finds the process by its pid file. The process becomes this process's child when the
    /// command exits, and its pid cannot be reused then, because the caller holds the reaper.
    fn launch<'a>(
        &self,
        pid_file: &Path,
        streams: Streams,
        verb: impl FnOnce(&mut Command) -> &'a str,
    ) -> Result<Launched> {
        let log_len = self.log_len();
        let mut command = self.command();
        let id = verb(&mut command);
        command.arg("--pid-file").arg(pid_file);
        let console = match streams {
            Streams::Terminal => {
                let console = ConsoleSocket::new()?;
                command.arg("--console-socket").arg(&console.path);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                Some(console)
            }
            Streams::Fds([stdin, stdout, stderr]) => {
                command.stdin(stdin).stdout(stdout).stderr(stderr);
                None
            }
        };
        command.arg::<&OsStr>(id.as_ref());
        let status = command
            .status()
            .with_context(|| format!("unable to execute the runtime {:?} (BinaryName)", self.binary))?;
        // The command's copies of the streams would keep their pipes open.
        drop(command);
        if !status.success() {
            return Err(self.failure(&[], status, log_len));
        }
        let pid =
            std::fs::read_to_string(pid_file).with_context(|| format!("unable to read {}", pid_file.display()))?;
        let pid: i32 = pid.trim().parse().map_err(|_| Error::other(format!("{} holds no pid", pid_file.display())))?;
        let pidfd = Pidfd::open(pid)?;
        let terminal = console.map(ConsoleSocket::receive).transpose()?;
        Ok(Launched { pid, pidfd, terminal, pipes: None, notify: None })
    }
}

/// The last error in a JSON log of runc's form, after its first `from` bytes.
fn last_error(log: &Path, from: u64) -> Option<String> {
    let mut text = String::new();
    let mut file = std::fs::File::open(log).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    file.read_to_string(&mut text).ok()?;
    text.lines().rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line.get("level")? == "error").then(|| line.get("msg")?.as_str().map(str::to_owned)).flatten()
    })
}

/// Maps another runtime's error texts to the engine's error kinds. Texts are matched in this place only.
fn classify(text: &str) -> Error {
    let known = [
        ("does not exist", ErrorKind::NotFound),
        ("already exists", ErrorKind::AlreadyExists),
        ("container not running", ErrorKind::NotRunning),
        ("process already finished", ErrorKind::NotRunning),
        ("no such process", ErrorKind::NotRunning),
        ("executable file not found", ErrorKind::Executable),
        ("paused", ErrorKind::InvalidState),
        ("stopped", ErrorKind::InvalidState),
    ];
    let kind = known.iter().find(|(words, _)| text.contains(words)).map_or(ErrorKind::Other, |(_, kind)| *kind);
    Error::new(kind, text)
}

/// A socket on which the runtime sends a terminal's master; removed when it is dropped.
struct ConsoleSocket {
    directory: PathBuf,
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    fn new() -> Result<ConsoleSocket> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A short path: the bundle's path may exceed the length limit of a socket address.
        let directory = std::env::temp_dir().join(format!("brig-console-{}-{number}", std::process::id()));
        let unable = || format!("unable to make a console socket in {}", directory.display());
        std::fs::DirBuilder::new().mode(0o700).create(&directory).with_context(unable)?;
        let path = directory.join("console.sock");
        let listener = UnixListener::bind(&path).with_context(unable)?;
        listener.set_nonblocking(true).with_context(unable)?;
        Ok(ConsoleSocket { directory, path, listener })
    }

    /// Receives the master. The runtime has sent it before its command exited.
    fn receive(self) -> Result<OwnedFd> {
        const NONE: &str = "the runtime sent no terminal";
        let (connection, _) = self.listener.accept().context(NONE)?;
        connection.set_nonblocking(false).context(NONE)?;
        // The data is the terminal's name, which is not used.
        let mut name = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut receive =
            || recvmsg(&connection, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC);
        rustix::io::retry_on_intr(&mut receive).context(NONE)?;
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        master.ok_or_else(|| Error::other(NONE))
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            tracing::warn!("unable to remove {}: {error}", self.directory.display());
        }
    }
}
