//! The lifecycle of a container: every verb in every state, pid files and pidfds, kill, pause, delete.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use brig_sys::socket;
use serde_json::json;

use crate::helpers::script;
use crate::support::{Bundle, show, wait_until};

/// A container whose init no signal terminates, except KILL.
fn sleeper() -> Bundle {
    script("exec sleep 1000")
}

fn in_state(status: &str) -> Bundle {
    let bundle = sleeper();
    bring_to(&bundle, status);
    bundle
}

/// Creates the container and brings it into the state.
pub fn bring_to(bundle: &Bundle, status: &str) {
    bundle.create();
    if status != "created" {
        bundle.ok(&["start", &bundle.id]);
    }
    match status {
        "paused" => drop(bundle.ok(&["pause", &bundle.id])),
        "stopped" => drop(bundle.ok(&["kill", &bundle.id, "KILL"])),
        _ => {}
    }
    bundle.wait_for(status);
}

const STATES: [&str; 4] = ["created", "running", "paused", "stopped"];

#[test]
fn delete_with_force_works_in_every_state() {
    for status in STATES {
        let bundle = in_state(status);
        bundle.ok(&["delete", "-f", &bundle.id]);
        bundle.assert_nothing_left();
        assert!(bundle.fails(&["state", &bundle.id]).contains("container does not exist"));
        bundle.ok(&["delete", "-f", &bundle.id]);
    }
}

#[test]
fn delete_without_force_refuses_running_containers() {
    for (status, allowed) in [("created", true), ("running", false), ("paused", false), ("stopped", true)] {
        let bundle = in_state(status);
        if allowed {
            bundle.ok(&["delete", &bundle.id]);
            bundle.assert_nothing_left();
        } else {
            let error = bundle.fails(&["delete", &bundle.id]);
            let text = format!("cannot delete container {} that is not stopped: {status}", bundle.id);
            assert!(error.contains(&text), "{error}");
            assert_eq!(bundle.state()["status"], status);
        }
    }
}

#[test]
fn start_accepts_created_containers_alone() {
    for (status, text) in [
        ("running", "cannot start an already running container"),
        ("paused", "cannot start a container in the paused state"),
        ("stopped", "cannot start a container that has stopped"),
    ] {
        let bundle = in_state(status);
        let error = bundle.fails(&["start", &bundle.id]);
        assert!(error.contains(text), "{status}: {error}");
    }
}

