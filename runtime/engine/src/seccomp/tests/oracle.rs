//! An interpretation of a profile as in the specification and runc, one syscall at a time: slow, and sharing nothing
//! with the compiler except the table of numbers.

use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall};

use super::super::tables::{SYSCALLS, X};
use super::machine::Call;
use brig_plan::seccomp::{Abi, ret};

const SOCKETCALLS: &str = "socket bind connect listen accept getsockname getpeername socketpair send recv sendto recvfrom \
                           shutdown setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg";
const IPC_CALLS: &str = "semop semget semctl semtimedop - - - - - - msgsnd msgrcv msgget msgctl - - - - - - shmat shmdt \
                         shmget shmctl";

fn abi_of(arch: Arch) -> Abi {
    match arch {
        Arch::ScmpArchX86_64 => Abi::X86_64,
        Arch::ScmpArchX86 => Abi::X86,
        Arch::ScmpArchX32 => Abi::X32,
        Arch::ScmpArchAarch64 => Abi::Aarch64,
        Arch::ScmpArchArm => Abi::Arm,
        Arch::ScmpArchRiscv64 => Abi::Riscv64,
        other => panic!("{other} is not used here"),
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> u32 {
    action.as_u32(errno)
}

fn number(name: &str, abi: Abi) -> Option<u32> {
    let row = SYSCALLS.binary_search_by_key(&name, |(known, _)| known).ok()?;
    Some(SYSCALLS[row].1[abi as usize]).filter(|nr| *nr != X)
}

/// The number and first argument by which `name` is also called on x86.
fn multiplexed(name: &str) -> Option<(u32, u64)> {
    let place = |list: &str| list.split_whitespace().position(|call| call == name);
    place(SOCKETCALLS).map(|i| (102, i as u64 + 1)).or_else(|| place(IPC_CALLS).map(|i| (117, i as u64 + 1)))
}

fn holds(arg: &LinuxSeccompArg, value: u64, narrow: bool) -> bool {
    let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let (argument, one, two) = (cut(value), cut(arg.value()), cut(arg.value_two().unwrap_or(0)));
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => argument != one,
        LinuxSeccompOperator::ScmpCmpLt => argument < one,
        LinuxSeccompOperator::ScmpCmpLe => argument <= one,
        LinuxSeccompOperator::ScmpCmpEq => argument == one,
        LinuxSeccompOperator::ScmpCmpGe => argument >= one,
        LinuxSeccompOperator::ScmpCmpGt => argument > one,
        LinuxSeccompOperator::ScmpCmpMaskedEq => argument & one == two & one,
    }
}

/// A list of conditions for the call's number, with the value that it returns.
struct Candidate {
    action: u32,
    args: Vec<LinuxSeccompArg>,
}

fn candidates(rule: &LinuxSyscall, abi: Abi, nr: u32, narrow: bool) -> Vec<Candidate> {
    let args = rule.args().clone().unwrap_or_default();
    let repeated = args.iter().enumerate().any(|(i, a)| args[..i].iter().any(|b| b.index() == a.index()));
    let mut lists: Vec<Vec<LinuxSeccompArg>> =
        if repeated { args.iter().map(|arg| vec![*arg]).collect() } else { vec![args] };
    for list in &mut lists {
        list.sort_by_key(|arg| arg.index());
    }
    let mut found = Vec::new();
    for name in rule.names() {
        for list in &lists {
            if number(name, abi) == Some(nr) {
                found.push(list.clone());
            }
            let Some((_, call)) = multiplexed(name).filter(|(mux, _)| abi == Abi::X86 && *mux == nr) else { continue };
            let mut list: Vec<LinuxSeccompArg> = list.iter().filter(|arg| arg.index() != 0).copied().collect();
            let json = serde_json::json!({"index": 0, "value": call, "op": "SCMP_CMP_EQ"});
            list.insert(0, serde_json::from_value(json).unwrap());
            found.push(list);
        }
    }
    let always = |arg: &LinuxSeccompArg| {
        let mask = if narrow { arg.value() & 0xffff_ffff } else { arg.value() };
        arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq && mask == 0
    };
    found
        .into_iter()
        .map(|args| Candidate {
            action: action(rule.action(), rule.errno_ret()),
            args: args.into_iter().filter(|arg| !always(arg)).collect(),
        })
        .collect()
}

/// The sort key of a candidate: smaller keys are tried first.
fn rank(candidate: &Candidate, narrow: bool) -> Vec<(usize, u8, u64)> {
    let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
    let mut rank: Vec<_> = candidate
        .args
        .iter()
        .map(|arg| match arg.op() {
            LinuxSeccompOperator::ScmpCmpLt | LinuxSeccompOperator::ScmpCmpLe => (5 - arg.index(), 1, cut(arg.value())),
            LinuxSeccompOperator::ScmpCmpGt | LinuxSeccompOperator::ScmpCmpGe => {
                (5 - arg.index(), 2, u64::MAX - cut(arg.value()))
            }
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (5 - arg.index(), 0, u64::MAX - cut(arg.value_two().unwrap_or(0) & arg.value()))
            }
            _ => (5 - arg.index(), 0, u64::MAX - cut(arg.value())),
        })
        .collect();
    rank.push((9, 9, 0));
    rank
}

