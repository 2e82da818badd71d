//! Cgroups that a container's processes create below its own. Needs root.

mod bed;

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bed::{Gated, Scratch};
use brig_engine::cgroup::Cgroup;
use brig_plan::host::CgroupLayout;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::fs::{CWD, Mode, OFlags};
use serde_json::json;

/// The timeout of a verb, whatever the container has created.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The distinct directories of the container.
fn directories(cgroup: &Cgroup) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = cgroup.record().paths.into_values().collect();
    paths.sort();
    paths.dedup();
    paths
}

/// A v1 cpuset takes no process before it has CPUs and memory nodes.
fn fill_cpuset(above: &Path, below: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let (Ok(value), true) =
            (fs::read(above.join(file)), fs::read(below.join(file)).is_ok_and(|text| text == b"\n"))
        {
            fs::write(below.join(file), value).expect("a set");
        }
    }
}

/// Creates a cgroup in each of the container's directories, and moves the process there.
fn enter_below(cgroup: &Cgroup, name: &[u8], process: &Gated) {
    for path in directories(cgroup) {
        let below = path.join(OsStr::from_bytes(name));
        fs::create_dir(&below).expect("a cgroup below");
        fill_cpuset(&path, &below);
        fs::write(below.join("cgroup.procs"), process.pid().to_string()).expect("it takes a process");
    }
}

/// Kills and removes the cgroup within the timeout of a verb.
fn kill_and_remove(cgroup: &Cgroup) {
    let started = Instant::now();
    cgroup.kill_all(libc::SIGKILL).expect("killed");
    cgroup.remove().expect("removed");
    assert!(directories(cgroup).iter().all(|path| !path.exists()));
    assert!(started.elapsed() < TIMEOUT, "{:?}", started.elapsed());
}

#[test]
fn processes_in_cgroups_of_any_name_are_listed_killed_and_removed() {
    let scratch = Scratch::new("names", &json!({}));
    let names: [&[u8]; 4] = [b"\xffx", b"a\tb\x1b", b"...", &[0xfe; 250]];
    let processes: Vec<Gated> = names.iter().map(|_| Gated::idle()).collect();
    for (name, process) in names.iter().zip(&processes) {
        enter_below(&scratch.0, name, process);
    }
    let mut expected: Vec<i32> = processes.iter().map(Gated::pid).collect();
    expected.sort_unstable();
    assert_eq!(scratch.0.pids().expect("pids"), expected);
    kill_and_remove(&scratch.0);
    processes.into_iter().for_each(|process| assert!(!process.wait().success()));
}

#[test]
fn a_tree_deeper_than_a_path_and_than_the_limit_of_descriptors_is_removed() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 100, most).expect("a lower limit");
    let scratch = Scratch::new("deep", &json!({}));
    let process = Gated::idle();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for path in directories(&scratch.0) {
        let mut here: OwnedFd = rustix::fs::openat(CWD, &path, flags, Mode::empty()).expect("the cgroup");
        let name = [0xffu8; 250];
        for _ in 0..150 {
            rustix::fs::mkdirat(&here, &name[..], Mode::RWXU).expect("a cgroup below");
            here = rustix::fs::openat(&here, &name[..], flags, Mode::empty()).expect("it is there");
        }
        let procs = rustix::fs::openat(&here, "cgroup.procs", OFlags::WRONLY, Mode::empty()).expect("its file");
        // An empty v1 cpuset takes no process.
        let _ = rustix::io::write(&procs, process.pid().to_string().as_bytes());
    }
    assert_eq!(scratch.0.pids().expect("pids"), vec![process.pid()]);
    kill_and_remove(&scratch.0);
    assert!(!process.wait().success());
}

#[test]
fn a_container_with_thousands_of_cgroups_is_removed() {
    let scratch = Scratch::new("wide", &json!({}));
    let path = directories(&scratch.0).pop().expect("a directory");
    for number in 0..3000 {
        fs::create_dir(path.join(format!("{number}"))).expect("a cgroup below");
    }
    kill_and_remove(&scratch.0);
}

#[test]
fn processes_that_a_frozen_cgroup_below_holds_are_killed() {
    let scratch = Scratch::new("frozen", &json!({}));
    let process = Gated::idle();
    enter_below(&scratch.0, b"ice", &process);
    for path in directories(&scratch.0) {
        for (file, value) in [("freezer.state", "FROZEN"), ("cgroup.freeze", "1")] {
            if path.join("ice").join(file).exists() {
                fs::write(path.join("ice").join(file), value).expect("it is frozen");
            }
        }
    }
    kill_and_remove(&scratch.0);
    assert!(!process.wait().success());
}

#[test]
fn cgroups_that_are_made_while_their_container_is_removed_do_not_keep_it() {
    let mut scratch = Scratch::new("race", &json!({}));
    let path = directories(&scratch.0).pop().expect("a directory");
    let forever = format!("n=0; while :; do n=$((n+1)); mkdir {0}/$n {0}/$n/a; sleep 100 & done", path.display());
    let mut process = Gated::new(&forever);
    scratch.enter(&process);
    process.open();
    let started = Instant::now();
    while !path.join("20/a").exists() {
        assert!(started.elapsed() < TIMEOUT, "the process makes no cgroups");
        std::thread::yield_now();
    }
    kill_and_remove(&scratch.0);
}

#[test]
fn removing_a_cgroup_that_an_outside_process_uses_fails_within_the_deadline() {
    let scratch = Scratch::new("kept", &json!({}));
    let process = Gated::idle();
    enter_below(&scratch.0, b"kept", &process);
    let started = Instant::now();
    let error = scratch.0.remove().expect_err("a process is in it").to_string();
    assert!(error.contains(&format!("its processes [{}] are still running", process.pid())), "{error}");
    assert!(started.elapsed() < TIMEOUT * 2, "{:?}", started.elapsed());
    kill_and_remove(&scratch.0);
}

#[test]
fn threaded_cgroups_are_listed_and_killed() {
    if bed::layout() != CgroupLayout::V2 {
        return;
    }
    let mut scratch = Scratch::new("threads", &json!({}));
    let process = Gated::idle();
    scratch.enter(&process);
    let path = directories(&scratch.0).pop().expect("a directory");
    fs::create_dir(path.join("threaded")).expect("a cgroup below");
    fs::write(path.join("threaded/cgroup.type"), "threaded").expect("it is threaded");
    fs::create_dir(path.join("invalid")).expect("a cgroup beside");
    assert_eq!(fs::read_to_string(path.join("invalid/cgroup.type")).expect("a type"), "domain invalid\n");
    fs::write(path.join("threaded/cgroup.threads"), process.pid().to_string()).expect("it takes a thread");
    assert_eq!(scratch.0.pids().expect("pids"), vec![process.pid()]);
    // A threaded cgroup itself has neither cgroup.procs nor cgroup.kill.
    let mut record = scratch.0.record();
    record.paths.insert(String::new(), path.join("threaded"));
    let threaded = Cgroup::from_record(&record);
    assert_eq!(threaded.pids().expect("pids"), vec![process.pid()]);
    threaded.kill_all(libc::SIGKILL).expect("killed");
    assert!(!process.wait().success());
    kill_and_remove(&scratch.0);
}
