//! Processes of a container that stop the runtime's own process in their pid namespace.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::helpers::script;
use crate::support::{Bundle, output, show, wait_until};

/// Stops every process of the pid namespace except itself, again and again. The shell's own kill avoids a further
/// process.
const STOP_ALL: &str = "while :; do kill -STOP -1; done";

fn exec(bundle: &Bundle, seconds: &str, flags: &[&str]) -> Command {
    let mut command = bundle.command(&[&["exec"], flags, &[&bundle.id, "true"]].concat());
    command.env("BRIG_EXEC_TIMEOUT", seconds);
    command
}

#[test]
fn an_exec_whose_init_is_stopped_fails_at_its_timeout_and_leaves_no_process() {
    let bundle = script(STOP_ALL);
    bundle.start();
    let before = bundle.processes();
    let deadline = Instant::now() + Duration::from_secs(60);
    // The program may be faster than the signal.
    let stopped: Output = loop {
        let began = Instant::now();
        let output = output(&mut exec(&bundle, "1", &["--detach"]));
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
        if !output.status.success() {
            break output;
        }
        assert!(Instant::now() < deadline, "no exec was stopped");
    };
    let text = String::from_utf8_lossy(&stopped.stderr);
    assert!(text.contains("made no progress for 1 s, and was killed: it is stopped"), "{}", show(&stopped));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    wait_until("no process of an exec", || bundle.processes().iter().all(|pid| before.contains(pid)));
}

#[test]
fn an_exec_in_a_paused_container_waits_longer_than_its_timeout() {
    let bundle = script("sleep 1000");
    bundle.start();
    bundle.ok(&["pause", &bundle.id]);
    let mut waiting = exec(&bundle, "0.2", &["--ignore-paused"]).spawn().unwrap();
    // Five timeouts, because no event reports that the exec would have been killed.
    let until = Instant::now() + Duration::from_secs(1);
    wait_until("five timeouts", || Instant::now() > until);
    assert!(waiting.try_wait().unwrap().is_none(), "it did not wait for the container to be resumed");
    bundle.ok(&["resume", &bundle.id]);
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn a_timeout_that_is_no_number_of_seconds_is_refused() {
    let bundle = script("sleep 1000");
    bundle.start();
    let refused = output(&mut exec(&bundle, "soon", &[]));
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("BRIG_EXEC_TIMEOUT=\\\"soon\\\": expected a number of seconds"), "{}", show(&refused));
    assert!(output(&mut exec(&bundle, "0", &[])).status.success(), "0 is no limit");
}

const HIERARCHIES: &str = "/sys/fs/cgroup";

/// A directory of v1's freezer, which is thawed and removed on drop, with its namesakes in the other hierarchies.
struct Freezer(PathBuf);

impl Freezer {
    fn make(name: &str) -> Freezer {
        let path = Path::new(HIERARCHIES).join("freezer").join(name);
        std::fs::create_dir(&path).unwrap();
        Freezer(path)
    }

    fn set(&self, state: &str) {
        std::fs::write(self.0.join("freezer.state"), state).unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("freezer.state"), "THAWED");
        let (Some(name), Ok(hierarchies)) = (self.0.file_name(), std::fs::read_dir(HIERARCHIES)) else { return };
        for hierarchy in hierarchies.flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(name));
        }
    }
}

#[test]
fn an_exec_below_a_frozen_cgroup_of_v1_is_refused_and_names_it() {
    if !Path::new("/sys/fs/cgroup/freezer/cgroup.procs").exists() {
        return;
    }
    let name = format!("brig-live-frozen-{}", std::process::id());
    let above = Freezer::make(&name);
    let mut bundle = script("sleep 1000");
    bundle.config["linux"]["cgroupsPath"] = json!(format!("/{name}/{}", bundle.id));
    bundle.start();
    let before = bundle.processes();
    above.set("FROZEN");
    let began = Instant::now();
    let refused = output(&mut exec(&bundle, "20", &[]));
    assert!(began.elapsed() < Duration::from_secs(10), "it waited");
    let text = String::from_utf8_lossy(&refused.stderr);
    let expected = format!("cannot exec in a container below a frozen cgroup: {} is frozen", above.0.display());
    assert!(text.contains(&expected), "{}", show(&refused));
    // One that is to wait does so for its timeout.
    let waited = output(&mut exec(&bundle, "0.2", &["--ignore-paused"]));
    let text = String::from_utf8_lossy(&waited.stderr);
    let expected = format!(
        "made no progress for 0.2 s, and its kill takes effect when it is thawed: it is below the \
                            frozen cgroup {}",
        above.0.display()
    );
    assert!(text.contains(&expected), "{}", show(&waited));
    above.set("THAWED");
    assert!(output(&mut exec(&bundle, "20", &[])).status.success());
    wait_until("no process of an exec", || bundle.processes().iter().all(|pid| before.contains(pid)));
    bundle.ok(&["delete", "--force", &bundle.id]);
}
