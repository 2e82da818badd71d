//! NOTIFY_SOCKET: the messages of a container to the service manager outside, and their forwarding.
#![forbid(unsafe_code)]

mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Child, Stdio};

use brig_sys::socket;
use serde_json::json;
use support::{Bundle, wait_for_program, wait_until};

/// A container that waits, and the socket of a service manager.
fn service() -> (Bundle, UnixDatagram) {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] = json!({});
    bundle.write();
    let manager = UnixDatagram::bind(bundle.path().join("manager")).unwrap();
    (bundle, manager)
}

fn spawn(bundle: &Bundle, manager: &str, args: &[&str]) -> Child {
    bundle.command(args).env("NOTIFY_SOCKET", manager).stdout(Stdio::null()).spawn().unwrap()
}

/// Sends a message over the socket that the container sees.
fn say(bundle: &Bundle, text: &str) {
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let path = format!("/proc/{pid}/root/run/notify/notify.sock");
    wait_until("socket", || Path::new(&path).exists());
    let socket = UnixDatagram::unbound().unwrap();
    // The host's own path is too long for an address; the path through /proc is not.
    socket.send_to(text.as_bytes(), &path).unwrap();
}

/// Expects the three messages for a manager; returns the last one's descriptor.
fn expect_ready(manager: &UnixDatagram, main_pid: i64) -> OwnedFd {
    let next = || socket::receive(manager.as_fd(), 4096).unwrap();
    assert_eq!(next().0, b"READY=1\n");
    assert_eq!(next().0, format!("MAINPID={main_pid}\n").as_bytes());
    let (barrier, mut fds) = next();
    assert_eq!((barrier.as_slice(), fds.len()), (&b"BARRIER=1"[..], 1));
    fds.remove(0)
}

/// Waits until the program runs, and returns its pid. The status "running" precedes that: it follows the opening of the
/// gate.
fn wait_running(bundle: &Bundle) -> i64 {
    wait_until("record", || bundle.brig(&["state", &bundle.id]).status.success());
    bundle.wait_for("running");
    let pid = bundle.state()["pid"].as_i64().unwrap();
    wait_for_program(pid, "sleep");
    pid
}

#[test]
fn start_waits_until_the_container_is_ready() {
    let (bundle, manager) = service();
    let path = bundle.path().join("manager");
    let path = path.to_str().unwrap();
    let create = spawn(&bundle, path, &["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]).wait();
    assert!(create.unwrap().success());
    let mut start = spawn(&bundle, path, &["start", &bundle.id]);
    let pid = wait_running(&bundle);
    assert!(bundle.exec("cat /proc/1/environ").split('\0').any(|one| one == "NOTIFY_SOCKET=/run/notify/notify.sock"));
    assert!(bundle.exec("touch /run/notify/x 2>&1 || true").contains("Read-only"));
    say(&bundle, "STATUS=half way");
    say(&bundle, &"x".repeat(10_000));
    say(&bundle, "WATCHDOG=1\nREADY=1\nMAINPID=1\n");
    let barrier = expect_ready(&manager, pid);
    assert!(start.try_wait().unwrap().is_none(), "it waits for the manager to have read it all");
    drop(barrier);
    assert!(start.wait().unwrap().success());
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_detached_run_waits_for_the_notification_and_exits_with_its_container() {
    let (bundle, manager) = service();
    let path = bundle.path().join("manager");
    let line = ["run", "-d", "-b", bundle.path().to_str().unwrap(), &bundle.id];
    let mut run = spawn(&bundle, path.to_str().unwrap(), &line);
    let pid = wait_running(&bundle);
    say(&bundle, "READY=1");
    drop(expect_ready(&manager, pid));
    assert!(run.wait().unwrap().success());
    bundle.ok(&["delete", "-f", &bundle.id]);
    // A container that exits without a message does not block it.
    let mut run = spawn(&bundle, path.to_str().unwrap(), &line);
    wait_running(&bundle);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    assert!(run.wait().unwrap().success());
}

#[test]
fn a_foreground_run_is_the_main_process_and_an_abstract_name_is_one_too() {
    let (bundle, _) = service();
    let name = format!("brig-test-{}", bundle.id);
    let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    let line = ["run", "-b", bundle.path().to_str().unwrap(), &bundle.id];
    let mut run = spawn(&bundle, &format!("@{name}"), &line);
    wait_running(&bundle);
    say(&bundle, "READY=1");
    let _barrier = expect_ready(&manager, i64::from(run.id()));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    assert_eq!(run.wait().unwrap().code(), Some(137));
    bundle.assert_nothing_left();
}

#[test]
fn a_container_starts_without_its_service_manager() {
    let (bundle, _) = service();
    let line = ["run", "-d", "-b", bundle.path().to_str().unwrap(), &bundle.id];
    let mut run = spawn(&bundle, "/nonexistent", &line);
    wait_running(&bundle);
    say(&bundle, "READY=1");
    assert!(run.wait().unwrap().success());
    assert_eq!(bundle.state()["status"], "running");
    bundle.ok(&["delete", "-f", &bundle.id]);
    // Without a socket at create, start does not wait.
    bundle.create();
    assert!(spawn(&bundle, "/nonexistent", &["start", &bundle.id]).wait().unwrap().success());
    assert_eq!(bundle.state()["status"], "running");
}
