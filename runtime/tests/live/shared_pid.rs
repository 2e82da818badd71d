//! Containers, and execs, in the pid namespace of another container: the first-stage init, which stays outside, creates
//! their process inside as its last action.

use std::fs;
use std::io::Read;

use serde_json::json;

use crate::helpers::script;
use crate::support::{Bundle, wait_for_program};

/// A running container, and the file of its pid namespace.
fn neighbour() -> (Bundle, String) {
    let bundle = script("exec sleep 1000");
    bundle.start();
    let path = format!("/proc/{}/ns/pid", bundle.state()["pid"]);
    (bundle, path)
}

fn sharing(path: &str, text: &str) -> Bundle {
    let mut bundle = script(text);
    bundle.namespace("pid", Some(json!({"type": "pid", "path": path})));
    bundle
}

#[test]
fn a_container_is_in_the_shared_pid_namespace_and_its_proc_shows_it() {
    let (_neighbour, path) = neighbour();
    let bundle = sharing(&path, "exec sleep 1000");
    bundle.start();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    wait_for_program(pid, "sleep");
    let link = |path: &str| fs::read_link(path).unwrap();
    assert_eq!(link(&format!("/proc/{pid}/ns/pid")), link(&path));
    assert_eq!(link(&format!("/proc/{pid}/ns/pid_for_children")), link(&path));
    let inside = bundle.exec("cat /proc/1/comm; readlink /proc/self/exe; cat /proc/self/stat | cut -d' ' -f6");
    let lines: Vec<&str> = inside.lines().collect();
    assert_eq!(lines[..2], ["sleep", "/bin/busybox"], "{inside}");
    assert_ne!(lines[2], "0", "an exec has a session of its own: {inside}");
}

#[test]
fn hooks_of_create_run_outside_of_a_shared_pid_namespace() {
    let (_neighbour, path) = neighbour();
    let mut bundle = sharing(&path, "true");
    let seen = bundle.path().join("seen");
    let hook = |pid: &str| {
        let text =
            format!("p={pid}; echo $(readlink /proc/$p/ns/pid) $(readlink /proc/$p/ns/mnt) >>{}", seen.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", text]}])
    };
    let of_state = "$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')";
    bundle.config["hooks"] = json!({"createRuntime": hook(of_state), "createContainer": hook("self")});
    bundle.run_ok();
    let seen = fs::read_to_string(&seen).unwrap();
    let lines: Vec<Vec<&str>> = seen.lines().map(|line| line.split(' ').collect()).collect();
    let link = |name: &str| fs::read_link(name).unwrap().display().to_string();
    for line in &lines {
        assert_eq!(line[0], link("/proc/self/ns/pid"), "{seen}");
        assert_ne!(line[1], link("/proc/self/ns/mnt"), "{seen}");
    }
    assert_eq!(lines.len(), 2, "{seen}");
    assert_eq!(lines[0][1], lines[1][1], "both name the container's mount namespace: {seen}");
}

#[test]
fn attributes_that_clone_does_not_inherit_are_set_for_the_second_stage() {
    let (_neighbour, path) = neighbour();
    let mut bundle = sharing(&path, "ulimit -u; ulimit -n; cut -d' ' -f19 /proc/$$/stat; sleep 0");
    // The container lacks CAP_SYS_NICE.
    bundle.config["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NPROC", "soft": 2, "hard": 2},
        {"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88},
    ]);
    bundle.config["process"]["scheduler"] =
        json!({"policy": "SCHED_OTHER", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    // RLIMIT_NPROC counts the processes of a user on the whole host, where other runs of this test may be active.
    let mut random = [0; 4];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    let uid = 1_000_000_000 | (u32::from_ne_bytes(random) >> 3);
    bundle.config["process"]["user"] = json!({"uid": uid, "gid": uid});
    // Twice the container's limit: the second-stage init and the shell's child count, but not the first-stage init.
    assert_eq!(bundle.run_ok(), "2\n77\n-5\n");
}

/// The calls after the first-stage init has installed a filter, and those of busybox.
const REMAINING: &[&str] = &[
    "brk",
    "capset",
    "clone",
    "close",
    "execve",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fcntl",
    "ioctl",
    "madvise",
    "mmap",
    "mremap",
    "munmap",
    "newfstatat",
    "openat",
    "pidfd_send_signal",
    "pread64",
    "prlimit64",
    "read",
    "recvmsg",
    "sendmsg",
    "setsid",
    "sigaltstack",
    "statfs",
    "statx",
    "write",
];
const OF_BUSYBOX: &[&str] = &[
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "readlink",
    "readlinkat",
    "getrandom",
    "mprotect",
    "prctl",
    "getuid",
    "setuid",
    "getgid",
    "setgid",
    "fstat",
    "uname",
    "rt_sigaction",
    "rt_sigprocmask",
    "geteuid",
    "getppid",
    "getpid",
    "getcwd",
    "stat",
    "sendfile",
    "open",
];

#[test]
fn nothing_that_remains_is_forbidden_by_a_filter_which_the_first_stage_installs() {
    let mut bundle = script("echo out");
    let names: Vec<&str> = REMAINING.iter().chain(OF_BUSYBOX).copied().collect();
    bundle.config["linux"]["seccomp"] =
        json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]});
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    bundle.config["process"]["args"] = json!(["cat"]);
    std::fs::write(bundle.rootfs("plain"), "text").unwrap();
    let (_neighbour, path) = neighbour();
    bundle.namespace("pid", Some(json!({"type": "pid", "path": path})));
    bundle.run_ok();
    // It waits at the gate meanwhile.
    bundle.create();
    for flags in [&[][..], &["-u", "1000"], &["--cwd", "/bin"]] {
        bundle.ok(&[&["exec"], flags, &[&bundle.id, "echo", "out"]].concat());
        let missing = bundle.brig(&[&["exec"], flags, &[&bundle.id, "missing"]].concat());
        let text = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert!(text.contains("executable file not found"), "{text}");
        let denied = bundle.brig(&[&["exec"], flags, &[&bundle.id, "/plain"]].concat());
        let text = String::from_utf8_lossy(&denied.stderr).into_owned();
        assert!(text.contains("/plain has no execute permission"), "{text}");
    }
    bundle.ok(&["start", &bundle.id]);
}
