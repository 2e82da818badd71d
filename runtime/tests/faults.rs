//! Kills the parent, and the process that becomes the container's, at every step of create, run and exec. Afterwards
//! `delete -f` succeeds, and nothing is left.

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use brig_engine::init_steps;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Bundle, ForeignCgroup, pids, wait_until};

const PARENT_STEPS: &[&str] = &[
    "parent:reserved",
    "parent:recorded",
    "parent:cgroup",
    "parent:owned",
    "parent:cloned",
    "parent:went",
    "parent:answered",
];

/// Steps of the parent in an exec.
const PARENT_STEPS_OF_EXEC: &[&str] = &["parent:cloned", "parent:went", "parent:answered"];

/// Starts a verb and waits until a process reports that it stopped at `step`.
fn stopped(bundle: &Bundle, args: &[&str], step: &str) -> Child {
    let mut command = bundle.command(args);
    command.env("BRIG_STOP_AT", step).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let mut said = Vec::new();
    for line in stderr.lines() {
        let line = line.unwrap();
        if line == format!("stopped at {step}") {
            return child;
        }
        said.push(line);
    }
    let ended = child.wait().unwrap();
    panic!("{args:?} did not stop at {step}; it ended with {ended} and said {said:?}");
}

/// The children of a process.
fn children(parent: u32) -> Vec<i32> {
    let parent_of = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat[stat.rfind(')')? + 1..].split_ascii_whitespace().nth(1)?.parse::<u32>().ok()
    };
    pids().into_iter().filter(|pid| parent_of(pid) == Some(parent)).collect()
}

/// Checks that a process is in a pid namespace below this process's.
fn is_inside(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let ids = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
    ids.split_ascii_whitespace().count() > 2
}

fn bundle() -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] = serde_json::json!({});
    bundle.write();
    bundle
}

/// Kills the parent at `step` of a verb; delete -f removes everything.
fn kill_parent(bundle: &Bundle, args: &[&str], step: &str) {
    let mut parent = stopped(bundle, args, step);
    parent.kill().unwrap();
    parent.wait().unwrap();
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.assert_nothing_left();
}

/// Kills the parent of a create whose cgroup is another one's, which stays.
fn kill_parent_alone(bundle: &Bundle, step: &str) {
    let mut parent = stopped(bundle, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
    parent.kill().unwrap();
    parent.wait().unwrap();
    bundle.ok(&["delete", "-f", &bundle.id]);
}

/// The first-stage init of an exec, which has exited; the parent reaps it after the second-stage init is on record.
fn kill_child(bundle: &Bundle, args: &[&str], step: &str) -> std::process::ExitStatus {
    let mut parent = stopped(bundle, args, step);
    let children = children(parent.id());
    assert!(!children.is_empty(), "{step}: nobody is there");
    for child in children {
        match kill(Pid::from_raw(child), Signal::SIGKILL) {
            // The first-stage init of an exec, which has exited; the parent reaps it after the second-stage init is on
            // record.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => panic!("{step}: {errno}"),
        }
    }
    parent.wait().unwrap()
}

/// Checks that the parent of a create has returned at this step of init.
fn is_after_record(step: &str) -> bool {
    matches!(step, "listener" | "wait_at_gate" | "start_hooks" | "preserve" | "filter" | "exec")
}

/// A child that waits before its exec, for its id maps or its unit of systemd, holds copies of the container's lock.
#[test]
fn a_child_that_waits_for_its_parent_exits_with_it() {
    let mut bundle = bundle();
    bundle.map_ids();
    bundle.write();
    let mut parent = stopped(&bundle, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id], "parent:cloned");
    let waiting = children(parent.id());
    assert!(!waiting.is_empty());
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the child to exit", || waiting.iter().all(|pid| !pids().contains(pid)));
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn create_survives_a_kill_of_its_parent() {
    for step in PARENT_STEPS.iter().chain(init_steps().iter().filter(|step| !is_after_record(step))) {
        let bundle = bundle();
        kill_parent(&bundle, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
    }
}

/// The paths of the container's cgroup in each hierarchy of this host.
fn places(bundle: &Bundle) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.procs").exists() {
        return vec![root.join(&bundle.id)];
    }
    let roots = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    roots.filter(|root| root.join("cgroup.procs").exists()).map(|root| root.join(&bundle.id)).collect()
}

#[test]
fn an_interrupted_create_leaves_a_cgroup_alone_that_is_not_its_own() {
    for place in places(&bundle()) {
        for populated in [true, false] {
            let bundle = bundle();
            let mut foreign = ForeignCgroup::make(&place.with_file_name(&bundle.id), populated);
            kill_parent_alone(&bundle, "parent:recorded");
            foreign.assert_untouched();
            drop(foreign);
            bundle.assert_nothing_left();
        }
    }
}

