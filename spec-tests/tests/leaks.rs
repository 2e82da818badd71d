//! Leaks of a runtime are found, named with the case, removed, and not blamed on the next case; a run that is
//! killed in the middle leaves nothing. The runtimes here are shell scripts that misbehave. Needs root, as judging
//! does.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::write_program;

/// A case that calls `create` once, and the case after it.
const FIRST: &str = "a root.path that is not there is refused";

/// A directory that workers see as it is: what lies in /tmp is hidden from them, but for the runtime itself.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

/// Shell text that makes a cgroup of this name below the worker's own, and `$made` its path. The parent of the worker's
/// cgroups is the id without its last number.
fn makes_cgroup(name: &str) -> String {
    format!(
        "for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/pids; do [ ! -e $top/cgroup.procs ] || \
         {{ made=$top/${{id%-*}}/{name}; mkdir -p $made && break; }}; done"
    )
}

/// The processes whose command line contains `words`.
fn running(words: &[&str]) -> Vec<String> {
    let wanted = words.join("\0");
    let found = fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let found = fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
        found.contains(&wanted).then_some(found)
    });
    found.collect()
}

/// A runtime whose `create` runs this shell text once, the first time of all, and then says no, as it always does.
fn misbehaving(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    let mark = directory.join(format!("{name}.done"));
    let script = format!(
        "#!/bin/sh\nroot=$2\nfor id; do :; done\ncase \" $* \" in\n*' create '*)\n  if [ ! -e '{mark}' ]; then\n    : >'{mark}'\n    \
         {text}\n  fi;;\nesac\necho \"this runtime does nothing\" >&2\nexit 1\n",
        mark = mark.display()
    );
    write_program(&path, &script);
    path
}

/// The verdicts of the cases about root, in their order, as (name, text of the failure). Each command of a runtime's
/// may take so many seconds.
fn run_cases(runtime: &Path, directory: &Path, deadline: u32) -> Vec<(String, Option<String>)> {
    let report = directory.join("report.json");
    let done = Command::new(env!("CARGO_BIN_EXE_spec-tests"))
        .arg("--runtime")
        .arg(runtime)
        .args(["--only", FIRST, "--only", "a bind mount's missing source is refused"])
        .args(["--workers", "1", "--deadline", &deadline.to_string(), "--json"])
        .arg(&report)
        .output()
        .expect("the harness runs");
    let text = fs::read(&report).unwrap_or_else(|_| panic!("no report: {done:?}"));
    let reports: Vec<Value> = serde_json::from_slice(&text).expect("JSON");
    let one = |report: &Value| {
        let failure = report["verdict"]["failed"].as_str().map(str::to_owned);
        (report["case"].as_str().unwrap_or_default().to_owned(), failure)
    };
    reports.iter().map(one).collect()
}

/// Runs a misbehaving runtime: the first case must fail and the second pass, and the first's text must contain `words`.
fn check(name: &str, text: &str, words: &[&str]) {
    check_within(60, name, text, words);
}

fn check_within(deadline: u32, name: &str, text: &str, words: &[&str]) {
    assert!(nix::unistd::geteuid().is_root(), "this test runs a runtime, which requires root");
    let directory = directory();
    let verdicts = run_cases(&misbehaving(directory.path(), name, text), directory.path(), deadline);
    let [(first, failure), (_, next)] = &verdicts[..] else { panic!("expected two cases: {verdicts:?}") };
    assert_eq!(first, FIRST);
    let failure = failure.as_deref().unwrap_or_else(|| panic!("{name} was not detected: {verdicts:?}"));
    for word in words {
        assert!(failure.contains(word), "{name}: expected {word:?} in {failure:?}");
    }
    assert_eq!(*next, None, "{name}: the next case is blamed");
}

#[test]
fn a_runtime_that_only_refuses_leaves_nothing() {
    let directory = directory();
    let verdicts = run_cases(&misbehaving(directory.path(), "quiet", ":"), directory.path(), 60);
    assert!(verdicts.len() == 2 && verdicts.iter().all(|(_, failure)| failure.is_none()), "{verdicts:?}");
}

#[test]
fn a_process_is_found() {
    check("process", "sleep 4321 </dev/null >/dev/null 2>&1 &", &["left behind: the process", "sleep 4321"]);
    assert_eq!(running(&["sleep", "4321"]), [""; 0], "it was found, and still runs");
}

#[test]
fn a_process_of_a_runtime_that_has_exited_is_found() {
    let directory = directory();
    let text = "mkdir -p \"$root/$id\"; rm \"$0\"; sleep 4322 </dev/null >/dev/null 2>&1 &";
    let verdicts = run_cases(&misbehaving(directory.path(), "gone", text), directory.path(), 60);
    let failure = verdicts[0].1.as_deref().unwrap_or_default();
    assert!(failure.contains("left behind: the process") && failure.contains("left behind: a record"), "{verdicts:?}");
    assert_eq!(running(&["sleep", "4322"]), [""; 0], "it still runs");
}

