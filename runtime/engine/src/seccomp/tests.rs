//! Tests that run the program in an interpreter, and compare it with a direct reading of the profile.

mod machine;
mod oracle;
mod properties;

use oci_spec::runtime::LinuxSeccomp;

use super::tables::{SYSCALLS, X};
use super::{Program, assemble, compile};
use brig_plan::Findings;
use brig_plan::seccomp::{Abi, flag, read, ret};
use machine::Call;

/// Docker's default profile, as the runtime receives it for a container with default capabilities.
const DOCKER: &str = include_str!("../../../../spec-tests/data/docker-default-seccomp.json");

fn spec(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn program(spec: &LinuxSeccomp, native: Abi) -> Program {
    let mut findings = Findings::default();
    let profile = read(spec, native, &mut findings);
    findings.into_result().unwrap();
    let (program, _) = assemble(&profile).unwrap();
    machine::validate(&program.instructions);
    program
}

fn x86_64(nr: u32, args: [u64; 6]) -> Call {
    Call { nr, arch: Abi::X86_64.audit_arch(), args }
}

const EPERM: u32 = ret::ERRNO | 1;
const ENOSYS: u32 = ret::ERRNO | 38;

#[test]
fn dockers_profile_compiles_to_few_instructions_with_its_outcomes() {
    let program = program(&spec(DOCKER), Abi::X86_64);
    assert!(program.instructions.len() < 400, "{} instructions", program.instructions.len());
    assert_eq!(program.flags, flag::SPEC_ALLOW);
    let run = |nr, first| machine::run(&program.instructions, &x86_64(nr, [first, 0, 0, 0, 0, 0])).outcome;
    assert_eq!(run(0, 0), ret::ALLOW, "read");
    assert_eq!(run(165, 0), EPERM, "mount");
    assert_eq!(run(435, 0), ENOSYS, "clone3");
    assert_eq!(run(471, 0), ENOSYS, "newer than the profile");
    assert_eq!(run(56, 0x11), ret::ALLOW, "clone without namespaces");
    assert_eq!(run(56, 0x1000_0000), EPERM, "clone(CLONE_NEWUSER)");
    assert_eq!(run(41, 40), EPERM, "socket(AF_VSOCK)");
    assert_eq!(run(41, 2), ret::ALLOW, "socket(AF_INET)");
    assert_eq!(run(0x4000_0000, 0), ret::ALLOW, "read of x32");
    assert_eq!(run(u32::MAX, 0), ENOSYS, "-1");
    let i386 = Call { nr: 102, arch: Abi::X86.audit_arch(), args: [0; 6] };
    assert_eq!(machine::run(&program.instructions, &i386).outcome, ret::ALLOW, "socketcall of i386");
    let arm = Call { nr: 0, arch: Abi::Arm.audit_arch(), args: [0; 6] };
    assert_eq!(machine::run(&program.instructions, &arm).outcome, ret::KILL_THREAD, "an unnamed architecture");
}

#[test]
fn every_number_is_found_in_a_dozen_steps() {
    let program = program(&spec(DOCKER), Abi::X86_64);
    for abi in [Abi::X86_64, Abi::X86, Abi::X32] {
        for nr in 0..600 {
            let call = Call { nr: abi.base() + nr, arch: abi.audit_arch(), args: [0; 6] };
            // The rules of personality alone compare five more values.
            let limit = if machine::run(&program.instructions, &call).loads > 2 { 40 } else { 16 };
            assert!(machine::run(&program.instructions, &call).steps <= limit, "{abi:?} {nr}");
        }
    }
}

#[test]
fn unnamed_x32_kills_the_thread_but_a_skipped_call_does_not() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["read", "close"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let program = program(&spec(profile), Abi::X86_64);
    let run = |nr| machine::run(&program.instructions, &x86_64(nr, [0; 6])).outcome;
    assert_eq!(run(0), ret::ALLOW);
    assert_eq!(run(1), EPERM);
    assert_eq!(run(4), ENOSYS);
    assert_eq!(run(0x4000_0000), ret::KILL_THREAD);
    assert_eq!(run(u32::MAX), EPERM);
}

#[test]
fn a_call_newer_than_a_profile_without_architectures_gets_enosys() {
    for architectures in ["", r#""architectures": [],"#, r#""architectures": ["SCMP_ARCH_X86_64"],"#] {
        let profile = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", {architectures}
                "syscalls": [{{"names": ["read", "close"], "action": "SCMP_ACT_ALLOW"}}]}}"#
        );
        let program = program(&spec(&profile), Abi::X86_64);
        let run = |nr| machine::run(&program.instructions, &x86_64(nr, [0; 6])).outcome;
        assert_eq!((run(0), run(1), run(4)), (ret::ALLOW, EPERM, ENOSYS), "{architectures}");
    }
}

#[test]
fn a_mask_comes_first_and_what_it_must_equal_second() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ERRNO",
        "args": [{"index": 0, "value": 240, "valueTwo": 16, "op": "SCMP_CMP_MASKED_EQ"}]}]}"#;
    let program = program(&spec(profile), Abi::X86_64);
    let run = |arg| machine::run(&program.instructions, &x86_64(56, [arg, 0, 0, 0, 0, 0])).outcome;
    assert_eq!(run(0x1f), EPERM);
    assert_eq!(run(0x3f), ret::ALLOW);
    assert_eq!(run(0xffff_ffff_0000_0010), EPERM);
}