#[test]
fn delete_leaves_a_cgroup_that_replaced_the_containers_own() {
    for force in [false, true] {
        let bundle = bundle();
        bundle.create();
        let pid = bundle.state()["pid"].as_i64().unwrap().try_into().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        wait_until("stopped", || bundle.state()["status"] == "stopped");
        let mut foreign = Vec::new();
        for place in places(&bundle) {
            wait_until("the cgroup to be empty", || std::fs::remove_dir(&place).is_ok());
            foreign.push(ForeignCgroup::make(&place, true));
        }
        let words: &[&str] = if force { &["delete", "-f"] } else { &["delete"] };
        bundle.ok(&[words, &[&bundle.id]].concat());
        foreign.iter_mut().for_each(ForeignCgroup::assert_untouched);
        drop(foreign);
        bundle.assert_nothing_left();
    }
}

#[test]
fn create_unwinds_after_a_kill_of_its_child() {
    for step in init_steps().iter().filter(|step| !is_after_record(step)) {
        let bundle = bundle();
        let status = kill_child(&bundle, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
        assert_eq!(status.code(), Some(1), "{step}");
        bundle.assert_nothing_left();
    }
}

/// The first-stage init builds the root outside of the pid namespace, and the second-stage init replaces it.
#[test]
fn create_into_a_shared_pid_namespace_unwinds_after_the_death_of_either_stage() {
    let neighbour = bundle();
    neighbour.start();
    let shared = || {
        let mut bundle = bundle();
        let path = format!("/proc/{}/ns/pid", neighbour.state()["pid"]);
        bundle.namespace("pid", Some(serde_json::json!({"type": "pid", "path": path})));
        bundle.write();
        bundle
    };
    let steps =
        ["join", "root", "enter", "children_namespace", "late_second_stage", "second_stage_created", "lookup", "ready"];
    for step in steps.iter().chain(PARENT_STEPS) {
        let bundle = shared();
        kill_parent(&bundle, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
    }
    for step in steps {
        let bundle = shared();
        let status = kill_child(&bundle, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
        assert_eq!(status.code(), Some(1), "{step}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn run_survives_kills_of_parent_and_child() {
    for step in PARENT_STEPS.iter().chain(&init_steps()) {
        let bundle = bundle();
        kill_parent(&bundle, &["run", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
    }
    for step in init_steps() {
        let bundle = bundle();
        let status = kill_child(&bundle, &["run", "-b", bundle.path().to_str().unwrap(), &bundle.id], step);
        // After the record and the gate, init's exit is the program's, and run reports that.
        let expected = if is_after_record(step) { 137 } else { 1 };
        assert_eq!(status.code(), Some(expected), "{step}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn exec_survives_kills_of_parent_and_child_and_the_container_keeps_running() {
    let bundle = bundle();
    bundle.start();
    let args = ["exec", &bundle.id, "sleep", "1000"];
    for step in PARENT_STEPS_OF_EXEC.iter().chain(&init_steps()) {
        let mut parent = stopped(&bundle, &args, step);
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert_eq!(bundle.state()["status"], "running", "{step}");
    }
    for step in init_steps() {
        let status = kill_child(&bundle, &args, step);
        let expected = if is_after_record(step) { 137 } else { 255 };
        assert_eq!(status.code(), Some(expected), "{step}");
        assert_eq!(bundle.state()["status"], "running", "{step}");
    }
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn exec_fails_when_its_first_stage_is_killed_before_it_reports_the_second() {
    let bundle = bundle();
    bundle.start();
    let mut parent = stopped(&bundle, &["exec", &bundle.id, "sleep", "1000"], "second_stage_created");
    // The second-stage init waits for the parent's answer, and is the parent's child as well.
    let stages = children(parent.id());
    assert_eq!(stages.len(), 2, "{stages:?}");
    let first = *stages.iter().find(|pid| !is_inside(**pid)).unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    assert_eq!(parent.wait().unwrap().code(), Some(255));
    wait_until("the second stage to end", || stages.iter().all(|pid| !pids().contains(pid)));
    assert_eq!(bundle.state()["status"], "running");
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_created_container_whose_init_is_killed_is_stopped() {
    let bundle = bundle();
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap().try_into().unwrap();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until("stopped", || bundle.state()["status"] == "stopped");
    assert!(bundle.fails(&["start", &bundle.id]).contains("cannot start a container that has stopped"));
}
