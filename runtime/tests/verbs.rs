//! Verbs and flags over the real command, beyond the plain life of a container.
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use serde_json::json;
use support::{BRIG, Bundle, output, show};

fn sleeper() -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] = json!({});
    bundle
}

#[test]
fn kill_and_delete_take_a_regular_expression() {
    let bundle = sleeper();
    bundle.write();
    let path = bundle.path().to_str().unwrap();
    // One config is used for all of them, and each gets a cgroup by its own name.
    let mut config = bundle.config.clone();
    let ids = ["one", "two", "three"].map(|name| format!("{}-{name}", bundle.id));
    for id in &ids {
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
        bundle.ok(&["run", "-d", "-b", path, id]);
    }
    let pattern = "(one|two)$";
    assert!(bundle.fails(&["delete", "--regex", pattern]).contains("that is not stopped: running"));
    bundle.ok(&["kill", "--regex", pattern, "KILL"]);
    for id in &ids[..2] {
        support::wait_until("stopped", || bundle.ok(&["state", id]).contains("\"stopped\""));
    }
    assert!(bundle.ok(&["state", &ids[2]]).contains("\"running\""));
    bundle.ok(&["delete", "-r", pattern]);
    assert_eq!(bundle.ok(&["list", "-q"]), format!("{}\n", ids[2]));
    bundle.ok(&["delete", "-f", "--regex", "."]);
    bundle.ok(&["delete", "--regex", "nothing-matches"]);
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert!(bundle.fails(&["delete", "--regex", "a("]).contains("invalid regular expression"));
}

#[test]
fn a_root_below_the_session_directory_is_sticky() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command.args(["-Ur", BRIG, "list", "-q"]).env("XDG_RUNTIME_DIR", dir.path()).env_remove("USER").stdin(Stdio::null());
    let listed = output(&mut command);
    assert!(listed.status.success(), "{}", show(&listed));
    let mode = fs::metadata(dir.path().join("brig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1700);
}