#[test]
fn every_violation_is_reported_with_its_place() {
    let profile = r#"{"defaultAction": "SCMP_ACT_KILL", "defaultErrnoRet": 1, "syscalls": [
        {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["write", ""], "action": "SCMP_ACT_NOTIFY"},
        {"names": [], "action": "SCMP_ACT_ALLOW", "errnoRet": 5},
        {"names": ["open"], "action": "SCMP_ACT_ERRNO", "errnoRet": 70000, "args": [
            {"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}]}"#;
    let error = compile(&spec(profile)).unwrap_err().to_string();
    for place in [
        "linux.seccomp.defaultErrnoRet: ",
        "linux.seccomp.listenerPath: seccomp listenerPath is not set",
        "linux.seccomp.syscalls[1].names[1]: ",
        "linux.seccomp.syscalls[2].names: ",
        "linux.seccomp.syscalls[2].errnoRet: ",
        "linux.seccomp.syscalls[3].errnoRet: ",
        "linux.seccomp.syscalls[3].args[0].index: ",
    ] {
        assert!(error.contains(place), "{place} is not in: {error}");
    }
}

#[test]
fn a_listener_path_and_notify_require_each_other() {
    let profile = |action: &str, more: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"names": ["mkdir"], "action": "{action}"}}]{more}}}"#
        )
    };
    let compiled = |text: &str| compile(&spec(text)).map_err(|error| error.to_string());
    let path = r#", "listenerPath": "/run/agent", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#;
    let notified = compiled(&profile("SCMP_ACT_NOTIFY", path)).unwrap();
    assert_eq!(notified.program.flags, flag::NEW_LISTENER | flag::WAIT_KILLABLE_RECV);
    assert_eq!(notified.warnings, [""; 0]);
    let run = machine::run(&notified.program.instructions, &x86_64(83, [0; 6])).outcome;
    assert_eq!(run, ret::USER_NOTIF);
    let ignored = compiled(&profile("SCMP_ACT_ERRNO", path)).unwrap();
    assert_eq!((ignored.program.flags, ignored.warnings.len()), (0, 2), "{:?}", ignored.warnings);
    for (action, more, place) in [
        ("SCMP_ACT_NOTIFY", "", "linux.seccomp.listenerPath: seccomp listenerPath is not set"),
        ("SCMP_ACT_NOTIFY", r#", "listenerPath": "agent""#, "linux.seccomp.listenerPath: \"agent\" is not absolute"),
        ("SCMP_ACT_ERRNO", r#", "listenerMetadata": "x""#, "linux.seccomp.listenerMetadata: "),
    ] {
        let error = compiled(&profile(action, more)).unwrap_err();
        assert!(error.contains(place), "{place} is not in: {error}");
    }
}

#[test]
fn contradicting_rules_are_refused_by_name() {
    let rule = |action| {
        format!(
            r#"{{"names": ["clone"], "action": "{action}", "args": [{{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}}]}}"#
        )
    };
    let profile = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{}, {}]}}"#,
        rule("SCMP_ACT_ALLOW"),
        rule("SCMP_ACT_LOG")
    );
    let error = compile(&spec(&profile)).unwrap_err().to_string();
    assert!(error.contains("two rules for clone"), "{error}");
}

#[test]
fn unknown_names_and_architectures_do_not_stop_a_profile() {
    let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_S390X"],
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
        "syscalls": [{"names": ["read", "no_such_call"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let compiled = compile(&spec(profile)).unwrap();
    assert_eq!(compiled.unknown, ["no_such_call"]);
    assert_eq!(compiled.warnings.len(), 1);
    assert!(compiled.warnings[0].starts_with("linux.seccomp.architectures[0]: "), "{}", compiled.warnings[0]);
    assert_eq!(compiled.program.flags, flag::LOG);
}

#[test]
fn a_program_beyond_the_kernels_limit_is_refused() {
    let args = |i: u32| format!(r#"{{"index": 0, "value": {i}, "op": "SCMP_CMP_EQ"}}"#);
    let args: Vec<String> = (0..1500).map(args).collect();
    let profile = format!(
        r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [{}]}}]}}"#,
        args.join(",")
    );
    let error = compile(&spec(&profile)).unwrap_err().to_string();
    assert!(error.contains("4096"), "{error}");
}

#[test]
fn the_table_is_sorted_and_holds_this_machines_headers() {
    assert!(SYSCALLS.is_sorted_by(|a, b| a.0 < b.0));
    let newest =
        SYSCALLS.iter().map(|(_, numbers)| numbers[Abi::Riscv64 as usize]).filter(|nr| *nr != X).max().unwrap();
    for (file, abi) in [("unistd_64.h", Abi::X86_64), ("unistd_32.h", Abi::X86), ("unistd_x32.h", Abi::X32)] {
        let header = ["/usr/include/x86_64-linux-gnu/asm", "/usr/include/asm"]
            .iter()
            .find_map(|dir| std::fs::read_to_string(format!("{dir}/{file}")).ok());
        // Only x86 machines have these headers; on others there is nothing to compare.
        let Some(header) = header else { continue };
        for line in header.lines() {
            let mut words = line.split_whitespace();
            let (Some("#define"), Some(name)) = (words.next(), words.next()) else { continue };
            let Some(name) = name.strip_prefix("__NR_") else { continue };
            let number: String = words.filter(|word| *word != "(__X32_SYSCALL_BIT" && *word != "+").collect();
            let Ok(number) = number.trim_end_matches(')').parse::<u32>() else { continue };
            let known =
                SYSCALLS.binary_search_by_key(&name, |(known, _)| known).ok().map(|row| SYSCALLS[row].1[abi as usize]);
            assert!(
                known == Some(number) || (known.is_none() && number > newest),
                "{file}: {name} is {number}, not {known:?}"
            );
        }
    }
}
