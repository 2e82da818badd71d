//! Long-running verbs, and a delete that does not wait for them.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::helpers::script;
use crate::support::{Bundle, wait_until};

/// A hook that reports its start, and does not exit during a test.
fn hanging(bundle: &Bundle) -> Value {
    let began = bundle.path().join("began");
    json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo >{}; exec sleep 60", began.display())]})
}

/// Starts a verb whose hook hangs.
fn begin(bundle: &Bundle, args: &[&str]) -> Child {
    let path = bundle.path().to_str().unwrap().to_owned();
    let args: Vec<&str> = args.iter().map(|word| if *word == "BUNDLE" { path.as_str() } else { word }).collect();
    let child = bundle.command(&args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("the hook to run", || bundle.path().join("began").exists());
    child
}

fn delete_at_once(bundle: &Bundle) {
    let began = Instant::now();
    bundle.ok(&["delete", "--force", &bundle.id]);
    assert!(began.elapsed() < Duration::from_secs(10), "delete took {:?}", began.elapsed());
    assert!(bundle.cgroups().is_empty() && !bundle.state_root().join(&bundle.id).exists());
}

#[test]
fn delete_aborts_a_create_whose_hook_hangs() {
    for name in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = script("sleep 1000");
        let hook = if name == "createContainer" {
            json!({"path": "/bin/sh", "args": ["sh", "-c", format!("echo >{}/began; exec sleep 60", bundle.path().display())]})
        } else {
            hanging(&bundle)
        };
        bundle.config["hooks"] = json!({ name: [hook] });
        bundle.write();
        let mut create = begin(&bundle, &["create", "-b", "BUNDLE", &bundle.id]);
        // Verbs that only read do not wait for it either.
        assert_eq!(bundle.state()["status"], "creating", "{name}");
        delete_at_once(&bundle);
        assert!(!create.wait().unwrap().success(), "{name}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn delete_aborts_a_start_and_a_run_whose_hook_hangs() {
    for (name, verb) in [("poststart", "start"), ("poststart", "run"), ("startContainer", "start")] {
        let mut bundle = script("sleep 1000");
        let hook = if name == "startContainer" {
            json!({"path": "/bin/sleep", "args": ["sleep", "1000"]})
        } else {
            hanging(&bundle)
        };
        bundle.config["hooks"] = json!({ name: [hook] });
        if verb == "start" {
            bundle.create();
        } else {
            bundle.write();
        }
        if name == "startContainer" {
            std::fs::write(bundle.path().join("began"), "").unwrap();
        }
        let args: &[&str] =
            if verb == "start" { &["start", &bundle.id] } else { &["run", "-d", "-b", "BUNDLE", &bundle.id] };
        let mut verb_child = begin(&bundle, args);
        wait_until("it to run", || bundle.state()["status"] == "running");
        delete_at_once(&bundle);
        // A startContainer hook exits with its container. A poststart hook runs beside the runtime, until its timeout.
        if name == "poststart" {
            verb_child.kill().unwrap();
        }
        verb_child.wait().unwrap();
        bundle.assert_nothing_left();
    }
}
