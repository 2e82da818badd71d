//! SCMP_ACT_NOTIFY: the transfer of the listener to an agent, and a container that the agent observes. There is no
//! comparison with runc: that of Debian 12 never returns from a profile with a listener on newer kernels.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::helpers::script;
use crate::support::{Bundle, wait_until};

/// An agent that pretends to make directories, and lets every other call continue. See agent.py.
struct Agent {
    process: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Agent {
    fn new(socket: &Path) -> Agent {
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/live/agent.py");
        let mut command = Command::new("/usr/bin/python3");
        let mut process = command.arg(program).arg(socket).stdout(Stdio::piped()).spawn().expect("python is installed");
        let lines = BufReader::new(process.stdout.take().unwrap());
        let mut agent = Agent { process, lines };
        assert_eq!(agent.line(), "ready");
        agent
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The next container process state.
    fn state(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(line.strip_prefix("state ").unwrap_or_else(|| panic!("{line:?}"))).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A container that runs a shell script, and notifies an agent in its bundle of these calls.
fn notified(text: &str, names: &[&str]) -> (Bundle, Agent) {
    let mut bundle = script(text);
    let socket = bundle.path().join("agent.sock");
    bundle.config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": socket, "listenerMetadata": "data of ours",
        "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
    });
    bundle.config["annotations"] = json!({"a": "b"});
    let agent = Agent::new(&socket);
    (bundle, agent)
}

const MKDIR: &[&str] = &["mkdir", "mkdirat"];

#[test]
fn the_agent_is_asked_about_a_start_container_hook() {
    let (mut bundle, mut agent) = notified("test ! -e /made && echo pretended", MKDIR);
    bundle.config["hooks"]["startContainer"] = json!([{ "path": "/bin/mkdir", "args": ["mkdir", "/made"] }]);
    assert_eq!(bundle.run_ok(), "pretended\n");
    assert_eq!(agent.state()["received"], 1);
    assert_eq!(agent.line(), "calls 1");
}

#[test]
fn an_agent_answers() {
    let (bundle, mut agent) = notified("mkdir /made && test ! -e /made && echo pretended", MKDIR);
    assert_eq!(bundle.run_ok(), "pretended\n");
    let state = agent.state();
    let (pid, version) = (&state["pid"], &bundle.config["ociVersion"]);
    assert!(pid.as_i64() > Some(1), "{state}");
    let expected = json!({
        "ociVersion": version, "fds": ["seccompFd"], "pid": pid, "metadata": "data of ours", "received": 1,
        "state": {"ociVersion": version, "id": bundle.id, "status": "creating", "pid": pid, "bundle": bundle.path(),
            "annotations": {"a": "b"}},
    });
    assert_eq!(state, expected);
    assert_eq!(agent.line(), "calls 1");
}

#[test]
fn the_agent_has_the_listener_once_the_container_is_created_and_again_for_each_exec() {
    let (bundle, mut agent) = notified("mkdir /made; exec sleep 1000", MKDIR);
    bundle.create();
    let state = agent.state();
    assert_eq!(state["state"]["status"], "creating");
    assert_eq!(state["pid"], bundle.state()["pid"]);
    assert_eq!(bundle.state()["status"], "created");
    bundle.ok(&["start", &bundle.id]);
    wait_until("the program", || bundle.processes().len() == 1);
    assert_eq!(bundle.exec("mkdir /other && test ! -e /other && echo pretended"), "pretended\n");
    let exec = agent.state();
    assert_eq!((&exec["state"]["status"], &exec["state"]["pid"]), (&json!("running"), &state["pid"]));
    assert!(exec["pid"].as_i64() > Some(1) && exec["pid"] != state["pid"], "{exec}");
    assert_eq!(agent.line(), "calls 1");
}

#[test]
fn calls_of_the_runtime_itself_may_be_notified_too() {
    for names in [&["write", "read", "close", "execve", "sendmsg", "futex"][..], &["write"]] {
        let (bundle, mut agent) = notified("echo one; echo two", names);
        assert_eq!(bundle.run_ok(), "one\ntwo\n");
        agent.state();
        let (bundle, mut agent) = notified("exec sleep 1000", names);
        bundle.start();
        agent.state();
        assert_eq!(bundle.exec("echo three"), "three\n");
    }
}

#[test]
fn notify_is_a_default_like_any_other() {
    let (mut bundle, mut agent) = notified("mkdir /made && test ! -e /made && echo pretended", &["read"]);
    let profile = &mut bundle.config["linux"]["seccomp"];
    profile["defaultAction"] = json!("SCMP_ACT_NOTIFY");
    // A number above all in the profile gets ENOSYS: the profile names the last call of this kernel's early versions.
    profile["syscalls"] = json!([{"names": ["read", "rseq", "openat2", "faccessat2"], "action": "SCMP_ACT_ALLOW"}]);
    assert_eq!(bundle.run_ok(), "pretended\n");
    agent.state();
}

#[test]
fn without_its_agent_a_container_is_refused_and_unwound() {
    let (mut bundle, agent) = notified("true", MKDIR);
    drop(agent);
    let error = bundle.run_fails();
    assert!(error.contains("linux.seccomp.listenerPath") && error.contains("agent.sock"), "{error}");
    let pid_file = bundle.path().join("pid");
    bundle.fails(&[
        "create",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "-b",
        bundle.path().to_str().unwrap(),
        &bundle.id,
    ]);
    bundle.assert_nothing_left();
    assert!(!pid_file.exists());
    let path = bundle.config["linux"]["seccomp"].as_object_mut().unwrap().remove("listenerPath").unwrap();
    let error = bundle.run_fails();
    assert!(error.contains("linux.seccomp.listenerPath: seccomp listenerPath is not set"), "{error}");
    // An unused path is no error.
    bundle.config["linux"]["seccomp"]["syscalls"] = json!([]);
    bundle.config["linux"]["seccomp"]["listenerPath"] = path;
    bundle.run_ok();
}

#[test]
fn the_agent_of_an_exec_must_be_there_too() {
    let (bundle, mut agent) = notified("exec sleep 1000", MKDIR);
    bundle.start();
    agent.state();
    drop(agent);
    std::fs::remove_file(bundle.path().join("agent.sock")).unwrap();
    let output = bundle.brig(&["exec", &bundle.id, "true"]);
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("listenerPath"));
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn annotations_name_the_agent_and_refuse_unknown_system_calls() {
    let (mut bundle, mut agent) = notified("mkdir /made && test ! -e /made && echo pretended", MKDIR);
    let profile = bundle.config["linux"]["seccomp"].as_object_mut().unwrap();
    let path = profile.remove("listenerPath").unwrap();
    profile["syscalls"].as_array_mut().unwrap().push(json!({"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}));
    bundle.config["annotations"] = json!({"run.oci.seccomp.receiver": path});
    assert_eq!(bundle.run_ok(), "pretended\n");
    agent.state();
    bundle.config["annotations"]["run.oci.seccomp_fail_unknown_syscall"] = json!("1");
    let error = bundle.run_fails();
    assert!(error.contains("linux.seccomp: unknown syscalls: no_such_call"), "{error}");
}
