//! The seccomp filter of a live container, compared with runc's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::{BRIG, Bundle, show};

const DOCKER: &str = include_str!("../../../spec-tests/data/docker-default-seccomp.json");

/// The probe, compiled once.
fn probe() -> &'static PathBuf {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
        std::fs::create_dir_all(&directory).unwrap();
        let (source, program) = (directory.join("syscalls.c"), directory.join("syscalls"));
        std::fs::write(&source, include_str!("../../../spec-tests/src/probe/syscalls.c")).unwrap();
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-O1", "-Wall", "-Werror", "-o"]).args([&program, &source]);
        let made = compiler.output().expect("a C compiler is installed");
        assert!(made.status.success(), "{}", show(&made));
        program
    })
}

/// A container of the probe under a profile.
fn bundle(runtime: &'static str, profile: Value, args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(args);
    bundle.runtime = runtime;
    crate::support::copy_program(probe(), &bundle.rootfs("bin/syscalls"));
    bundle.config["linux"]["seccomp"] = profile;
    bundle
}

fn results(text: &str) -> BTreeMap<u32, String> {
    let pair = |line: &str| {
        let (number, result) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        (number.parse().unwrap(), result.to_owned())
    };
    text.lines().map(pair).collect()
}

/// Runs the probe over a range with brig, in the container and by exec, and with runc.
fn both(profile: &str, entry: &str, last: &str) -> [BTreeMap<u32, String>; 3] {
    let profile: Value = serde_json::from_str(profile).unwrap();
    let line = ["syscalls", entry, "0", last];
    let run = |runtime| results(&bundle(runtime, profile.clone(), &line).run_ok());
    let container = bundle(BRIG, profile.clone(), &["sleep", "1000"]);
    container.start();
    let exec = results(&container.ok(&[&["exec", &container.id], &line[..]].concat()));
    [run(BRIG), exec, run("runc")]
}

/// Calls with different results. A call that the alarm interrupted on one side alone is unknown: the machine was slow,
/// or the call waits. A denied call returns at once.
fn difference(a: &BTreeMap<u32, String>, b: &BTreeMap<u32, String>) -> Vec<String> {
    const ALARM: &str = "signal 14";
    let differ = |(number, result): (&u32, &String)| {
        let undecided = result == ALARM || b.get(number).is_some_and(|other| other == ALARM);
        (b.get(number) != Some(result) && !undecided).then(|| format!("{number}: {result} and {:?}", b.get(number)))
    };
    a.iter().filter_map(differ).collect()
}

/// The newest syscall that the libseccomp of runc 1.1 on Debian 12 has a name for.
const LAST_OF_LIBSECCOMP: &str = "450";

#[test]
fn dockers_profile_gives_the_result_of_runcs_for_each_call() {
    for (entry, last) in [("native", LAST_OF_LIBSECCOMP), ("compat", LAST_OF_LIBSECCOMP)] {
        let [run, exec, theirs] = both(DOCKER, entry, last);
        assert!(run.len() > 400, "{entry}: {}", run.len());
        assert_eq!(difference(&run, &theirs), [""; 0], "{entry}");
        assert_eq!(difference(&exec, &run), [""; 0], "{entry}, exec");
    }
}

#[test]
fn calls_newer_than_a_profile_return_enosys() {
    let profile: Value = serde_json::from_str(DOCKER).unwrap();
    let run = results(&bundle(BRIG, profile, &["syscalls", "native", "451", "600"]).run_ok());
    // mseal (462) is allowed by name; a call that no kernel has yet is ENOSYS (38), not EPERM.
    assert_ne!(run[&462], "1");
    assert_eq!(run[&600], "38");
}

/// The calls that the static probe needs to start and to report.
const NEEDS: &[&str] = &[
    "execve",
    "brk",
    "arch_prctl",
    "set_tid_address",
    "set_robust_list",
    "rseq",
    "prlimit64",
    "getrandom",
    "mprotect",
    "mmap",
    "fstat",
    "newfstatat",
    "write",
    "exit_group",
    "readlink",
    "readlinkat",
    "uname",
    "ioctl",
];

