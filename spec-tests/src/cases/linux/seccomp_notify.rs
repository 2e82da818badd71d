//! config-linux.md, Seccomp: SCMP_ACT_NOTIFY, its listener, and The Container Process State.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use nix::libc;
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Fixture, Level, wait_until};

const SECTION: &str = "config-linux.md#seccomp";
const STATE: &str = "config-linux.md#the-container-process-state";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("SCMP_ACT_NOTIFY asks the agent at listenerPath", SECTION, Level::Must, answered),
    Case::new("a connection to listenerPath carries one state and is closed", SECTION, Level::Must, one_state),
    Case::new("a listenerPath without a listener is refused", SECTION, Level::Must, nobody_listens),
    Case::new("a listenerPath without SCMP_ACT_NOTIFY is ignored", SECTION, Level::Must, ignored),
    Case::new("SCMP_ACT_NOTIFY without a listenerPath is refused", SECTION, Level::Runc, without_path),
    Case::new(
        "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV is accepted with a listener",
        SECTION,
        Level::Must,
        wait_killable,
    )
    .on(&[crate::harness::Need::Kernel(5, 19)]),
    Case::new("the descriptors come with the first message alone", STATE, Level::Must, descriptors),
    Case::new("the container process state has the required properties", STATE, Level::Must, state),
    Case::new("listenerMetadata is the state's metadata", STATE, Level::Must, metadata),
    Case::new("exec sends the listener of its own filter", STATE, Level::Must, exec),
];

/// A seccomp agent that answers every call with error 66. syscalls.c describes its output.
struct Agent {
    child: Child,
    socket: PathBuf,
    output: PathBuf,
}

impl Agent {
    fn start(fixture: &Fixture) -> anyhow::Result<Agent> {
        let (socket, output) = (fixture.directory().join("agent.sock"), fixture.directory().join("agent.out"));
        let mut command = Command::new(fixture.beside_probe("syscalls"));
        command.arg("agent").arg(&socket).arg("66").stdin(Stdio::null()).stdout(File::create(&output)?);
        let agent = Agent { child: command.spawn()?, socket, output };
        wait_until("the agent to listen", || Ok(agent.socket.exists().then_some(())))?;
        Ok(agent)
    }

    /// The line of the state number `index`: descriptors with the first message, with later ones, and the payload.
    fn state(&self, index: usize) -> anyhow::Result<(String, String, String)> {
        wait_until("a state at the listener", || {
            let text = fs::read_to_string(&self.output)?;
            let Some(line) = text.lines().filter(|line| line.starts_with("state ")).nth(index) else {
                return Ok(None);
            };
            if !text.ends_with('\n') {
                return Ok(None);
            }
            let mut words = line.splitn(4, ' ').skip(1).map(str::to_owned);
            let mut next = || words.next().unwrap_or_default();
            Ok(Some((next(), next(), next())))
        })
    }

    fn payload(&self, index: usize) -> anyhow::Result<Value> {
        let text = self.state(index)?.2;
        serde_json::from_str(&text).with_context(|| format!("one connection carries one JSON object, found {text:?}"))
    }

    /// The bundle of a container whose getpriority is the agent's to answer.
    fn bundle(&self, fixture: &Fixture) -> anyhow::Result<Bundle> {
        let mut bundle = fixture.bundle()?;
        fixture.install(&bundle, "syscalls")?;
        let mut profile = notifying();
        profile["listenerPath"] = json!(self.socket);
        bundle.set("/linux/seccomp", profile).set("/annotations/spec.key", json!("of the bundle"));
        bundle.args(&["/syscalls", "one", &libc::SYS_getpriority.to_string(), "-1"]);
        Ok(bundle)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Both fail only if the agent has exited, which the case itself would have reported.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn notifying() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_NOTIFY" }]
    })
}

fn answered(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    let found = fixture.run(&agent.bundle(fixture)?)?.ok()?.stdout;
    ensure!(found.trim() == "66", "the call: expected the agent's error 66, found {found}");
    Ok(())
}

