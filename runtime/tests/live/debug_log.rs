//! The output of --debug.

use serde_json::json;

use crate::helpers::script;
use crate::support::{Bundle, output, show};

/// The log of a verb, in a file, because the container keeps the streams open.
fn debug(bundle: &Bundle, args: &[&str]) -> String {
    let log = bundle.path().join("log");
    let line = [&["--debug", "--log", log.to_str().unwrap()], args].concat();
    let done = output(&mut bundle.command(&line));
    assert!(done.status.success(), "{}", show(&done));
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    text
}

#[test]
fn debug_shows_each_step_the_plan_and_each_cgroup_write_and_no_secret() {
    let mut bundle = script("sleep 1000");
    bundle.config["process"]["env"] = json!(["PATH=/bin", "TOKEN=hush-hush"]);
    bundle.config["annotations"] = json!({"org.example.token": "hush-hush"});
    // The view of cgroup v2 on a hybrid host has no controller for it.
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let has_pids = std::path::Path::new("/sys/fs/cgroup/pids").exists() || controllers.contains("pids");
    if has_pids {
        bundle.config["linux"]["resources"]["pids"] = json!({"limit": 77});
    }
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/true", "env": ["TOKEN=hush-hush"]}]});
    bundle.write();
    let id = bundle.id.clone();
    let created = debug(&bundle, &["create", "-b", bundle.path().to_str().unwrap(), &id]);
    let written =
        if has_pids { ["write \\\"77\\\" to ", "pids.max"] } else { ["cgroup: make ", "init: started as process "] };
    for part in written {
        assert!(created.contains(part), "{part}: {created}");
    }
    for part in [
        "step: plan",
        "step: make the cgroup",
        "plan: new namespaces:",
        "plan: mount",
        "/dev/shm",
        "plan: {",
        "TOKEN",
        "init: step root",
        "init: step credentials",
        "run hooks.createRuntime[0] /bin/true",
        "asks for Ready",
    ] {
        assert!(created.contains(part), "{part}: {created}");
    }
    assert!(created.lines().count() > 52, "{created}");
    bundle.ok(&["start", &id]);
    let run = debug(&bundle, &["exec", "-e", "KEY=hush-hush", &id, "true"]);
    for part in
        ["step: plan", "joined: ", "plan: {", "KEY", "init: step join", "init: step credentials", "asks for Ready"]
    {
        assert!(run.contains(part), "{part}: {run}");
    }
    for text in [&created, &run] {
        assert!(!text.contains("hush-hush"), "{text}");
        assert!(text.lines().all(|line| line.contains("level=debug")), "{text}");
    }
    let quiet = output(&mut bundle.command(&["exec", &id, "true"]));
    assert_eq!(show(&quiet).matches("level=").count(), 0, "{}", show(&quiet));
}
