//! A bed that is terminated, or whose caller exits, stops its machine and removes its files. The machine in these tests
//! is `sleep`.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::write_program;

/// A bed's script beside the others' common part.
fn bed(directory: &Path, seconds: &str) -> PathBuf {
    let common = Path::new(env!("CARGO_MANIFEST_DIR")).join("beds/common");
    let path = directory.join("bed");
    let script = format!(
        "#!/bin/sh\nset -eu\n. '{}'\nmake_bed sleeping \"$1\"\nattend sleeping sleep {seconds}\n",
        common.display()
    );
    write_program(&path, &script);
    path
}

/// The process with these arguments.
fn running(words: &[&str]) -> Option<Pid> {
    let wanted: String = words.iter().flat_map(|word| [word, "\0"]).collect();
    let pid = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().parse().ok();
    let found = fs::read_dir("/proc").expect("/proc").filter_map(Result::ok).find_map(|entry| {
        let words = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (words == wanted).then(|| pid(&entry))?
    });
    found.map(Pid::from_raw)
}

fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::yield_now();
    }
}

/// Starts a bed by this command line, ends what was started by this signal, and waits until nothing is left.
fn ends(words: &[&str], signal: Signal, seconds: &str) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let share = directory.path().join("share");
    fs::create_dir(&share).expect("a directory");
    let script = bed(directory.path(), seconds);
    let mut caller = Command::new(words[0])
        .args(&words[1..])
        .arg(&script)
        .arg(&share)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the bed's caller");
    wait_until("the machine", || running(&["sleep", seconds]));
    kill(Pid::from_raw(i32::try_from(caller.id()).expect("a pid")), signal).expect("a signal");
    wait_until("the caller's end", || caller.try_wait().expect("its status"));
    wait_until("the machine's end", || running(&["sleep", seconds]).is_none().then_some(()));
    let empty = || fs::read_dir(&share).expect("the share").next().is_none().then_some(());
    wait_until("the bed's files to be gone", empty);
}

#[test]
fn a_terminated_bed_stops_its_machine() {
    // As exec leaves it: the bed itself gets the signal.
    ends(&["sh", "-c", "exec \"$@\"", "sh"], Signal::SIGTERM, "7651");
}

#[test]
fn a_bed_exits_with_its_caller() {
    ends(&["sh", "-c", "\"$@\"; exit 3", "sh"], Signal::SIGKILL, "7652");
}

#[test]
fn a_machine_stops_with_its_bed() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let mut bed = Command::new(bed(directory.path(), "7653")).arg(directory.path()).spawn().expect("the bed");
    wait_until("the machine", || running(&["sleep", "7653"]));
    bed.kill().expect("a signal");
    bed.wait().expect("its status");
    wait_until("the machine's end", || running(&["sleep", "7653"]).is_none().then_some(()));
}
