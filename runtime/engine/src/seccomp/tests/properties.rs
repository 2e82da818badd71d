//! A comparison of the program and the oracle for random profiles and calls.

use oci_spec::runtime::LinuxSeccomp;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Value, json};

use super::super::tables::{SYSCALLS, X};
use super::{machine, oracle};
use brig_plan::Findings;
use brig_plan::seccomp::{Abi, read};
use brig_sys::seccomp::Instruction;
use machine::Call;

const ABIS: [Abi; 6] = [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm, Abi::Riscv64];

const NAMES: &[&str] = &[
    "read",
    "write",
    "open",
    "close",
    "socket",
    "bind",
    "accept",
    "accept4",
    "recv",
    "send",
    "semop",
    "semtimedop",
    "shmat",
    "socketcall",
    "ipc",
    "personality",
    "clone",
    "clone3",
    "mmap",
    "mmap2",
    "chown",
    "chown32",
    "waitid",
    "execve",
    "rt_sigaction",
    "openat2",
    "getpid",
    "arch_prctl",
    "time",
    "_llseek",
    "cacheflush",
    "set_tls",
    "riscv_hwprobe",
    "rseq_slice_yield",
    "no_such_call",
];

const EDGES: &[u64] =
    &[0, 1, 2, 5, 39, 40, 41, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 1 << 32, (1 << 32) + 5, 1 << 63, u64::MAX];

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![4 => select(EDGES), 1 => any::<u64>()]
}

fn action() -> impl Strategy<Value = (&'static str, Option<u32>)> {
    prop_oneof![
        select(&["ALLOW", "LOG", "TRAP", "KILL", "KILL_THREAD", "KILL_PROCESS"][..]).prop_map(|action| (action, None)),
        (select(&["ERRNO", "TRACE"][..]), proptest::option::of(0..4096u32)),
    ]
}

fn arg() -> impl Strategy<Value = Value> {
    let ops = ["EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ"];
    (0..6usize, select(ops.to_vec()), value(), proptest::option::of(value())).prop_map(|(index, op, one, two)| {
        let mut arg = json!({"index": index, "op": format!("SCMP_CMP_{op}"), "value": one});
        if let Some(two) = two {
            arg["valueTwo"] = json!(two);
        }
        arg
    })
}

fn rule(names: impl Strategy<Value = Vec<&'static str>>) -> impl Strategy<Value = Value> {
    let args = prop_oneof![Just(Vec::new()), proptest::collection::vec(arg(), 1..4)];
    (names, action(), args).prop_map(|(names, (action, errno), args)| {
        let mut rule = json!({"names": names, "action": format!("SCMP_ACT_{action}"), "args": args});
        if let Some(errno) = errno {
            rule["errnoRet"] = json!(errno);
        }
        rule
    })
}

fn profile(rules: impl Strategy<Value = Vec<Value>>) -> impl Strategy<Value = (LinuxSeccomp, Abi)> {
    let architectures = ["X86_64", "X86", "X32", "AARCH64", "ARM", "RISCV64"];
    let architectures = subsequence(architectures.to_vec(), 0..=6).prop_shuffle();
    let native = select(vec![Abi::X86_64, Abi::X86_64, Abi::Aarch64, Abi::Riscv64]);
    (action(), architectures, rules, native).prop_map(|((action, errno), architectures, rules, native)| {
        let architectures: Vec<String> = architectures.iter().map(|name| format!("SCMP_ARCH_{name}")).collect();
        let mut spec = json!({"defaultAction": format!("SCMP_ACT_{action}"), "architectures": architectures,
            "syscalls": rules});
        if let Some(errno) = errno {
            spec["defaultErrnoRet"] = json!(errno);
        }
        (serde_json::from_value(spec).unwrap(), native)
    })
}

/// Returns the program; `None` for a profile that contradicts itself or is too long.
fn assembled(spec: &LinuxSeccomp, native: Abi) -> Option<Vec<Instruction>> {
    let mut findings = Findings::default();
    let profile = read(spec, native, &mut findings);
    assert_eq!(findings, Findings::default());
    match super::assemble(&profile) {
        Ok((program, _)) => Some(program.instructions),
        Err(error) => {
            let error = error.to_string();
            assert!(error.contains("two rules for") || error.contains("takes no more than 4096"), "{error}");
            None
        }
    }
}

fn agree(spec: &LinuxSeccomp, native: Abi, program: &[Instruction], call: &Call) -> Result<(), TestCaseError> {
    let (ours, expected) = (machine::run(program, call).outcome, oracle::outcome(spec, native, call));
    prop_assert_eq!(ours, expected, "{:x?} gives {:#x}, expected {:#x}", call, ours, expected);
    Ok(())
}

/// Returns argument values near those of the profile.
fn interesting(spec: &LinuxSeccomp) -> Vec<u64> {
    let args = spec.syscalls().iter().flatten().flat_map(|rule| rule.args().iter().flatten());
    let mentioned = args.flat_map(|arg| [arg.value(), arg.value_two().unwrap_or(0)]);
    let around = |v: u64| [v, v.wrapping_add(1), v.wrapping_sub(1), v ^ (1 << 32), v & 0xffff_ffff, v | (1 << 31)];
    mentioned.chain(EDGES.iter().copied()).flat_map(around).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_returns_what_its_profile_requires(
        (spec, native) in profile(proptest::collection::vec(rule(subsequence(NAMES.to_vec(), 1..4)), 0..8)),
        picks in proptest::collection::vec(any::<proptest::sample::Index>(), 6 * 6),
    ) {
        let Some(program) = assembled(&spec, native) else { return Ok(()) };
        machine::validate(&program);
        let values = interesting(&spec);
        let names: Vec<&String> = spec.syscalls().iter().flatten().flat_map(|rule| rule.names()).collect();
        for abi in ABIS {
            let known = names.iter().filter_map(|name| SYSCALLS.iter().find(|(known, _)| known == name)).map(|row| row.1[abi as usize]).filter(|nr| *nr != X);
            let around = known.flat_map(|nr| [nr, nr + 1, nr.saturating_sub(1)]);
            let numbers: Vec<u32> = around.chain([0, 102, 117, 600, 0x3fff_ffff]).collect();
            for nr in numbers.iter().map(|nr| abi.base() + nr).chain([0x8000_0000, u32::MAX - 1, u32::MAX]) {
                for pick in picks.chunks(6) {
                    let args = std::array::from_fn(|i| *pick[i].get(&values));
                    agree(&spec, native, &program, &Call { nr, arch: abi.audit_arch(), args })?;
                }
            }
        }
    }

    #[test]
    fn long_programs_keep_their_jumps(
        (spec, native) in profile(proptest::collection::vec(
            rule(subsequence(SYSCALLS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), 1..60)), 4..24)),
        args in proptest::collection::vec(value(), 6),
    ) {
        let Some(program) = assembled(&spec, native) else { return Ok(()) };
        machine::validate(&program);
        let args: [u64; 6] = std::array::from_fn(|i| args[i]);
        for abi in [Abi::X86_64, Abi::X86, Abi::X32, Abi::Arm] {
            for nr in (u32::try_from(args[0] & 0xffff_ffff).unwrap() % 31..480).step_by(31).chain([471, 472]) {
                agree(&spec, native, &program, &Call { nr: abi.base() + nr, arch: abi.audit_arch(), args })?;
            }
        }
    }
}