fn partial(default: &str, more: Value) -> Value {
    let mut rules = vec![json!({"names": NEEDS, "action": "SCMP_ACT_ALLOW"})];
    rules.extend(more.as_array().unwrap().iter().cloned());
    json!({"defaultAction": default, "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules})
}

/// getppid(2) on x86_64.
const GETPPID: &str = "110";

#[test]
fn a_profile_that_allows_only_the_programs_calls_does_not_kill_init() {
    for default in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        for privileged in [true, false] {
            let mut bundle = bundle(BRIG, partial(default, json!([])), &["syscalls", "one", "39"]);
            bundle.config["linux"]["seccomp"]["syscalls"][0]["names"].as_array_mut().unwrap().push(json!("getpid"));
            bundle.config["process"]["noNewPrivileges"] = json!(!privileged);
            bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
            assert_eq!(bundle.run_ok(), "0\n", "{default}, privileged {privileged}");
        }
    }
}

#[test]
fn every_action_has_its_effect() {
    for (rule, code, printed) in [
        (json!({"action": "SCMP_ACT_ERRNO"}), 0, "1\n"),
        (json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 95}), 0, "95\n"),
        (json!({"action": "SCMP_ACT_KILL_PROCESS"}), 128 + libc::SIGSYS, ""),
        (json!({"action": "SCMP_ACT_KILL_THREAD"}), 128 + libc::SIGSYS, ""),
        (json!({"action": "SCMP_ACT_KILL"}), 128 + libc::SIGSYS, ""),
        (json!({"action": "SCMP_ACT_TRAP"}), 128 + libc::SIGSYS, ""),
        // There is no tracer.
        (json!({"action": "SCMP_ACT_TRACE"}), 0, "38\n"),
        (json!({"action": "SCMP_ACT_LOG"}), 0, "0\n"),
        (json!({"action": "SCMP_ACT_ALLOW"}), 0, "0\n"),
    ] {
        let mut rule = rule;
        rule["names"] = json!(["getppid"]);
        let bundle = bundle(BRIG, partial("SCMP_ACT_ERRNO", json!([rule])), &["syscalls", "one", GETPPID]);
        let run = bundle.run();
        assert_eq!(run.status.code(), Some(code), "{rule}: {}", show(&run));
        assert_eq!(String::from_utf8_lossy(&run.stdout), printed, "{rule}");
    }
}

#[test]
fn arguments_decide() {
    // personality(2), 135: allowed for 0xffffffff alone.
    let rule = json!([{"names": ["personality"], "action": "SCMP_ACT_ALLOW",
        "args": [{"index": 0, "value": 0xffff_ffff_u32, "op": "SCMP_CMP_EQ"}]}]);
    let result = |argument: &str| {
        bundle(BRIG, partial("SCMP_ACT_ERRNO", rule.clone()), &["syscalls", "one", "135", argument]).run_ok()
    };
    assert_eq!([result("0xffffffff"), result("0")], ["0\n", "1\n"]);
}

#[test]
fn a_profile_that_refuses_execve_is_named() {
    let rule = |action: &str| json!([{"names": ["execve"], "action": action}]);
    for profile in [
        json!({"defaultAction": "SCMP_ACT_ERRNO"}),
        json!({"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [{"names": ["exit_group"], "action": "SCMP_ACT_ALLOW"}]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("SCMP_ACT_ERRNO")}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rule("SCMP_ACT_KILL")}),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.config["linux"]["seccomp"] = profile;
        let error = bundle.run_fails();
        assert!(error.contains("linux.seccomp refuses execve"), "{error}");
    }
    let mut bundle = Bundle::new(&["true"]);
    let syscalls = json!([{"names": ["execve"], "action": "SCMP_ACT_LOG"}]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": syscalls});
    bundle.run_ok();
}
