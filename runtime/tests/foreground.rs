//! run and exec in the foreground: exit codes, signals, the terminal, orphans. Needs root and busybox.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use brig_sys::tty::{open_peer, set_size};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use serde_json::{Value, json};

const BRIG: &str = env!("CARGO_BIN_EXE_brig");
const TIMEOUT: Duration = Duration::from_secs(20);

/// A bundle with busybox, and a root for its records; dropping it removes both, and kills the running processes.
struct Bundle {
    dir: tempfile::TempDir,
}

impl Bundle {
    fn new(terminal: bool, script: &str) -> Bundle {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("rootfs/bin");
        std::fs::create_dir_all(&bin).unwrap();
        // Another process makes the copy: a file open for writing here could not be executed (ETXTBSY) while a child
        // that another thread has just forked still has the fd.
        let copied = Command::new("cp").arg("/bin/busybox").arg(&bin).status().unwrap();
        assert!(copied.success(), "busybox-static is not installed");
        for name in ["sh", "cat", "echo", "sleep", "kill", "stty", "grep", "true", "readlink", "ls"] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        let bundle = Bundle { dir };
        assert!(bundle.brig(&["spec"]).output().unwrap().status.success());
        let path = bundle.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(terminal);
        config["process"]["args"] = json!(["sh", "-c", script]);
        std::fs::write(&path, config.to_string()).unwrap();
        bundle
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn root(&self) -> PathBuf {
        self.path().join("records")
    }

    fn brig(&self, args: &[&str]) -> Command {
        let mut command = Command::new(BRIG);
        command.arg("--root").arg(self.root()).args(args).current_dir(self.path()).stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.brig(args).output().unwrap()
    }

    /// Waits until the container has the status.
    fn wait_for(&self, id: &str, status: &str) {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let state: Value = serde_json::from_slice(&self.output(&["state", id]).stdout).unwrap_or_default();
            if state["status"] == status {
                return;
            }
            assert!(Instant::now() < deadline, "{id} is not {status}: {state}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(self.root()).into_iter().flatten().flatten() {
            let _ = self.brig(&["delete", "--force", &entry.file_name().to_string_lossy()]).output();
        }
    }
}

/// The id of a container of this test: cgroups are shared by all tests of the machine.
fn id(name: &str) -> String {
    format!("brig-test-{}-{name}", std::process::id())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Reads until `marker` appears.
fn read_until(file: &mut File, marker: &str) -> String {
    let deadline = Instant::now() + TIMEOUT;
    let mut found = Vec::new();
    while !text(&found).contains(marker) {
        assert!(Instant::now() < deadline, "no {marker:?} in {:?}", text(&found));
        let limit = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        if poll(&mut [PollFd::new(file, PollFlags::IN)], Some(&limit)).unwrap() == 0 {
            continue;
        }
        let mut bytes = [0; 1024];
        let count = file.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after {:?}", text(&found)));
        assert!(count > 0, "no {marker:?} in {:?}", text(&found));
        found.extend(&bytes[..count]);
    }
    text(&found)
}

#[test]
fn the_exit_code_is_the_programs() {
    let bundle = Bundle::new(false, "echo out; echo err >&2; exit 7");
    let run = bundle.output(&["run", &id("code")]);
    assert_eq!((run.status.code(), text(&run.stdout)), (Some(7), "out\n".into()));
    assert!(text(&run.stderr).contains("err\n"));
    assert_eq!(text(&bundle.output(&["list", "-q"]).stdout), "", "the record stays");
    let kept = bundle.output(&["run", "--keep", &id("code")]);
    assert_eq!(kept.status.code(), Some(7));
    bundle.wait_for(&id("code"), "stopped");
}

#[test]
fn a_trace_has_the_phases_of_both_processes() {
    let bundle = Bundle::new(false, "readlink /proc/self/fd/3; exit 0");
    let run = bundle.output(&["--trace", "trace.json", "run", &id("trace")]);
    assert_eq!((run.status.code(), text(&run.stdout)), (Some(0), String::new()), "{}", text(&run.stderr));
    let trace = std::fs::read_to_string(bundle.path().join("trace.json")).unwrap();
    // The format permits a missing closing bracket; with one, it is plain JSON.
    let events: Vec<Value> = serde_json::from_str(&format!("{}]", trace.trim_end().trim_end_matches(','))).unwrap();
    let phases = |lane: u64| -> Vec<&str> {
        let of_lane = events.iter().filter(|event| event["ph"] == "X" && event["pid"] == lane);
        of_lane.filter_map(|event| event["name"].as_str()).collect()
    };
    for (lane, name) in [(1, "read the configuration"), (1, "clone"), (1, "run"), (2, "root"), (2, "ready")] {
        assert!(phases(lane).contains(&name), "{name} of {lane} is not in {trace}");
    }
    let chart = text(&run.stderr);
    assert!(chart.contains("init root ") && chart.contains("brig clone "), "{chart}");
    // Without the flag there is no file, and no chart.
    let plain = bundle.output(&["run", &id("untraced")]);
    assert_eq!((plain.status.code(), text(&plain.stderr)), (Some(0), String::new()));
}

#[test]
fn standard_input_reaches_the_program_and_may_be_closed() {
    let bundle = Bundle::new(false, "cat; echo end");
    let mut run = bundle.brig(&["run", &id("stdin")]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    run.stdin.take().unwrap().write_all(b"some\n").unwrap();
    assert_eq!(text(&run.wait_with_output().unwrap().stdout), "some\nend\n");
    let line = format!("exec {BRIG} --root {} run {} <&- 2>&-", bundle.root().display(), id("closed"));
    let run = Command::new("sh").args(["-c", &line]).current_dir(bundle.path()).output().unwrap();
    assert_eq!((run.status.code(), text(&run.stdout)), (Some(0), "end\n".into()));
}

fn spawn_ready(bundle: &Bundle, id: &str) -> (Child, File) {
    let mut run = bundle.brig(&["run", id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = File::from(OwnedFd::from(run.stdout.take().unwrap()));
    read_until(&mut out, "ready");
    (run, out)
}

#[test]
fn signals_reach_the_program() {
    let bundle = Bundle::new(
        false,
        "trap 'echo usr1' USR1; trap 'exit 3' TERM; echo ready; while true; do sleep 60 & wait $!; kill $!; done",
    );
    let (mut run, mut out) = spawn_ready(&bundle, &id("signal"));
    let pid = Pid::from_raw(run.id().try_into().unwrap());
    kill(pid, Signal::SIGUSR1).unwrap();
    read_until(&mut out, "usr1");
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(3));
    assert_eq!(text(&bundle.output(&["list", "-q"]).stdout), "");
}

#[test]
fn a_program_that_a_signal_ended_counts_from_128() {
    let bundle = Bundle::new(false, "echo ready; exec sleep 60");
    let (mut run, _out) = spawn_ready(&bundle, &id("killed"));
    let exec = bundle.output(&["exec", &id("killed"), "sh", "-c", "kill -KILL $$"]);
    assert_eq!(exec.status.code(), Some(137));
    assert!(bundle.output(&["kill", &id("killed"), "KILL"]).status.success());
    assert_eq!(run.wait().unwrap().code(), Some(137));
}

#[test]
fn the_program_starts_with_no_signal_blocked_or_ignored() {
    let bundle = Bundle::new(false, "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; echo ready; exec sleep 60");
    let mut run = bundle.brig(&["run", &id("mask")]).stdout(Stdio::piped()).spawn().unwrap();
    let mut out = File::from(OwnedFd::from(run.stdout.take().unwrap()));
    let init = read_until(&mut out, "ready");
    let exec =
        text(&bundle.output(&["exec", &id("mask"), "grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]).stdout);
    for report in [init, exec] {
        for line in report.lines().filter(|line| line.starts_with("Sig")) {
            let bits = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            // 32 and 33 are libc's own: no program can name them.
            assert_eq!(bits & !(3 << 31), 0, "{line}");
        }
        assert_eq!(report.matches("Sig").count(), 3, "{report}");
    }
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(run.wait().unwrap().signal(), Some(9));
}

#[test]
fn an_exec_that_fails_to_start_is_distinguished_from_its_program() {
    let bundle = Bundle::new(false, "exec sleep 60");
    // The container would keep pipes open, and the test would wait for them.
    let mut run = bundle.brig(&["run", "--detach", &id("exec")]);
    assert!(run.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    for (args, message) in [
        (&["nope"][..], "exec failed: "),
        (&["nope"], "executable file not found in $PATH"),
        (&["/nope"], "no such file or directory"),
    ] {
        let output = bundle.output(&[&["exec", &id("exec")], args].concat());
        assert_eq!(output.status.code(), Some(255), "{args:?}");
        assert!(text(&output.stderr).contains(message), "{args:?}: {}", text(&output.stderr));
    }
    let output =
        bundle.output(&["exec", "-e", "A=b", "--cwd", "/bin", &id("exec"), "sh", "-c", "echo $A $PWD; exit 5"]);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(5), "b /bin\n".into()));
}

/// A terminal of the test: its master, and the slave that a command gets as its standard streams.
fn terminal(rows: u16, columns: u16) -> (File, File) {
    let master = File::options().read(true).write(true).open("/dev/ptmx").unwrap();
    let slave = File::from(open_peer(master.as_fd()).unwrap());
    set_size(master.as_fd(), rows, columns).unwrap();
    (master, slave)
}

fn on_terminal(command: &mut Command, slave: &File) -> Child {
    let stream = || Stdio::from(slave.as_fd().try_clone_to_owned().unwrap());
    command.stdin(stream()).stdout(stream()).stderr(stream()).spawn().unwrap()
}

#[test]
fn a_terminal_is_passed_through() {
    let bundle = Bundle::new(
        true,
        "stty size; trap 'stty size; trap - WINCH' WINCH; echo ready; until read line; do :; done; echo got $line; exit 4",
    );
    let (mut master, slave) = terminal(33, 99);
    let before = tcgetattr(&slave).unwrap().local_flags;
    let mut run = on_terminal(&mut bundle.brig(&["run", &id("tty")]), &slave);
    let start = read_until(&mut master, "ready");
    assert!(start.contains("33 99"), "{start:?}");
    assert!(!tcgetattr(&slave).unwrap().local_flags.contains(LocalFlags::ICANON), "not raw");
    set_size(master.as_fd(), 20, 40).unwrap();
    // The terminal is no process's controlling terminal, and therefore the kernel does not signal the command.
    kill(Pid::from_raw(run.id().try_into().unwrap()), Signal::SIGWINCH).unwrap();
    read_until(&mut master, "20 40");
    master.write_all(b"word\r").unwrap();
    read_until(&mut master, "got word");
    assert_eq!(run.wait().unwrap().code(), Some(4));
    assert_eq!(tcgetattr(&slave).unwrap().local_flags, before, "the terminal is not as it was");
}

#[test]
fn a_process_without_a_terminal_gets_pipes_for_that_of_the_caller() {
    let script = "for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done; read line; echo got $line >&2";
    let (bundle, holder) = (Bundle::new(false, script), Bundle::new(false, "echo ready; exec sleep 60"));
    let name = id("holder");
    let (mut holding, _out) = spawn_ready(&holder, &name);
    for mut command in [bundle.brig(&["run", &id("no-tty")]), holder.brig(&["exec", &name, "sh", "-c", script])] {
        let (mut master, slave) = terminal(24, 80);
        let mut child = on_terminal(&mut command, &slave);
        master.write_all(b"a line\n").unwrap();
        let shown = read_until(&mut master, "got a line");
        assert_eq!(shown.matches("pipe:[").count(), 3, "{shown}");
        assert!(child.wait().unwrap().success());
    }
    kill(Pid::from_raw(holding.id().try_into().unwrap()), Signal::SIGKILL).unwrap();
    holding.wait().unwrap();
}

#[test]
fn output_before_the_exit_is_not_lost() {
    let bundle = Bundle::new(true, "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; echo the end");
    let (_master, slave) = terminal(24, 80);
    for round in 0..3 {
        let mut command = bundle.brig(&["run", &id(&format!("drain{round}"))]);
        let output = command.stdin(slave.try_clone().unwrap()).output().unwrap();
        let lines: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 2001);
        assert_eq!(lines.last().map(String::as_str), Some("the end"));
    }
}

#[test]
fn a_terminal_without_one_to_type_on_is_refused_at_once() {
    let bundle = Bundle::new(true, "read line");
    let plain = Bundle::new(false, "exec sleep 1000");
    let detached =
        plain.brig(&["run", "-d", &id("typed")]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(detached.success());
    for (bundle, args, code) in
        [(&bundle, vec!["run", &id("untyped")], 1), (&plain, vec!["exec", "-t", &id("typed"), "cat"], 255)]
    {
        for stdin in [Stdio::null(), Stdio::piped()] {
            let output = bundle.brig(&args).stdin(stdin).output().unwrap();
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), text(&output.stdout)), (Some(code), String::new()), "{args:?}: {said}");
            assert!(["process.terminal", "--console-socket", "-d"].iter().all(|word| said.contains(word)), "{said}");
        }
    }
    assert!(!bundle.root().join(id("untyped")).exists());
}

#[test]
fn a_hangup_of_the_callers_terminal_reaches_the_container() {
    for typed in ["", "a line\r", "half a line"] {
        let bundle = Bundle::new(true, "echo ready; cat >/dev/null; exit 5");
        let (mut master, slave) = terminal(24, 80);
        let mut run = on_terminal(&mut bundle.brig(&["run", &id("hung-up")]), &slave);
        read_until(&mut master, "ready");
        master.write_all(typed.as_bytes()).unwrap();
        if !typed.is_empty() {
            // The echo shows that the input was read.
            read_until(&mut master, typed.trim_end());
        }
        drop((slave, master));
        assert_eq!(run.wait().unwrap().code(), Some(5), "{typed:?}");
    }
}

#[test]
fn the_terminal_is_restored_after_a_signal_and_after_a_failure() {
    let bundle = Bundle::new(true, "echo ready; exec sleep 60");
    let (mut master, slave) = terminal(24, 80);
    let before = tcgetattr(&slave).unwrap().local_flags;
    let mut run = on_terminal(&mut bundle.brig(&["run", &id("restore")]), &slave);
    read_until(&mut master, "ready");
    let mut exec = on_terminal(&mut bundle.brig(&["exec", "-t", &id("restore"), "nope"]), &slave);
    assert_eq!(exec.wait().unwrap().code(), Some(255));
    // sleep is init of its pid namespace: only KILL terminates it.
    assert!(bundle.output(&["kill", &id("restore"), "KILL"]).status.success());
    assert_eq!(run.wait().unwrap().code(), Some(137));
    assert_eq!(tcgetattr(&slave).unwrap().local_flags, before);
}

#[test]
fn a_console_socket_and_a_terminal_go_together() {
    let with = Bundle::new(true, "true");
    let without = Bundle::new(false, "true");
    for (bundle, args, message) in [
        (&with, &["run", "-d"][..], "cannot allocate tty if brig will detach without setting console socket"),
        (&with, &["create"], "cannot allocate tty if brig will detach without setting console socket"),
        (&with, &["run", "--console-socket", "s"], "cannot use console socket if brig will not detach or allocate tty"),
        (
            &without,
            &["create", "--console-socket", "s"],
            "cannot use console socket if brig will not detach or allocate tty",
        ),
    ] {
        let output = bundle.output(&[args, &[&id("console")]].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(text(&output.stderr).contains(message), "{args:?}: {}", text(&output.stderr));
    }
}

#[test]
fn orphans_are_reaped_and_do_not_hold_the_command() {
    // Without a pid namespace an orphan survives its parent, and this command adopts it.
    let bundle = Bundle::new(false, "sleep 60 </dev/null >/dev/null 2>&1 & exit 6");
    let path = bundle.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    std::fs::write(&path, config.to_string()).unwrap();
    let run = bundle.output(&["run", &id("orphan")]);
    assert_eq!(run.status.code(), Some(6), "{}", text(&run.stderr));
    assert_eq!(text(&bundle.output(&["list", "-q"]).stdout), "");
}

#[test]
fn descriptors_are_preserved_when_they_are_there() {
    let bundle = Bundle::new(false, "readlink /proc/self/fd/3; readlink /proc/self/fd/4");
    let line = |fds: u32, redirect: &str| {
        let root = bundle.root();
        format!("exec {BRIG} --root {} run --preserve-fds {fds} {} {redirect}", root.display(), id("fds"))
    };
    let run = |line: String| Command::new("sh").args(["-c", &line]).current_dir(bundle.path()).output().unwrap();
    assert_eq!(text(&run(line(1, "3</dev/zero 4</dev/full")).stdout), "/dev/zero\n");
    let missing = run(line(2, "3</dev/zero 4<&-"));
    assert!(text(&missing.stderr).contains("preserved-fd-1 (of 2)"), "{}", text(&missing.stderr));
}
