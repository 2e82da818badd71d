//! Hooks: the six points of the lifecycle, their namespaces, their input, and the effect of their failure.

use std::fs;
use std::io::{Read, Seek};

use serde_json::{Value, json};

use crate::helpers::script;
use crate::support::{Bundle, show};

const POINTS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// A hook with the host's shell, or for startContainer with the container's, which appends to `log` below the root.
fn hook(bundle: &Bundle, point: &str, more: &str) -> Value {
    let inside = point == "startContainer";
    let log = if inside { "/log".to_owned() } else { bundle.rootfs("log").display().to_string() };
    let text = format!(
        "echo {point} $WORD $0 $(readlink /proc/self/ns/mnt) $(readlink /proc/self/ns/pid) $(cat) >>{log}; {more}"
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", text, "zero"], "env": ["WORD=word", "PATH=/bin:/usr/bin"]})
}

/// A container whose hooks all write to the log, and whose program does too.
fn bundle() -> Bundle {
    let mut bundle = script("echo program >>/log; exec sleep 1000");
    bundle.config["annotations"] = json!({"key": "value"});
    for point in POINTS {
        bundle.config["hooks"][point] = json!([hook(&bundle, point, "")]);
    }
    bundle
}

/// The first words of the log's lines.
fn logged_points(bundle: &Bundle) -> Vec<String> {
    let text = fs::read_to_string(bundle.rootfs("log")).unwrap_or_default();
    text.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn six_moments_in_their_order_and_namespaces() {
    let bundle = bundle();
    bundle.create();
    assert_eq!(logged_points(&bundle), POINTS[..3]);
    let pid = bundle.state()["pid"].clone();
    let container = |link: &str| fs::read_link(format!("/proc/{pid}/ns/{link}")).unwrap().display().to_string();
    let (mnt, pids) = (container("mnt"), container("pid"));
    let own = |link: &str| fs::read_link(format!("/proc/self/ns/{link}")).unwrap().display().to_string();
    bundle.ok(&["start", &bundle.id]);
    crate::support::wait_until("program", || logged_points(&bundle).contains(&"program".to_owned()));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
    let mut order = logged_points(&bundle);
    // poststart and the program run at the same time.
    order.retain(|point| point != "program");
    assert_eq!(order, POINTS);

    let text = fs::read_to_string(bundle.rootfs("log")).unwrap();
    for line in text.lines().filter(|line| *line != "program") {
        let words: Vec<&str> = line.splitn(6, ' ').collect();
        let [point, word, zero, found_mnt, found_pid, state] = words[..] else { panic!("{line}") };
        assert_eq!((word, zero), ("word", "zero"), "{line}");
        let inside = matches!(point, "createContainer" | "startContainer");
        let namespaces = if inside { (mnt.clone(), pids.clone()) } else { (own("mnt"), own("pid")) };
        assert_eq!((found_mnt.to_owned(), found_pid.to_owned()), namespaces, "{point}");
        let state: Value = serde_json::from_str(state).unwrap();
        let (status, expected_pid) = match point {
            "prestart" | "createRuntime" => ("creating", pid.clone()),
            "createContainer" => ("creating", json!(1)),
            "startContainer" => ("created", json!(1)),
            "poststart" => ("running", pid.clone()),
            _ => ("stopped", json!(0)),
        };
        assert_eq!((&state["status"], &state["pid"]), (&json!(status), &expected_pid), "{point}");
        assert_eq!(state["id"], json!(bundle.id), "{point}");
        assert_eq!(state["bundle"], json!(bundle.path().to_str().unwrap()), "{point}");
        assert_eq!(state["annotations"], json!({"key": "value"}), "{point}");
        assert!(state["ociVersion"].is_string(), "{point}");
    }
}

#[test]
fn the_hooks_of_create_see_the_mounts_and_the_hosts_paths() {
    let mut bundle = script("true");
    let root = bundle.rootfs("");
    let look = |name: &str| {
        let text = format!(
            "test -d {root}/proc/self && touch {out}/{name} && test -e /etc/passwd",
            root = root.display(),
            out = bundle.path().display(),
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", text]}])
    };
    let looks = look("container");
    bundle.config["hooks"]["createContainer"] = looks;
    bundle.run_ok();
    assert!(bundle.path().join("container").exists());
}

#[test]
fn a_failure_before_the_program_undoes_the_container() {
    for point in &POINTS[..3] {
        let mut bundle = bundle();
        bundle.config["hooks"][point] = json!([hook(&bundle, point, "echo no luck >&2; exit 7")]);
        bundle.write();
        let error = bundle.fails(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
        assert!(error.contains(&format!("hooks.{point}[0]")) && error.contains("no luck"), "{error}");
        assert!(error.contains("exit status 7"), "{error}");
        bundle.assert_nothing_left();
        let found = logged_points(&bundle);
        let mut expected: Vec<&str> = POINTS.iter().take_while(|name| name != &point).copied().collect();
        expected.extend([*point, "poststop"]);
        assert_eq!(found, expected, "{point}");
    }
}

#[test]
fn an_init_that_is_killed_during_a_start_container_hook_fails_the_start() {
    let mut bundle = script("exec sleep 1000");
    let text = "echo >/in; exec sleep 1000";
    bundle.config["hooks"]["startContainer"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", text], "env": ["PATH=/bin"]}]);
    bundle.create();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let mut errors = tempfile::tempfile().unwrap();
    let mut start = bundle.command(&["start", &bundle.id]).stderr(errors.try_clone().unwrap()).spawn().unwrap();
    crate::support::wait_until("hook", || bundle.rootfs("in").exists());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.try_into().unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert_eq!(start.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut said)).unwrap();
    assert!(said.contains("init was killed before its hooks.startContainer had finished"), "{said}");
}

#[test]
fn a_failure_in_start_stops_the_container() {
    let mut bundle = bundle();
    bundle.config["hooks"]["startContainer"] = json!([hook(&bundle, "startContainer", "exit 7")]);
    bundle.create();
    let error = bundle.fails(&["start", &bundle.id]);
    assert!(error.contains("hooks.startContainer[0]") && error.contains("exit status 7"), "{error}");
    bundle.assert_nothing_left();
    assert!(!logged_points(&bundle).contains(&"program".to_owned()));
    assert_eq!(logged_points(&bundle).last().unwrap(), "poststop");
    // In the foreground no delete follows.
    let _ = fs::remove_file(bundle.rootfs("log"));
    let run = bundle.run();
    assert_eq!(run.status.code(), Some(1), "{}", show(&run));
    assert!(String::from_utf8_lossy(&run.stderr).contains("hooks.startContainer[0]"), "{}", show(&run));
    bundle.assert_nothing_left();
    assert_eq!(logged_points(&bundle).last().unwrap(), "poststop");
}

#[test]
fn a_start_container_hook_that_the_seccomp_profile_refuses_names_the_profile() {
    let mut bundle = script("echo program >>/log");
    bundle.config["hooks"]["startContainer"] = json!([{ "path": "/bin/mkdir", "args": ["mkdir", "/made"] }]);
    for (action, reason) in [
        ("SCMP_ACT_KILL_PROCESS", "killed by the filter of linux.seccomp"),
        ("SCMP_ACT_ERRNO", "Operation not permitted"),
    ] {
        bundle.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": action }],
        });
        let error = bundle.run_fails();
        assert!(error.contains("hooks.startContainer[0]") && error.contains(reason), "{error}");
        assert!(!bundle.rootfs("made").exists() && !bundle.rootfs("log").exists());
    }
}

#[test]
fn a_failure_after_the_program_only_warns() {
    let mut bundle = script("exec true");
    let (bad, good) = (hook(&bundle, "poststop", "exit 7"), hook(&bundle, "poststop", ""));
    bundle.config["hooks"]["poststop"] = json!([bad, good]);
    let run = bundle.run();
    assert_eq!(run.status.code(), Some(0), "{}", show(&run));
    assert_eq!(logged_points(&bundle), ["poststop", "poststop"]);
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(said.contains("hooks.poststop[0]") && said.contains("level=warning"), "{said}");
}

#[test]
fn a_failing_poststart_hook_kills_the_container() {
    let mut bundle = script("exec sleep 1000");
    let (bad, good) = (hook(&bundle, "poststart", "exit 7"), hook(&bundle, "poststart", ""));
    bundle.config["hooks"] = json!({ "poststart": [bad, good], "poststop": [hook(&bundle, "poststop", "")] });
    bundle.create();
    let error = bundle.fails(&["start", &bundle.id]);
    assert!(error.contains("hooks.poststart[0]"), "{error}");
    bundle.assert_nothing_left();
    assert_eq!(logged_points(&bundle), ["poststart", "poststop"]);
    fs::remove_file(bundle.rootfs("log")).unwrap();
    let error = bundle.run_fails();
    assert!(error.contains("hooks.poststart[0]"), "{error}");
    bundle.assert_nothing_left();
    assert_eq!(logged_points(&bundle), ["poststart", "poststop"]);
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    for point in ["createRuntime", "createContainer"] {
        let mut bundle = bundle();
        let mut slow = hook(&bundle, point, "exec sleep 1000");
        slow["timeout"] = json!(1);
        bundle.config["hooks"][point] = json!([slow]);
        let error = bundle.run_fails();
        assert!(error.contains("timeout of 1 s") && error.contains(point), "{error}");
        assert_eq!(logged_points(&bundle).last().unwrap(), "poststop");
    }
}

#[test]
fn a_hook_that_cannot_be_started_is_named() {
    let mut bundle = script("true");
    bundle.config["hooks"]["createRuntime"] = json!([{"path": "/nonexistent"}]);
    let error = bundle.run_fails();
    assert!(error.contains("hooks.createRuntime[0] /nonexistent"), "{error}");
    bundle.config["hooks"]["createRuntime"] = json!([{"path": "bin/true"}]);
    let error = bundle.run_fails();
    assert!(error.contains("hooks.createRuntime[0].path"), "{error}");
}

#[test]
fn poststart_waits_for_the_program() {
    let mut bundle = bundle();
    bundle.config["hooks"]["startContainer"] = json!([hook(&bundle, "startContainer", "sleep 1; echo slept >>/log")]);
    bundle.create();
    bundle.ok(&["start", &bundle.id]);
    let found = logged_points(&bundle);
    let place = |name: &str| found.iter().position(|point| point == name);
    assert!(place("slept").is_some() && place("slept") < place("poststart"), "{found:?}");
}

#[test]
fn hooks_get_the_configured_environment_alone() {
    let mut bundle = script("true");
    let log = bundle.path().join("env");
    let text = format!("exec /usr/bin/env >{}", log.display());
    bundle.config["hooks"]["createRuntime"] =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", text], "env": ["A=1", "B=x=y"]}]);
    bundle.run_ok();
    let found = fs::read_to_string(log).unwrap();
    let mut lines: Vec<&str> =
        found.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["A=1", "B=x=y"]);
}
