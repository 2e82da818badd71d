//! The examples do what their headers say. `cargo test` builds them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A root file system with busybox.
fn rootfs() -> tempfile::TempDir {
    let root = tempfile::Builder::new().prefix("brig-test-").tempdir().unwrap();
    std::fs::create_dir(root.path().join("bin")).unwrap();
    std::fs::copy("/bin/busybox", root.path().join("bin/busybox")).unwrap();
    for name in ["sh", "sleep", "echo", "test", "touch"] {
        std::os::unix::fs::symlink("busybox", root.path().join("bin").join(name)).unwrap();
    }
    root
}

fn example(name: &str, rootfs: &Path, arguments: &[&str]) -> Output {
    let this = std::env::current_exe().unwrap();
    let program: PathBuf = this.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(program.exists(), "{} is missing: build it with cargo build -p brig-engine --examples", program.display());
    Command::new(program).arg(rootfs).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn run_prints_the_output_and_exits_with_the_status() {
    let root = rootfs();
    let output = example("run", root.path(), &["sh", "-c", "echo hello; exit 7"]);
    assert_eq!((text(&output.stdout), output.status.code()), ("hello\n", Some(7)), "{}", text(&output.stderr));
}

#[test]
fn exec_runs_a_second_process() {
    let root = rootfs();
    let output = example("exec", root.path(), &["sh", "-c", "exit 3"]);
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert!(lines[0].ends_with("of the container: exit status: 3"), "{lines:?} {}", text(&output.stderr));
    assert!(lines[1].contains("signal: 9"), "{lines:?}");
}

#[test]
fn a_pool_runs_its_containers_at_once() {
    let root = rootfs();
    let output = example("pool", root.path(), &["8"]);
    let expected = "[Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7)]\n";
    assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
}

#[test]
fn a_supervisor_restarts_until_the_command_succeeds() {
    let root = rootfs();
    let output = example("supervisor", root.path(), &["sh", "-c", "test -e /done || { touch /done; exit 1; }"]);
    let expected = "start 1: exit status: 1\nstart 2: exit status: 0\n";
    assert_eq!((text(&output.stdout), output.status.success()), (expected, true), "{}", text(&output.stderr));
    let refused = example("supervisor", root.path(), &["missing"]);
    assert!(text(&refused.stderr).contains("missing"), "{}", text(&refused.stderr));
    assert_eq!(text(&refused.stdout), "", "a command that cannot be executed is not started again");
}
