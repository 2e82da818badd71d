//! The environment of a test: this host, a pure v2 view of it, or a virtual machine.
//!
//! BRIG_BED names it: `host`, `v2view`, `uml`, `uml-systemd`, `uml-systemd-v1`, `uml-systemd-hybrid`, `qemu`. The name
//! only decides which tests must not be skipped; tests detect the environment's features themselves.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use brig_plan::Host;
use brig_plan::host::CgroupLayout;

pub mod scope;
mod scratch;

#[allow(unused_imports, reason = "each test binary uses a part of it")]
pub use scratch::{Scratch, plan_of, plan_of_config};

/// The name of the environment; empty without the variable.
pub fn name() -> String {
    std::env::var("BRIG_BED").unwrap_or_default()
}

/// Checks that a systemd answers.
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Checks that this host has `controller`, on v1 or v2.
pub fn has_controller(controller: &str) -> bool {
    let v1 = if controller == "io" { "blkio" } else { controller };
    Path::new("/sys/fs/cgroup").join(v1).is_dir()
        || std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers")
            .is_ok_and(|all| all.split_whitespace().any(|it| it == controller))
}

/// The host's layout of cgroups.
pub fn layout() -> CgroupLayout {
    let there = |path: &str| Path::new("/sys/fs/cgroup").join(path).exists();
    match (there("cgroup.controllers"), there("unified/cgroup.controllers"), there("memory")) {
        (true, _, _) => CgroupLayout::V2,
        (false, true, _) => CgroupLayout::Hybrid,
        (false, false, true) => CgroupLayout::V1,
        _ => CgroupLayout::None,
    }
}

/// The facts that a plan needs.
pub fn host() -> Host {
    Host::of_root(layout())
}

/// A shell that waits for [`Gated::open`], so that it can be moved into a cgroup first.
pub struct Gated {
    pub child: Child,
    gate: Option<ChildStdin>,
}

impl Gated {
    /// Starts a shell that runs `script` after [`Gated::open`].
    pub fn new(script: &str) -> Gated {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read gate; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a shell");
        let gate = child.stdin.take();
        Gated { child, gate }
    }

    /// Starts a process that runs until it is killed.
    pub fn idle() -> Gated {
        Gated::new("read never")
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Starts the script; its standard input stays open.
    pub fn open(&mut self) {
        self.gate.as_mut().expect("the gate").write_all(b"\n").expect("the gate opens");
    }

    pub fn wait(mut self) -> ExitStatus {
        let status = self.child.wait().expect("the child's end");
        drop(self.gate.take());
        status
    }
}

impl Drop for Gated {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
