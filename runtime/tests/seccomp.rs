//! The compiled program in the kernel, compared with runc's program for the same profile.
//!
//! Needs root. The comparison needs runc, strace and a static /bin/busybox, and fails without one of them.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::{Command, Stdio};

use brig_engine::seccomp::compile;
#[rustfmt::skip]
use brig_sys::seccomp::{Instruction, action_available, flags_available, install};
use machine::Call;
use nix::sched::CloneFlags;
use oci_spec::runtime::LinuxSeccomp;
use rustix::io::Errno;
use serde_json::{Value, json};

/// The interpreter, at the path by which the tests' part of it names it.
#[path = "../engine/src/seccomp"]
mod seccomp {
    pub mod machine;
}
#[path = "../engine/src/seccomp/tests/machine.rs"]
#[allow(dead_code)] // the unit tests use the rest
mod machine;

const DOCKER: &str = include_str!("../../spec-tests/data/docker-default-seccomp.json");

/// Every operator and most actions, on architectures and syscalls where libseccomp 2.5 compiles them rightly.
const MIXED: &str = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 95,
  "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
  "syscalls": [
    {"names": ["close", "read", "write", "execve", "exit_group", "brk", "mmap", "mmap2", "arch_prctl", "futex", "fstat",
      "set_tid_address", "set_robust_list", "rseq", "prlimit64", "getrandom", "mprotect", "getpid", "gettid", "tgkill",
      "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "madvise", "munmap", "epoll_ctl", "epoll_pwait",
      "nanosleep", "sched_yield", "newfstatat", "openat", "fcntl", "dup3", "readlinkat", "statx", "chdir", "getcwd",
      "getuid", "getgid", "geteuid", "getegid", "getppid", "uname", "readlink", "ioctl", "access", "stat", "lseek"],
      "action": "SCMP_ACT_ALLOW"},
    {"names": ["kill"], "action": "SCMP_ACT_TRAP", "args": [{"index": 1, "value": 9, "op": "SCMP_CMP_EQ"}]},
    {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 4294967295, "op": "SCMP_CMP_NE"}]},
    {"names": ["setuid"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1000, "op": "SCMP_CMP_GE"}]},
    {"names": ["setgid"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 1000, "op": "SCMP_CMP_GT"}]},
    {"names": ["chmod"], "action": "SCMP_ACT_KILL_PROCESS", "args": [{"index": 1, "value": 64, "op": "SCMP_CMP_LT"}]},
    {"names": ["fchmod"], "action": "SCMP_ACT_KILL", "args": [{"index": 1, "value": 64, "op": "SCMP_CMP_LE"}]},
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
      "args": [{"index": 0, "value": 2114060288, "valueTwo": 536870912, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["prctl"], "action": "SCMP_ACT_TRACE", "errnoRet": 7,
      "args": [{"index": 0, "value": 22, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
    {"names": ["prctl"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 15, "op": "SCMP_CMP_EQ"}]},
    {"names": ["madvise", "ptrace"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
    {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW"},
    {"names": ["fcntl64"], "action": "SCMP_ACT_ALLOW",
      "args": [{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]}
  ]}"#;

fn program(profile: &str) -> Vec<Instruction> {
    let spec: LinuxSeccomp = serde_json::from_str(profile).unwrap();
    compile(&spec).unwrap().program.instructions
}

#[test]
fn the_kernel_takes_dockers_profile_and_acts_on_it() {
    let spec: LinuxSeccomp = serde_json::from_str(DOCKER).unwrap();
    let compiled = compile(&spec).unwrap();
    // A thread of its own is needed, because a filter stays until the thread exits.
    let denied = std::thread::spawn(move || {
        install(&compiled.program.instructions, compiled.program.flags).unwrap();
        let denied = nix::sched::unshare(CloneFlags::CLONE_NEWUTS);
        assert_eq!(u32::try_from(nix::unistd::getpid().as_raw()), Ok(std::process::id()));
        denied
    });
    assert_eq!(denied.join().unwrap(), Err(nix::errno::Errno::EPERM));
}

#[test]
fn a_broken_program_is_refused_with_its_call() {
    let error = install(&[Instruction { code: 5, jt: 0, jf: 0, k: 9 }], 0).unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL);
    assert!(error.to_string().starts_with("seccomp(SECCOMP_SET_MODE_FILTER, 0x0, {len=1}): "), "{error}");
}

#[test]
fn the_kernel_reports_the_actions_and_flags_that_it_supports() {
    assert!(action_available(0x7ffc_0000));
    assert!(!action_available(0x1234_0000));
    assert!(flags_available(1 << 2));
    assert!(!flags_available(1 << 30));
}

/// The value of a constant as strace prints it with `-X raw`: numbers joined by `|`.
fn number(text: &str) -> u32 {
    let one = |part: &str| match part.trim().strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
        None => part.trim().parse().unwrap(),
    };
    text.split('|').fold(0, |sum, part| sum | one(part))
}

/// The program that runc installs for `profile`, read from strace.
fn program_of_runc(profile: &str) -> Vec<Instruction> {
    let bundle = tempfile::tempdir().unwrap();
    let path = |name: &str| bundle.path().join(name);
    std::fs::create_dir_all(path("rootfs/bin")).unwrap();
    assert!(Command::new("cp").arg("/bin/busybox").arg(path("rootfs/bin")).status().unwrap().success());
    assert!(Command::new("runc").arg("spec").current_dir(bundle.path()).status().unwrap().success());
    let mut config: Value = serde_json::from_slice(&std::fs::read(path("config.json")).unwrap()).unwrap();
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(["/bin/busybox", "true"]);
    config["linux"]["seccomp"] = serde_json::from_str(profile).unwrap();
    std::fs::write(path("config.json"), config.to_string()).unwrap();
    let id = bundle.path().file_name().unwrap().to_string_lossy().replace('.', "seccomp");
    let output = Command::new("strace")
        .args(["-f", "-v", "-X", "raw", "-e", "trace=seccomp,prctl", "-e", "abbrev=none", "-s", "65536", "-o"])
        .arg(path("trace"))
        .args(["runc", "--root"])
        .arg(path("state"))
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&id)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    // The result of the container under the profile is irrelevant here; nothing may be left behind.
    let _ = Command::new("runc").arg("--root").arg(path("state")).args(["delete", "--force", &id]).output();
    let trace = std::fs::read_to_string(path("trace")).unwrap();
    let Some((_, filter)) = trace.split_once("filter=[") else {
        panic!("runc installed no filter: {}", String::from_utf8_lossy(&output.stderr));
    };
    let (filter, _) = filter.split_once(']').unwrap();
    let instructions = filter.split("BPF_").filter(|text| !text.is_empty()).map(|text| {
        let (_, fields) = text.split_once('(').unwrap();
        let fields: Vec<u32> = fields.split_once(')').unwrap().0.split(',').map(number).collect();
        let branch = |i: usize| fields.get(i).map_or(0, |value| u8::try_from(*value).unwrap());
        Instruction { code: fields[0].try_into().unwrap(), jt: branch(2), jf: branch(3), k: fields[1] }
    });
    instructions.collect()
}

/// Runs both programs for every number, with argument values at the boundaries of the profile.
fn compare(profile: &str) {
    for tool in ["/usr/bin/strace", "/usr/sbin/runc", "/bin/busybox"] {
        assert!(Path::new(tool).exists(), "{tool} is not installed; spec-tests/beds/install installs it");
    }
    let (ours, theirs) = (program(profile), program_of_runc(profile));
    eprintln!("{} instructions, runc {}", ours.len(), theirs.len());
    let mentioned = profile.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse::<u64>().ok());
    let around = |v: u64| [v, v.wrapping_add(1), v.wrapping_sub(1), v | 1 << 32, !v];
    let values: Vec<u64> = mentioned.flat_map(around).collect();
    let numbers = (0..600u32).flat_map(|nr| [nr, nr | 0x4000_0000]).chain([0x7fff_ffff, u32::MAX]);
    for nr in numbers {
        for arch in [0xc000_003e, 0x4000_0003, 0x4000_0028] {
            let agree = |args: [u64; 6]| {
                let call = Call { nr, arch, args };
                let (ours, theirs) = (machine::run(&ours, &call), machine::run(&theirs, &call));
                assert_eq!(ours.outcome, theirs.outcome, "{call:x?}: {:#x}, runc {:#x}", ours.outcome, theirs.outcome);
                // Two loads find the number; a third one is an argument. runc's stub adds two.
                ours.loads > 2 || theirs.loads > 4
            };
            if agree([0; 6]) {
                for (i, value) in values.iter().enumerate() {
                    agree([*value; 6]);
                    agree([values[(i * 7 + 3) % values.len()], *value, values[(i * 5 + 1) % values.len()], 0, 0, 0]);
                    for index in 0..6 {
                        let mut args = [0; 6];
                        args[index] = *value;
                        agree(args);
                    }
                }
            }
        }
    }
}

#[test]
fn dockers_profile_gives_the_results_of_runc() {
    compare(DOCKER);
}

#[test]
fn operators_and_actions_give_the_results_of_runc() {
    compare(MIXED);
}