#[test]
fn a_mount_is_found() {
    let text = "mkdir -p \"$root/mounted\"; mount -t tmpfs left \"$root/mounted\"";
    check("mount", text, &["left behind: a mount at", "/mounted"]);
}

#[test]
fn a_record_is_found() {
    check("record", "mkdir -p \"$root/$id\"", &["left behind: a record at"]);
}

#[test]
fn a_cgroup_is_found() {
    check("cgroup", &makes_cgroup("left"), &["left behind: the cgroup", "/left"]);
}

#[test]
fn a_runtime_that_hangs_is_killed() {
    check_within(10, "hang", "sleep 5432", &["still ran after 10 s"]);
}

#[test]
fn files_are_found() {
    for place in ["/tmp/left", "/run/left", "/var/tmp/left", "/dev/shm/left"] {
        check("file", &format!(": >{place}"), &[&format!("left behind: the file {place}")]);
        assert!(!Path::new(place).exists(), "{place} is this machine's own");
    }
    check("tree", "mkdir -p /tmp/left/below; : >/tmp/left/below/file", &["left behind: the file /tmp/left"]);
}

/// The harness by itself.
fn harness() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spec-tests"));
    command.args(["--workers", "1"]);
    command
}

/// Starts a run by `command`, and signals it while its runtime has a process in a cgroup, a mount, a file and a record.
/// Returns the directories that it shared with a bed, which are removed.
fn interrupt(mut command: Command, signal: Signal, number: &str) -> Vec<PathBuf> {
    let directory = directory();
    let mark = directory.path().join("mark");
    let text = format!(
        "{}; setsid sleep {number} </dev/null >/dev/null 2>&1 & echo $! >$made/cgroup.procs\n    \
         mkdir -p \"$root/$id\" /tmp/left-{number}; mount -t tmpfs left /tmp/left-{number}\n    \
         echo $made >'{mark}.new'; mv '{mark}.new' '{mark}'; sleep {number}",
        makes_cgroup("left"),
        mark = mark.display()
    );
    let runtime = misbehaving(directory.path(), "endless", &text);
    command.arg("--runtime").arg(&runtime).args(["--only", FIRST]).stdout(Stdio::null());
    let mut run = command.spawn().expect("the harness runs");
    wait_until("the case to be in its middle", || mark.exists());
    let cgroup = PathBuf::from(fs::read_to_string(&mark).expect("the mark").trim());
    assert!(cgroup.is_dir(), "{}", cgroup.display());
    wait_until("the runtime's process to run", || !running(&["sleep", number]).is_empty());
    let shared = shared_for(&runtime);
    kill(Pid::from_raw(i32::try_from(run.id()).expect("a pid")), signal).expect("a signal");
    run.wait().expect("its status");
    wait_until("its processes to be gone", || running(&["sleep", number]).is_empty());
    wait_until("the workers to be gone", || running(&[&runtime.to_string_lossy()]).is_empty());
    let parent = cgroup.parent().expect("the worker's cgroup");
    wait_until("its cgroups to be gone", || !parent.exists());
    let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
    assert!(!mounts.contains(&format!("left-{number}")), "a mount is left");
    assert!(!Path::new(&format!("/tmp/left-{number}")).exists(), "a directory is left");
    assert!(!shared.iter().any(|path| path.exists()), "one of these is left: {shared:?}");
    shared
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    // Where the harness is not built yet, `spec` does that first.
    let deadline = Instant::now() + Duration::from_secs(600);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_run_that_is_killed_leaves_nothing() {
    interrupt(harness(), Signal::SIGKILL, "6543");
}

#[test]
fn a_terminated_run_leaves_nothing() {
    interrupt(harness(), Signal::SIGTERM, "6544");
}

#[test]
fn a_terminated_run_in_a_bed_leaves_nothing() {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("spec"));
    command.arg("host");
    let shared = interrupt(command, Signal::SIGTERM, "6545");
    assert_eq!(shared.len(), 1, "where host and bed meet: {shared:?}");
}

/// The directories that the host shares with the beds in which this runtime is tested.
fn shared_for(runtime: &Path) -> Vec<PathBuf> {
    let beds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/beds");
    let entries = fs::read_dir(beds).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let orders = |path: &PathBuf| fs::read_to_string(path.join("order.json")).unwrap_or_default();
    entries.filter(|path| orders(path).contains(&*runtime.to_string_lossy())).collect()
}
