//! Processes that these tests start beside brig.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use crate::support::Bundle;

/// Names of the links in /proc/PID/ns.
const NAMESPACES: [&str; 8] = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];

/// A shell script that prints a line for each namespace of the shell.
pub const PRINT_NAMESPACES: &str =
    "for n in cgroup ipc mnt net pid time user uts; do echo $n $(readlink /proc/self/ns/$n); done";

/// Parses the output of [`PRINT_NAMESPACES`].
pub fn namespaces(printed: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once(' ').map(|(name, link)| (name.to_owned(), link.to_owned()));
    printed.lines().filter_map(pair).collect()
}

/// The namespaces of this kernel; time namespaces may be missing.
pub fn known_namespaces() -> Vec<&'static str> {
    NAMESPACES.into_iter().filter(|name| std::fs::read_link(format!("/proc/self/ns/{name}")).is_ok()).collect()
}

/// The namespaces of this test.
pub fn own_namespaces() -> BTreeMap<String, String> {
    let link = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    known_namespaces().iter().map(|name| ((*name).to_owned(), link(name).display().to_string())).collect()
}

/// A process in namespaces of its own, which exits on drop.
pub struct Holder {
    child: Child,
    said: String,
}

impl Holder {
    /// Starts unshare(1) with these flags.
    pub fn new(flags: &[&str]) -> Holder {
        Holder::with_script(flags, PRINT_NAMESPACES)
    }

    /// Starts unshare(1) with these flags, and runs `script` first.
    pub fn with_script(flags: &[&str], script: &str) -> Holder {
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-c", &format!("{script}; echo ready; read end")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("util-linux is installed");
        let mut said = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !said.ends_with("ready\n") {
            assert_ne!(out.read_line(&mut said).unwrap(), 0, "unshare {flags:?} failed: {said:?}");
        }
        Holder { child, said }
    }

    /// The output of the script.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// The path of a file of the process's directory in /proc.
    pub fn file(&self, name: &str) -> String {
        format!("/proc/{}/{name}", self.child.id())
    }

    /// The path of one of its namespaces; for `--fork`, of its children.
    pub fn path(&self, name: &str) -> String {
        format!("/proc/{}/ns/{name}", self.child.id())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The shell exits after it has read a line.
        let _ = self.child.stdin.take().unwrap().write_all(b"\n");
        let _ = self.child.wait();
    }
}

/// A bundle that runs a shell script.
pub fn script(text: &str) -> Bundle {
    Bundle::new(&["sh", "-c", text])
}
