//! Support for the integration tests: a bundle, the command, and checks that nothing is left.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A bundle with a busybox root, its own `--root`, and an id of its own. Dropping it deletes the container.
pub struct Bundle {
    directory: tempfile::TempDir,
    pub id: String,
    /// The content of config.json, before it is written.
    pub config: Value,
    /// The runtime: brig, or a reference runtime.
    pub runtime: &'static str,
}

/// The timeout for an expected event on a busy machine.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Bundle {
    /// A container that runs `args`, with the namespaces, mounts and paths of `brig spec`.
    pub fn new(args: &[&str]) -> Bundle {
        let directory = tempfile::Builder::new().prefix("brig-test-").tempdir().unwrap();
        let bin = directory.path().join("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        copy_program("/bin/busybox", &bin.join("busybox"));
        for name in [
            "sh", "sleep", "true", "false", "cat", "id", "echo", "ls", "mount", "kill", "ps", "touch", "stat", "tty",
            "stty", "readlink", "env", "pwd", "head", "dd", "ulimit", "grep", "wc", "test", "mkdir", "sed", "sort",
            "cut",
        ] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        let made = Command::new(BRIG).args(["spec", "-b"]).arg(directory.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let text = fs::read(directory.path().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(args);
        // The default configuration requires a limit that this host may not permit.
        config["process"]["rlimits"] = json!([]);
        config["root"]["readonly"] = json!(false);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // No id is a prefix of another one, because processes are found by the id.
        let id = format!("brig-test-{}-{number:04}", std::process::id());
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        Bundle { directory, id, config, runtime: BRIG }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the root file system.
    pub fn rootfs(&self, path: &str) -> PathBuf {
        self.path().join("rootfs").join(path)
    }

    /// Replaces or adds a namespace; `None` removes it.
    pub fn namespace(&mut self, kind: &str, value: Option<Value>) {
        let list = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        list.retain(|namespace| namespace["type"] != kind);
        list.extend(value);
    }

    /// Maps the container's ids to the host's from 100000 on, in a user namespace of its own, whose root then owns the
    /// root file system.
    pub fn map_ids(&mut self) {
        self.namespace("user", Some(json!({"type": "user"})));
        let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        self.config["linux"]["uidMappings"] = map.clone();
        self.config["linux"]["gidMappings"] = map;
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.path(), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(self.rootfs(""), Some(100_000), Some(100_000)).unwrap();
    }

    pub fn write(&self) {
        fs::write(self.path().join("config.json"), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    /// A command of the runtime with this bundle's `--root`, without input.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.runtime);
        command.arg("--root").arg(self.state_root()).args(args).stdin(Stdio::null());
        command
    }

    /// The directory of `--root`.
    pub fn state_root(&self) -> PathBuf {
        self.path().join("state")
    }

    /// Runs a verb with files as its output, since a container may keep its streams open.
    pub fn brig(&self, args: &[&str]) -> Output {
        output(&mut self.command(args))
    }

    /// Runs a verb that must succeed, and returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.brig(args);
        assert!(output.status.success(), "{args:?}: {}", show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a verb that must fail with status 1, and returns its standard error.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.brig(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", show(&output));
        String::from_utf8(output.stderr).unwrap()
    }

    /// Writes config.json and runs the container in the foreground.
    pub fn run(&self) -> Output {
        self.write();
        self.brig(&["run", "-b", self.path().to_str().unwrap(), &self.id])
    }

    /// Performs [`Bundle::run`], which must exit with 0. Returns its standard output.
    pub fn run_ok(&self) -> String {
        let output = self.run();
        assert_eq!(output.status.code(), Some(0), "{}", show(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Performs [`Bundle::run`], which must be refused with status 1 and leave nothing. Returns its standard error.
    pub fn run_fails(&self) -> String {
        let output = self.run();
        assert_eq!(output.status.code(), Some(1), "{}", show(&output));
        self.assert_nothing_left();
        String::from_utf8(output.stderr).unwrap()
    }

    /// Writes config.json, creates and starts the container.
    pub fn start(&self) {
        self.create();
        self.ok(&["start", &self.id]);
    }

    /// Writes config.json and creates the container.
    pub fn create(&self) {
        self.write();
        self.ok(&["create", "-b", self.path().to_str().unwrap(), &self.id]);
    }

    /// Runs a shell command in the container, and returns its output.
    pub fn exec(&self, script: &str) -> String {
        self.ok(&["exec", &self.id, "sh", "-c", script])
    }

    /// The output of `state`.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.id])).unwrap()
    }

    /// Waits until the container has the status.
    pub fn wait_for(&self, status: &str) {
        wait_until(&format!("status {status}"), || self.state()["status"] == status);
    }

    /// Fails if the container's directory, a cgroup, a mount or a process of it is left.
    pub fn assert_nothing_left(&self) {
        assert!(!self.state_root().join(&self.id).exists(), "the state directory is left");
        let cgroups = self.cgroups();
        assert!(cgroups.is_empty(), "cgroups are left: {cgroups:?}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.path().to_str().unwrap();
        assert!(!mounts.contains(own), "mounts are left");
        wait_until("no process with this root", || self.processes().is_empty());
    }

    /// Directories of this container below /sys/fs/cgroup.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
        roots.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path()));
        roots.into_iter().map(|root| root.join(&self.id)).filter(|path| path.exists()).collect()
    }

    /// Processes whose command line or cgroup names this bundle or container. Exited ones are left to their parents.
    pub fn processes(&self) -> Vec<i32> {
        let names = |pid: &i32| {
            if fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z ")) {
                return false;
            }
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let group = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(&self.id) || group.contains(&self.id)
        };
        pids().into_iter().filter(|pid| *pid != nix::unistd::getpid().as_raw()).filter(names).collect()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let deleted = self.brig(&["delete", "-f", &self.id]);
        if !std::thread::panicking() {
            assert!(deleted.status.success(), "{}", show(&deleted));
            self.assert_nothing_left();
        }
    }
}

/// The command under test.
pub const BRIG: &str = env!("CARGO_BIN_EXE_brig");

/// A cgroup at a container's path, in one hierarchy, that does not belong to the container. Dropping this removes it.
pub struct ForeignCgroup {
    path: PathBuf,
    process: Option<Child>,
}

impl ForeignCgroup {
    /// Creates it, with a process in it if `populated`.
    pub fn make(path: &Path, populated: bool) -> ForeignCgroup {
        fs::create_dir(path).unwrap();
        let process = populated.then(|| Command::new("sleep").arg("1000").spawn().unwrap());
        if let Some(process) = &process {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(path.parent().unwrap().join(file)) {
                    fs::write(path.join(file), value).unwrap();
                }
            }
            fs::write(path.join("cgroup.procs"), process.id().to_string()).unwrap();
        }
        ForeignCgroup { path: path.to_owned(), process }
    }

    /// Fails unless the cgroup and its process are still there.
    pub fn assert_untouched(&mut self) {
        assert!(self.path.exists(), "{} is gone", self.path.display());
        if let Some(process) = &mut self.process {
            assert_eq!(process.try_wait().unwrap(), None, "its process in {} is gone", self.path.display());
        }
    }
}

impl Drop for ForeignCgroup {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        wait_until("the cgroup to be empty", || match fs::remove_dir(&self.path) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
            Ok(()) => true,
        });
    }
}

/// Copies a program that a container will execute, by another process: a file that this process had open for writing
/// could not be executed (ETXTBSY) while a child that another thread has just forked still holds a copy of the fd.
pub fn copy_program(from: impl AsRef<std::ffi::OsStr>, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "unable to make {} (is the package busybox-static installed?)", to.display());
}

