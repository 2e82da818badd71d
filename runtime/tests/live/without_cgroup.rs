//! Containers without a cgroup, as rootless callers have them.

use std::process::Output;

use serde_json::{Value, json};

use crate::helpers::script;
use crate::support::{Bundle, output, wait_until};

/// A container that runs without a cgroup, and with or without a pid namespace of its own.
fn running(own_pids: bool) -> Bundle {
    let mut bundle = script("exec sleep 1000");
    bundle.config["linux"]["resources"] = json!({});
    if !own_pids {
        bundle.namespace("pid", None);
    }
    bundle.write();
    let path = bundle.path().to_str().unwrap();
    let words = ["--cgroup-manager=disabled", "run", "-d", "-b", path, &bundle.id];
    let made = output(bundle.command(&words).stdout(std::process::Stdio::null()));
    assert!(made.status.success(), "{made:?}");
    bundle
}

#[test]
fn kill_reaches_init_of_a_container_without_a_cgroup() {
    for own_pids in [true, false] {
        for words in [&["kill"][..], &["kill", "--all"]] {
            let bundle = running(own_pids);
            bundle.ok(&[words, &[&bundle.id, "KILL"]].concat());
            bundle.wait_for("stopped");
            wait_until("init to be gone", || bundle.processes().is_empty());
            // The same as for any stopped container.
            assert!(bundle.fails(&["kill", &bundle.id, "KILL"]).contains("container not running"));
            bundle.ok(&["kill", "--all", &bundle.id, "KILL"]);
            bundle.ok(&["delete", &bundle.id]);
        }
    }
    let bundle = running(false);
    bundle.ok(&["kill", "--all", &bundle.id, "TERM"]);
    bundle.wait_for("stopped");
}

fn update(bundle: &Bundle, resources: &Value) -> Output {
    let file = bundle.path().join("resources.json");
    std::fs::write(&file, resources.to_string()).unwrap();
    bundle.brig(&["update", "-r", file.to_str().unwrap(), &bundle.id])
}

#[test]
fn an_update_without_a_change_succeeds_without_a_cgroup() {
    let bundle = running(true);
    for resources in [
        json!({}),
        json!({"memory": null, "cpu": {"shares": null}, "pids": {}, "devices": null, "blockIO": {}}),
        json!({"pids": {"limit": -1}, "memory": {"limit": 0}}),
    ] {
        let done = update(&bundle, &resources);
        assert!(done.status.success(), "{resources}: {done:?}");
    }
    let done = update(&bundle, &json!({"pids": {"limit": 10}}));
    let text = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(1));
    assert!(text.contains("linux.resources.pids.limit: the container has no cgroup"), "{text}");
}
