//! What a runtime leaves behind is found, named with the case, removed, and not blamed on the next case. The runtimes
//! here are shell scripts that misbehave. Needs root, as judging does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// A case that calls `create` once, and the case after it.
const FIRST: &str = "a root.path that is not there is refused";

/// A runtime whose `create` runs this shell text once, the first time of all, and then says no, as it always does.
fn misbehaving(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    let mark = directory.join(format!("{name}.done"));
    let script = format!(
        "#!/bin/sh\nroot=$2\nfor id; do :; done\ncase \" $* \" in\n*' create '*)\n  if [ ! -e '{mark}' ]; then\n    : >'{mark}'\n    \
         {text}\n  fi;;\nesac\necho \"this runtime does nothing\" >&2\nexit 1\n",
        mark = mark.display()
    );
    fs::write(&path, script).expect("a script");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    path
}

/// The verdicts of the cases about root, in their order, as (name, text of the failure).
fn judge(runtime: &Path, directory: &Path) -> Vec<(String, Option<String>)> {
    let report = directory.join("report.json");
    let done = Command::new(env!("CARGO_BIN_EXE_spec-tests"))
        .arg("--runtime")
        .arg(runtime)
        .args(["--only", FIRST, "--only", "a bind mount's missing source is refused"])
        .args(["--workers", "1", "--deadline", "3", "--json"])
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

/// Runs a misbehaving runtime; the first case must be told apart from the second, and its text hold these words.
fn check(name: &str, text: &str, words: &[&str]) {
    assert!(nix::unistd::geteuid().is_root(), "this test judges runtimes, which takes root");
    let directory = tempfile::tempdir().expect("a directory");
    let verdicts = judge(&misbehaving(directory.path(), name, text), directory.path());
    let [(first, failure), (_, next)] = &verdicts[..] else { panic!("two cases were to run: {verdicts:?}") };
    assert_eq!(first, FIRST);
    let failure = failure.as_deref().unwrap_or_else(|| panic!("{name} went unseen: {verdicts:?}"));
    for word in words {
        assert!(failure.contains(word), "{name}: expected {word:?} in {failure:?}");
    }
    assert_eq!(*next, None, "{name}: the next case is blamed");
}

#[test]
fn a_runtime_that_only_refuses_leaves_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let verdicts = judge(&misbehaving(directory.path(), "quiet", ":"), directory.path());
    assert!(verdicts.len() == 2 && verdicts.iter().all(|(_, failure)| failure.is_none()), "{verdicts:?}");
}

#[test]
fn a_process_is_found() {
    check("process", "sleep 4321 </dev/null >/dev/null 2>&1 &", &["left behind: the process", "sleep 4321"]);
    let left = fs::read_dir("/proc").expect("/proc").filter_map(|entry| {
        let words = fs::read_to_string(entry.ok()?.path().join("cmdline")).ok()?;
        words.contains("sleep\x004321").then_some(words)
    });
    assert_eq!(left.count(), 0, "it was found, and still runs");
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
    // The parent of the worker's cgroups is the id without its last number.
    let text = "for top in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/pids; do [ ! -e $top/cgroup.procs ] || \
                { mkdir -p $top/${id%-*}/left && break; }; done";
    check("cgroup", text, &["left behind: the cgroup", "/left"]);
}

#[test]
fn a_runtime_that_hangs_is_ended() {
    check("hang", "sleep 5432", &["still ran after 3 s"]);
}