/// The return value that the filter must have for `call`.
pub fn outcome(spec: &LinuxSeccomp, native: Abi, call: &Call) -> u32 {
    let default = action(spec.default_action(), spec.default_errno_ret());
    let mut named: Vec<Abi> = spec.architectures().iter().flatten().map(|arch| abi_of(*arch)).collect();
    // Without a list, the profile applies to the native architecture.
    if named.is_empty() {
        named.push(native);
    }
    let filtered = |abi: Abi| abi == native || named.contains(&abi);
    let abi = if call.arch == Abi::X86_64.audit_arch() {
        match (call.nr >> 30 != 0, filtered(Abi::X32)) {
            (true, true) => Abi::X32,
            (true, false) if call.nr == u32::MAX && filtered(Abi::X86_64) => return default,
            (true, false) => return ret::KILL_THREAD,
            (false, _) => Abi::X86_64,
        }
    } else {
        let all = [Abi::X86, Abi::Aarch64, Abi::Arm, Abi::Riscv64];
        *all.iter().find(|abi| abi.audit_arch() == call.arch).unwrap()
    };
    if !filtered(abi) {
        return ret::KILL_THREAD;
    }
    let nr = call.nr - abi.base();
    let narrow = matches!(abi, Abi::X86 | Abi::X32 | Abi::Arm);
    let rules = spec.syscalls().as_deref().unwrap_or_default();
    let active = rules.iter().filter(|rule| action(rule.action(), rule.errno_ret()) != default);
    let all: Vec<Candidate> = active.flat_map(|rule| candidates(rule, abi, nr, narrow)).collect();
    if let Some(unconditional) = all.iter().find(|candidate| candidate.args.is_empty()) {
        return unconditional.action;
    }
    let parts = |candidate: &Candidate| {
        let cut = |value: u64| if narrow { value & 0xffff_ffff } else { value };
        let part = |arg: &LinuxSeccompArg| match arg.op() {
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (arg.index(), arg.op(), cut(arg.value_two().unwrap_or(0) & arg.value()), cut(arg.value()))
            }
            op => (arg.index(), op, cut(arg.value()), 0),
        };
        candidate.args.iter().map(part).collect::<Vec<_>>()
    };
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in all {
        if !kept.iter().any(|earlier| parts(&candidate).starts_with(&parts(earlier))) {
            kept.push(candidate);
        }
    }
    let mut all = kept;
    all.sort_by_key(|candidate| rank(candidate, narrow));
    let matches = |candidate: &&Candidate| candidate.args.iter().all(|arg| holds(arg, call.args[arg.index()], narrow));
    if let Some(first) = all.iter().find(matches) {
        return first.action;
    }
    let permissive = matches!(default & 0xffff_0000, ret::ALLOW | ret::LOG | ret::TRACE);
    let names = rules.iter().flat_map(|rule| rule.names());
    let largest = names
        .flat_map(|name| [number(name, abi), multiplexed(name).filter(|_| abi == Abi::X86).map(|(mux, _)| mux)])
        .flatten()
        .filter(|nr| *nr < 0xf_0000)
        .max();
    match largest {
        _ if abi == Abi::Arm && nr >= 0xf_0000 => default,
        Some(largest) if named.contains(&abi) && !permissive && abi.base() + largest > 0 && nr > largest => {
            ret::ERRNO | libc::ENOSYS as u32
        }
        _ => default,
    }
}