fn one_state(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    fixture.run(&agent.bundle(fixture)?)?.ok()?;
    // The agent prints at the end of the stream, so that two objects would stand in one payload.
    agent.payload(0)?;
    let text = fs::read_to_string(&agent.output)?;
    let count = text.lines().filter(|line| line.starts_with("state ")).count();
    ensure!(count == 1, "expected one connection, found {count}: {text}");
    // The program makes its call long after, and the runtime still runs then.
    let closed_first = text.lines().next().is_some_and(|line| line.starts_with("state "));
    ensure!(closed_first, "the connection was still open when the container's program made its call: {text}");
    Ok(())
}

fn nobody_listens(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut profile = notifying();
    profile["listenerPath"] = json!(fixture.directory().join("nobody.sock"));
    fixture.refused(bundle.set("/linux/seccomp", profile)).map(drop)
}

fn ignored(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut profile = notifying();
    profile["listenerPath"] = json!(fixture.directory().join("nobody.sock"));
    profile["syscalls"][0]["action"] = json!("SCMP_ACT_ERRNO");
    let facts = fixture.facts(bundle.set("/linux/seccomp", profile))?;
    ensure!(facts.status("Seccomp")? == "2", "Seccomp: expected 2 (a filter), found {}", facts.status("Seccomp")?);
    Ok(())
}

fn without_path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/seccomp", notifying())).map(drop)
}

fn wait_killable(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    let mut bundle = agent.bundle(fixture)?;
    bundle.set("/linux/seccomp/flags", json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]));
    let found = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(found.trim() == "66", "the call: expected the agent's error 66, found {found}");
    Ok(())
}

fn descriptors(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    fixture.run(&agent.bundle(fixture)?)?.ok()?;
    let (first, later, _) = agent.state(0)?;
    let names = agent.payload(0)?["fds"].clone();
    ensure!(names == json!(["seccompFd"]), "fds: expected [\"seccompFd\"], found {names}");
    ensure!(first == "1" && later == "0", "expected 1 descriptor first and 0 later, found {first} and {later}");
    Ok(())
}

fn state(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    let bundle = agent.bundle(fixture)?;
    let container = fixture.create(&bundle)?;
    container.start()?;
    container.wait()?;
    let found = agent.payload(0)?;
    let is_version = |value: &Value| value.as_str().is_some_and(|version| version.split('.').count() >= 3);
    ensure!(is_version(&found["ociVersion"]), "ociVersion: expected a version, found {}", found["ociVersion"]);
    ensure!(found["pid"] == container.pid(), "pid: expected {}, found {}", container.pid(), found["pid"]);
    let inner = &found["state"];
    ensure!(is_version(&inner["ociVersion"]), "state.ociVersion: expected a version, found {}", inner["ociVersion"]);
    ensure!(inner["id"] == container.id(), "state.id: expected {}, found {}", container.id(), inner["id"]);
    ensure!(inner["status"] == "creating", "state.status: expected creating, found {}", inner["status"]);
    let path = bundle.path().to_string_lossy();
    ensure!(inner["bundle"] == *path, "state.bundle: expected {path}, found {}", inner["bundle"]);
    let annotation = &inner["annotations"]["spec.key"];
    ensure!(annotation == "of the bundle", "state.annotations: expected the bundle's, found {}", inner["annotations"]);
    Ok(())
}

fn metadata(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    let mut bundle = agent.bundle(fixture)?;
    let words = "MKNOD=/dev/null; \"quoted\" ü";
    fixture.run(bundle.set("/linux/seccomp/listenerMetadata", json!(words)))?.ok()?;
    let found = agent.payload(0)?["metadata"].clone();
    ensure!(found == words, "metadata: expected {words:?}, found {found}");
    Ok(())
}

fn exec(fixture: &Fixture) -> anyhow::Result<()> {
    let agent = Agent::start(fixture)?;
    let mut bundle = agent.bundle(fixture)?;
    let container = fixture.start(&mut bundle)?;
    // Its line comes first: each connection is served by a process of its own.
    agent.payload(0)?;
    let line = ["/syscalls", "one", &libc::SYS_getpriority.to_string(), "-1"];
    let found = container.exec(&line)?.ok()?.stdout;
    ensure!(found.trim() == "66", "the call in exec: expected the agent's error 66, found {found}");
    let state = agent.payload(1)?;
    let pid = &state["pid"];
    ensure!(pid.is_number() && *pid != container.pid(), "pid: expected that of the exec, found {pid}");
    ensure!(
        state["state"]["status"] == "running",
        "state.status: expected running, found {}",
        state["state"]["status"]
    );
    Ok(())
}
