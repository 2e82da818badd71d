//! config-linux.md, Seccomp: actions, operators, architectures, flags.

use anyhow::{Context, ensure};
use nix::libc;
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Done, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#seccomp";

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run)
}

/// Kernels that have the i386 entry have this.
const I386: &[Need] = &[Need::File("/proc/sys/abi/vsyscall32")];

/// In the order of the text.
pub const CASES: &[Case] = &[
    case("a seccomp profile is a filter of the process", is_filtered),
    case("a defaultAction that denies applies to every call that no rule allows", default_action),
    case("defaultErrnoRet is the default's error", default_errno),
    case("a defaultErrnoRet with a defaultAction that has no error is refused", default_errno_of_allow),
    case("a call of an architecture that is not listed is not allowed", foreign_architecture).on(I386),
    case("a rule applies to each architecture that is listed", listed_architecture).on(I386),
    case("an architecture that is not known is refused", |fixture| {
        refused(fixture, json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_VAX"] }))
    }),
    case("each flag of seccomp is accepted alone", each_flag),
    case("all flags of seccomp are accepted together", all_flags),
    case("a flag of seccomp that is not known is refused", |fixture| {
        refused(fixture, json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FAST"] }))
    }),
    case("a rule with a name that is not known leaves the others in force", unknown_name),
    case("an action that is not known is refused", |fixture| {
        rule_refused(fixture, json!({ "names": ["getpriority"], "action": "SCMP_ACT_WARN" }))
    }),
    case("SCMP_ACT_ERRNO without errnoRet is EPERM", |fixture| calls(fixture, json!({ "action": ERRNO }), "1")),
    case("errnoRet is the rule's error", |fixture| calls(fixture, json!({ "action": ERRNO, "errnoRet": 77 }), "77")),
    case("errnoRet of 0 makes the call succeed", |fixture| {
        calls(fixture, json!({ "action": ERRNO, "errnoRet": 0 }), "0")
    }),
    case("an errnoRet with an action that has no error is refused", errno_of_others),
    case("SCMP_ACT_ALLOW allows a call", allow),
    case("SCMP_ACT_LOG allows a call", |fixture| calls(fixture, json!({ "action": "SCMP_ACT_LOG" }), "22")),
    case("SCMP_ACT_TRACE without a tracer fails with ENOSYS", |fixture| {
        calls(fixture, json!({ "action": "SCMP_ACT_TRACE" }), "38")
    }),
    case("SCMP_ACT_TRAP sends SIGSYS, which can be handled", trap),
    case("SCMP_ACT_KILL kills the thread alone", |fixture| kills(fixture, "SCMP_ACT_KILL", true)),
    case("SCMP_ACT_KILL_THREAD kills the thread alone", |fixture| kills(fixture, "SCMP_ACT_KILL_THREAD", true)),
    case("SCMP_ACT_KILL_PROCESS kills the whole process", |fixture| kills(fixture, "SCMP_ACT_KILL_PROCESS", false)),
    case("SCMP_CMP_EQ matches the value alone", |fixture| operator(fixture, "SCMP_CMP_EQ", [false, true, false])),
    case("SCMP_CMP_NE matches every other value", |fixture| operator(fixture, "SCMP_CMP_NE", [true, false, true])),
    case("SCMP_CMP_LT matches lower values", |fixture| operator(fixture, "SCMP_CMP_LT", [true, false, false])),
    case("SCMP_CMP_LE matches equal and lower values", |fixture| operator(fixture, "SCMP_CMP_LE", [true, true, false])),
    case("SCMP_CMP_GE matches equal and higher values", |fixture| {
        operator(fixture, "SCMP_CMP_GE", [false, true, true])
    }),
    case("SCMP_CMP_GT matches higher values", |fixture| operator(fixture, "SCMP_CMP_GT", [false, false, true])),
    case("operators compare all 64 bits, without a sign", wide),
    case("SCMP_CMP_MASKED_EQ masks by value and compares with valueTwo", masked),
    case("an operator that is not known is refused", |fixture| {
        rule_refused(fixture, rule(json!([{ "index": 1, "value": 7, "op": "SCMP_CMP_NEAR" }])))
    }),
    case("an argument that no call has is refused", |fixture| {
        rule_refused(fixture, rule(json!([{ "index": 6, "value": 7, "op": "SCMP_CMP_EQ" }])))
    }),
    case("all of several arguments have to match", several_arguments),
    case("either of two rules for one call may match", two_rules),
    case("exec is under the container's filter", exec),
    case("a filter is installed without noNewPrivileges too", without_no_new_privileges),
];

const ERRNO: &str = "SCMP_ACT_ERRNO";

/// The call of all these cases: harmless, and it fails with EINVAL (22) where nothing is filtered.
const CALL: &str = "getpriority";
/// The same by the i386 entry.
const COMPAT_NUMBER: &str = "96";

fn number() -> String {
    libc::SYS_getpriority.to_string()
}

/// A rule for the call that fails with error 77 where these arguments match.
fn rule(args: Value) -> Value {
    json!({ "names": [CALL], "action": ERRNO, "errnoRet": 77, "args": args })
}

/// A bundle with the program of raw calls, under a profile.
fn bundle(fixture: &Fixture, profile: Value) -> anyhow::Result<Bundle> {
    let mut bundle = fixture.bundle()?;
    fixture.install(&bundle, "syscalls")?;
    bundle.set("/linux/seccomp", profile);
    Ok(bundle)
}

fn allow_but(rules: Value) -> Value {
    json!({ "defaultAction": "SCMP_ACT_ALLOW", "architectures": native(), "syscalls": rules })
}

fn native() -> Value {
    match std::env::consts::ARCH {
        "aarch64" => json!(["SCMP_ARCH_AARCH64"]),
        _ => json!(["SCMP_ARCH_X86_64"]),
    }
}

fn run(fixture: &Fixture, profile: Value, words: &[&str]) -> anyhow::Result<Done> {
    let mut bundle = bundle(fixture, profile)?;
    bundle.args(&[&["/syscalls"], words].concat());
    fixture.run(&bundle)
}

/// The error of the call with these arguments under a profile.
fn error(fixture: &Fixture, profile: Value, arguments: &[&str]) -> anyhow::Result<String> {
    let done = run(fixture, profile, &[&["one", &number()], arguments].concat())?.ok()?;
    Ok(done.stdout.trim().to_owned())
}

fn refused(fixture: &Fixture, profile: Value) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/seccomp", profile)).map(drop)
}

fn rule_refused(fixture: &Fixture, rule: Value) -> anyhow::Result<()> {
    refused(fixture, allow_but(json!([rule])))
}

fn is_filtered(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let plain = fixture.facts(&bundle)?;
    ensure!(
        plain.status("Seccomp")? == "0",
        "without a profile: expected Seccomp 0, found {}",
        plain.status("Seccomp")?
    );
    let facts =
        fixture.facts(bundle.set("/linux/seccomp", allow_but(json!([{ "names": [CALL], "action": ERRNO }]))))?;
    let found = (facts.status("Seccomp")?, facts.status("Seccomp_filters").unwrap_or("1"));
    ensure!(found == ("2", "1"), "expected Seccomp 2 (a filter) and one of them, found {found:?}");
    Ok(())
}

/// The system calls that the program of raw calls needs for its report.
const NEEDED: &[&str] = &[
    "arch_prctl",
    "brk",
    "close",
    "close_range",
    "execve",
    "exit",
    "exit_group",
    "fcntl",
    "fstat",
    "futex",
    "getrandom",
    "ioctl",
    "lseek",
    "mmap",
    "mprotect",
    "munmap",
    "newfstatat",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "set_robust_list",
    "set_tid_address",
    "write",
    "writev",
    "openat",
    "getpid",
    "gettid",
    "setgid",
    "setuid",
    "setgroups",
    "capget",
    "capset",
    "chdir",
    "fchdir",
    "getcwd",
    "sendmsg",
    "recvmsg",
    "poll",
    "ppoll",
    "epoll_ctl",
    "epoll_pwait",
    "sched_yield",
    "nanosleep",
    "tgkill",
    "access",
    "faccessat2",
    "stat",
    "lstat",
    "uname",
    "dup",
    "dup3",
    "pipe2",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getppid",
    "umask",
    "setsid",
    "fstatfs",
    "getdents64",
    "statx",
    "mincore",
    "madvise",
    "sigaltstack",
    "clone3",
    "clone",
    "wait4",
    "kill",
    "sched_getaffinity",
    "clock_gettime",
    "sendto",
    "recvfrom",
    "socket",
    "connect",
    "openat2",
];

fn default_action(fixture: &Fixture) -> anyhow::Result<()> {
    let allowed = json!([{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }]);
    let profile = json!({ "defaultAction": ERRNO, "architectures": native(), "syscalls": allowed });
    let found = error(fixture, profile, &["-1"])?;
    ensure!(found == "1", "a call that no rule allows: expected error 1 (EPERM), found {found}");
    Ok(())
}

fn default_errno(fixture: &Fixture) -> anyhow::Result<()> {
    let allowed = json!([{ "names": NEEDED, "action": "SCMP_ACT_ALLOW" }]);
    let profile = json!({
        "defaultAction": ERRNO, "defaultErrnoRet": 88, "architectures": native(), "syscalls": allowed
    });
    let found = error(fixture, profile, &["-1"])?;
    ensure!(found == "88", "a call that no rule allows: expected error 88, found {found}");
    Ok(())
}

fn default_errno_of_allow(fixture: &Fixture) -> anyhow::Result<()> {
    refused(fixture, json!({ "defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5 }))
}

fn errno_of_others(fixture: &Fixture) -> anyhow::Result<()> {
    for action in ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
        let mut profile = allow_but(json!([{ "names": [CALL], "action": action, "errnoRet": 5 }]));
        profile["defaultAction"] = json!(if action == "SCMP_ACT_ALLOW" { "SCMP_ACT_LOG" } else { "SCMP_ACT_ALLOW" });
        refused(fixture, profile).with_context(|| format!("errnoRet with {action}"))?;
    }
    Ok(())
}

fn foreign_architecture(fixture: &Fixture) -> anyhow::Result<()> {
    let rules = json!([{ "names": ["getpriority"], "action": ERRNO, "errnoRet": 77 }]);
    let free = run(fixture, allow_but(json!([])), &["one", &number(), "-1"])?.ok()?;
    ensure!(free.stdout.trim() == "22", "the native call without a rule: expected error 22, found {}", free.stdout);
    let done = run(fixture, allow_but(rules), &["one-compat", COMPAT_NUMBER])?;
    let went_through = done.code == 0 && (done.stdout.trim() == "22" || done.stdout.trim() == "0");
    ensure!(!went_through, "a call by the i386 entry under a profile of x86_64 alone went through");
    Ok(())
}

fn listed_architecture(fixture: &Fixture) -> anyhow::Result<()> {
    let mut profile = allow_but(json!([{ "names": ["getpriority"], "action": ERRNO, "errnoRet": 77 }]));
    profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]);
    let native = error(fixture, profile.clone(), &["-1"])?;
    ensure!(native == "77", "the native call: expected error 77, found {native}");
    let found = run(fixture, profile, &["one-compat", COMPAT_NUMBER])?.ok()?.stdout;
    // A kernel without the i386 entry answers ENOSYS, which the program says by itself.
    ensure!(found.trim() == "77" || found.trim() == "38", "the call of i386: expected error 77, found {found}");
    Ok(())
}

const FLAGS: [&str; 3] = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"];

fn with_flags(fixture: &Fixture, flags: &[&str]) -> anyhow::Result<()> {
    let mut profile = allow_but(json!([{ "names": [CALL], "action": ERRNO, "errnoRet": 77 }]));
    profile["flags"] = json!(flags);
    let found = error(fixture, profile, &["-1"])?;
    ensure!(found == "77", "with {flags:?}: expected error 77, found {found}");
    Ok(())
}

fn each_flag(fixture: &Fixture) -> anyhow::Result<()> {
    FLAGS.iter().try_for_each(|flag| with_flags(fixture, &[flag]))
}

fn all_flags(fixture: &Fixture) -> anyhow::Result<()> {
    with_flags(fixture, &FLAGS)
}

fn unknown_name(fixture: &Fixture) -> anyhow::Result<()> {
    let rules = json!([{ "names": ["no_such_call", CALL], "action": ERRNO, "errnoRet": 77 }]);
    let found = error(fixture, allow_but(rules), &["-1"])?;
    ensure!(found == "77", "beside a name that is not known: expected error 77, found {found}");
    Ok(())
}

fn calls(fixture: &Fixture, mut rule: Value, expected: &str) -> anyhow::Result<()> {
    rule["names"] = json!([CALL]);
    let found = error(fixture, allow_but(json!([rule])), &["-1"])?;
    ensure!(found == expected, "{CALL}: expected error {expected}, found {found}");
    Ok(())
}

fn allow(fixture: &Fixture) -> anyhow::Result<()> {
    let rules = json!([{ "names": [CALL], "action": "SCMP_ACT_ALLOW" }]);
    let mut profile = allow_but(rules);
    profile["defaultAction"] = json!("SCMP_ACT_LOG");
    let found = error(fixture, profile, &["-1"])?;
    ensure!(found == "22", "{CALL}: expected error 22 (EINVAL) of the kernel, found {found}");
    Ok(())
}

fn trap(fixture: &Fixture) -> anyhow::Result<()> {
    let rules = json!([{ "names": [CALL], "action": "SCMP_ACT_TRAP" }]);
    let found = run(fixture, allow_but(rules), &["trap", &number()])?.ok()?.stdout;
    let expected = format!("trapped {} ", number());
    ensure!(found.starts_with(&expected), "expected {expected:?} from the handler of SIGSYS, found {found:?}");
    Ok(())
}

fn kills(fixture: &Fixture, action: &str, thread_alone: bool) -> anyhow::Result<()> {
    let profile = allow_but(json!([{ "names": [CALL], "action": action }]));
    let alone = run(fixture, profile.clone(), &["one", &number()])?;
    // The text has no word on a runtime's exit code: most add 128 to the signal's number.
    let killed = matches!(alone.code, 159 | 31);
    ensure!(killed, "{action}: expected exit code 159 (SIGSYS), found {}: {}", alone.code, alone.stderr);
    let done = run(fixture, profile, &["thread", &number()])?;
    let lives = done.code == 0 && done.stdout == "the first thread lives\n";
    let expected = if thread_alone { "that the first thread lives" } else { "that the first thread ends too" };
    ensure!(
        lives == thread_alone,
        "{action} in a second thread: expected {expected}, found {} {}",
        done.code,
        done.stdout
    );
    Ok(())
}

/// The call with one less than the value, the value, and one more: which of them match?
fn operator(fixture: &Fixture, operator: &str, expected: [bool; 3]) -> anyhow::Result<()> {
    let profile = allow_but(json!([rule(json!([{ "index": 1, "value": 1000, "op": operator }]))]));
    let mut found = [false; 3];
    for (place, value) in ["999", "1000", "1001"].iter().enumerate() {
        found[place] = error(fixture, profile.clone(), &["-1", value])? == "77";
    }
    ensure!(found == expected, "{operator} 1000 with 999, 1000, 1001: expected {expected:?}, found {found:?}");
    Ok(())
}

fn wide(fixture: &Fixture) -> anyhow::Result<()> {
    let value = 0x1_0000_0005_u64;
    let equal = allow_but(json!([rule(json!([{ "index": 1, "value": value, "op": "SCMP_CMP_EQ" }]))]));
    let greater = allow_but(json!([rule(json!([{ "index": 1, "value": value, "op": "SCMP_CMP_GT" }]))]));
    for (profile, argument, expected) in [
        (&equal, "0x100000005", "77"),
        (&equal, "5", "22"),
        (&equal, "0x200000005", "22"),
        (&greater, "0x100000004", "22"),
        (&greater, "0x200000000", "77"),
        (&greater, "6", "22"),
        (&greater, "-1", "77"),
    ] {
        let found = error(fixture, profile.clone(), &["-1", argument])?;
        let operator = &profile["syscalls"][0]["args"][0]["op"];
        ensure!(found == expected, "{argument} {operator} 0x100000005: expected error {expected}, found {found}");
    }
    Ok(())
}

fn masked(fixture: &Fixture) -> anyhow::Result<()> {
    let args = json!([{ "index": 1, "value": 0xf0, "valueTwo": 0x50, "op": "SCMP_CMP_MASKED_EQ" }]);
    let profile = allow_but(json!([rule(args)]));
    for (argument, expected) in [("0x50", "77"), ("0x15f", "77"), ("0x70", "22"), ("0x05", "22")] {
        let found = error(fixture, profile.clone(), &["-1", argument])?;
        ensure!(found == expected, "{argument} & 0xf0 == 0x50: expected error {expected}, found {found}");
    }
    Ok(())
}

fn several_arguments(fixture: &Fixture) -> anyhow::Result<()> {
    let one = |index: u32, value: u64| json!({ "index": index, "value": value, "op": "SCMP_CMP_EQ" });
    let profile = allow_but(json!([rule(json!([one(1, 10), one(2, 20)]))]));
    for (arguments, expected) in [(["10", "20"], "77"), (["10", "21"], "22"), (["11", "20"], "22")] {
        let found = error(fixture, profile.clone(), &["-1", arguments[0], arguments[1]])?;
        ensure!(found == expected, "arguments {arguments:?}: expected error {expected}, found {found}");
    }
    Ok(())
}

fn two_rules(fixture: &Fixture) -> anyhow::Result<()> {
    let one = |value: u64| rule(json!([{ "index": 1, "value": value, "op": "SCMP_CMP_EQ" }]));
    let profile = allow_but(json!([one(10), one(20)]));
    for (argument, expected) in [("10", "77"), ("20", "77"), ("15", "22")] {
        let found = error(fixture, profile.clone(), &["-1", argument])?;
        ensure!(found == expected, "argument {argument}: expected error {expected}, found {found}");
    }
    Ok(())
}

fn exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = bundle(fixture, allow_but(json!([{ "names": [CALL], "action": ERRNO, "errnoRet": 77 }])))?;
    let container = fixture.start(&mut bundle)?;
    let found = container.exec(&["/syscalls", "one", &number(), "-1"])?.ok()?.stdout;
    ensure!(found.trim() == "77", "the call in exec: expected error 77, found {found}");
    Ok(())
}

fn without_no_new_privileges(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = bundle(fixture, allow_but(json!([{ "names": [CALL], "action": ERRNO, "errnoRet": 77 }])))?;
    bundle.set("/process/noNewPrivileges", json!(false)).set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    bundle.remove("/process/capabilities").args(&["/syscalls", "one", &number(), "-1"]);
    let found = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(found.trim() == "77", "the call of an ordinary user: expected error 77, found {found}");
    let facts = fixture.facts(bundle.args(&["/probe", "facts"]))?;
    ensure!(facts.status("NoNewPrivs")? == "0", "NoNewPrivs: expected 0, found {}", facts.status("NoNewPrivs")?);
    Ok(())
}