#[test]
fn exec_accepts_running_containers_alone() {
    for (status, text) in [
        ("paused", "cannot exec in a paused container (use --ignore-paused to override)"),
        ("stopped", "cannot exec in a stopped container"),
    ] {
        let bundle = in_state(status);
        let output = bundle.brig(&["exec", &bundle.id, "true"]);
        assert_eq!(output.status.code(), Some(255), "{}", show(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(text), "{status}: {}", show(&output));
    }
    let bundle = in_state("created");
    assert_eq!(bundle.ok(&["exec", &bundle.id, "echo", "in"]), "in\n");
    assert_eq!(bundle.state()["status"], "created");
    bundle.ok(&["start", &bundle.id]);
    assert_eq!(bundle.ok(&["exec", &bundle.id, "echo", "in"]), "in\n");
}

#[test]
fn an_exec_into_a_paused_container_runs_once_it_is_resumed() {
    let bundle = in_state("paused");
    let mut exec = bundle.command(&["exec", "--ignore-paused", &bundle.id, "touch", "/mark"]).spawn().unwrap();
    assert!(!bundle.rootfs("mark").exists());
    assert_eq!(exec.try_wait().unwrap(), None);
    bundle.ok(&["resume", &bundle.id]);
    assert!(exec.wait().unwrap().success());
    assert!(bundle.rootfs("mark").exists());
}

#[test]
fn pause_and_resume_freeze_and_thaw() {
    let bundle = in_state("running");
    assert!(bundle.fails(&["resume", &bundle.id]).contains("container not paused"));
    for _ in 0..2 {
        bundle.ok(&["pause", &bundle.id]);
        assert_eq!(bundle.state()["status"], "paused");
        assert!(bundle.brig(&["pause", &bundle.id]).status.code().is_some());
        bundle.ok(&["resume", &bundle.id]);
        assert_eq!(bundle.state()["status"], "running");
    }
    let stopped = in_state("stopped");
    assert!(stopped.fails(&["pause", &stopped.id]).contains("container not running"));
    assert!(stopped.fails(&["resume", &stopped.id]).contains("container not paused"));
}

#[test]
fn a_container_that_was_created_and_paused_is_created_again_when_it_is_resumed() {
    let bundle = in_state("created");
    bundle.ok(&["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    bundle.ok(&["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "created");
    bundle.ok(&["start", &bundle.id]);
    bundle.wait_for("running");
}

#[test]
fn signals_go_by_name_and_number() {
    let bundle = script(
        "for s in HUP USR1 USR2 TERM; do trap \"echo $s >>/log\" $s; done; echo up >>/log; \
         while :; do sleep 1000 & wait $!; done",
    );
    bundle.start();
    let log = || std::fs::read_to_string(bundle.rootfs("log")).unwrap_or_default();
    wait_until("program", || log().contains("up"));
    for (signal, name) in [(&["HUP"][..], "HUP"), (&["SIGUSR1"], "USR1"), (&["12"], "USR2"), (&[], "TERM")] {
        bundle.ok(&[&["kill", &bundle.id], signal].concat());
        wait_until(name, || log().contains(name));
    }
    assert!(bundle.fails(&["kill", &bundle.id, "NOPE"]).contains("unknown signal \\\"NOPE\\\""));
    bundle.ok(&["kill", &bundle.id, "0"]);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(bundle.fails(&["kill", &bundle.id, "KILL"]).contains("container not running"));
    bundle.ok(&["kill", "-a", &bundle.id, "KILL"]);
}

#[test]
fn kill_all_reaches_every_process() {
    let bundle = in_state("running");
    let log = || std::fs::read_to_string(bundle.rootfs("log")).unwrap_or_default();
    let text = "trap 'echo term >>/log; exit' TERM; echo up >>/log; while :; do sleep 1000 & wait $!; done";
    bundle.ok(&["exec", "-d", &bundle.id, "sh", "-c", text]);
    wait_until("program", || log().contains("up"));
    bundle.ok(&["kill", "--all", &bundle.id, "TERM"]);
    wait_until("its end", || log().contains("term"));
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn kill_and_delete_kill_every_process_of_a_shared_pid_namespace() {
    for verb in [&["kill"][..], &["delete", "-f"]] {
        let mut bundle = script("sleep 1001 & sleep 1002 & exec sleep 1003");
        bundle.namespace("pid", None);
        bundle.start();
        wait_until("three processes", || bundle.processes().len() >= 3);
        let mut line = verb.to_vec();
        line.push(&bundle.id);
        if verb[0] == "kill" {
            line.push("KILL");
        }
        bundle.ok(&line);
        wait_until("the end of all", || bundle.processes().is_empty());
    }
}

#[test]
fn kill_kills_the_processes_that_survive_init_in_a_shared_pid_namespace() {
    let mut bundle = script("sleep 1001 & sleep 1002 & exit");
    bundle.namespace("pid", None);
    bundle.start();
    bundle.wait_for("stopped");
    assert_eq!(bundle.processes().len(), 2);
    assert!(bundle.fails(&["kill", &bundle.id, "TERM"]).contains("container not running"));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    wait_until("the end of all", || bundle.processes().is_empty());
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_container_stops_at_its_exit_and_delete_frees_its_id() {
    let mut bundle = sleeper();
    bundle.config["process"]["args"] = json!(["true"]);
    for _ in 0..2 {
        bundle.create();
        bundle.ok(&["start", &bundle.id]);
        bundle.wait_for("stopped");
        let state = bundle.state();
        assert_eq!(state["pid"], 0);
        let error = bundle.fails(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
        assert!(error.contains("container with given ID already exists"), "{error}");
        bundle.ok(&["delete", &bundle.id]);
    }
}

#[test]
fn the_pid_file_and_the_pidfd_name_the_process() {
    let bundle = sleeper();
    bundle.write();
    let (file, socket) = (bundle.path().join("pid"), bundle.path().join("socket"));
    let listener = UnixListener::bind(&socket).unwrap();
    let flags = ["--pid-file", file.to_str().unwrap(), "--pidfd-socket", socket.to_str().unwrap()];
    let read_pid = || std::fs::read_to_string(&file).unwrap().parse::<i32>().unwrap();
    let received = || {
        let (stream, _) = listener.accept().unwrap();
        let (_, fds) = socket::receive(stream.as_fd(), 4096).unwrap();
        assert_eq!(fds.len(), 1);
        use std::os::fd::AsRawFd;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fds[0].as_raw_fd())).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix("Pid:")).expect("a pidfd");
        line.trim().parse::<i32>().unwrap()
    };
    bundle.ok(&[&["create", "-b", bundle.path().to_str().unwrap()], &flags[..], &[&bundle.id]].concat());
    assert_eq!(bundle.state()["pid"], read_pid());
    assert_eq!(received(), read_pid());
    bundle.ok(&["start", &bundle.id]);
    bundle.ok(&[&["exec", "-d"], &flags[..], &[&bundle.id, "sleep", "1001"]].concat());
    assert_ne!(bundle.state()["pid"], read_pid());
    assert_eq!(received(), read_pid());
    // It is set shortly after the call that waits for the exec has returned.
    let path = format!("/proc/{}/cmdline", read_pid());
    wait_until("the program", || std::fs::read_to_string(&path).unwrap() == "sleep\x001001\0");
}

#[test]
fn a_detached_run_and_one_that_is_kept() {
    let mut bundle = sleeper();
    bundle.write();
    let path = bundle.path().to_str().unwrap().to_owned();
    bundle.ok(&["run", "-d", "-b", &path, &bundle.id]);
    bundle.wait_for("running");
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.config["process"]["args"] = json!(["sh", "-c", "exit 3"]);
    bundle.write();
    let kept = bundle.brig(&["run", "--keep", "-b", &path, &bundle.id]);
    assert_eq!(kept.status.code(), Some(3), "{}", show(&kept));
    assert_eq!(bundle.state()["status"], "stopped");
    bundle.ok(&["delete", &bundle.id]);
}