/// Writes a script that will be executed; see [`copy_program`].
pub fn write_program(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let source = tempfile::NamedTempFile::new().unwrap();
    fs::write(&source, text).unwrap();
    copy_program(source.path(), path);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs a command with its output in files: a process that it leaves behind does not block the test.
pub fn output(command: &mut Command) -> Output {
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdout(out.try_clone().unwrap()).stderr(err.try_clone().unwrap());
    let status = command.status().unwrap();
    let read = |mut file: fs::File| {
        use std::io::{Read, Seek};
        let mut bytes = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).unwrap();
        bytes
    };
    Output { status, stdout: read(out), stderr: read(err) }
}

/// Formats an output for a message.
pub fn show(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}\nstdout: {}\nstderr: {}", output.status, text(&output.stdout), text(&output.stderr))
}

/// Every pid of the host.
pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect()
}

/// Waits until a process executes its program, for which `start` does not wait.
pub fn wait_for_program(pid: i64, name: &str) {
    let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    // The environment is written last (fs/binfmt_elf.c, create_elf_tables).
    let begin = [name.as_bytes(), &[0]].concat();
    wait_until(name, || read("cmdline").starts_with(&begin) && !read("environ").is_empty());
}

/// Waits for a condition, with a timeout of half a minute.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + EVENT_TIMEOUT;
    while !condition() {
        assert!(Instant::now() < deadline, "no {what} within {EVENT_TIMEOUT:?}");
        // The pause leaves a processor to the awaited process.
        std::thread::sleep(Duration::from_millis(1));
    }
}
