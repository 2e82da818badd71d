//! `linux.seccomp`, checked and normalised for the engine's filter compiler.
//!
//! Where the specification is silent, the meaning is runc's, which is libseccomp's: the native architecture is
//! filtered whether the profile names it or not, a rule whose action is the default action has no effect, and a rule
//! with several conditions on one argument counts as one rule for each condition.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::Findings;

/// A calling convention with its own system call numbers. The order is that of the columns of the system call table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Abi {
    /// x86-64's 64-bit system calls.
    X86_64,
    /// The 32-bit system calls of x86.
    X86,
    /// x86_64 with 32-bit pointers: the same audit architecture, with bit 30 set in every number.
    X32,
    /// The 64-bit system calls of ARM.
    Aarch64,
    /// The 32-bit system calls of ARM (EABI).
    Arm,
    /// The 64-bit system calls of RISC-V.
    Riscv64,
}

/// Bit 30, which distinguishes x32's system call numbers from x86_64's (`__X32_SYSCALL_BIT` of asm/unistd.h).
pub const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The ABI that brig was built for; `None` if the compiler has no table for it.
    pub const fn native() -> Option<Abi> {
        if cfg!(target_arch = "x86_64") {
            Some(Abi::X86_64)
        } else if cfg!(target_arch = "x86") {
            Some(Abi::X86)
        } else if cfg!(target_arch = "aarch64") {
            Some(Abi::Aarch64)
        } else if cfg!(target_arch = "arm") {
            Some(Abi::Arm)
        } else if cfg!(target_arch = "riscv64") {
            Some(Abi::Riscv64)
        } else {
            None
        }
    }

    /// The `AUDIT_ARCH_*` of linux/audit.h, by which a filter recognises the ABI.
    pub const fn audit_arch(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
            Abi::Riscv64 => 0xc000_00f3,
        }
    }

    /// Whether arguments are compared by their low 32 bits only. libseccomp counts x32 among these.
    pub const fn is_32_bit(self) -> bool {
        matches!(self, Abi::X86 | Abi::X32 | Abi::Arm)
    }

    /// Offset added to a number of the system call table.
    pub const fn base(self) -> u32 {
        if matches!(self, Abi::X32) { X32_BIT } else { 0 }
    }

    fn from_spec(arch: Arch, native: Abi) -> Option<Abi> {
        match arch {
            Arch::ScmpArchNative => Some(native),
            Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX86 => Some(Abi::X86),
            Arch::ScmpArchX32 => Some(Abi::X32),
            Arch::ScmpArchAarch64 => Some(Abi::Aarch64),
            Arch::ScmpArchArm => Some(Abi::Arm),
            Arch::ScmpArchRiscv64 => Some(Abi::Riscv64),
            _ => None,
        }
    }
}

/// A filter's return value: a `SECCOMP_RET_*` action in the upper half, its data in the lower.
pub type Return = u32;

/// One comparison of an argument, unsigned: `argument & mask OP value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Index of the argument, 0 to 5.
    pub index: u8,
    /// The comparison. MaskedEq is the only one that uses the mask.
    pub op: LinuxSeccompOperator,
    /// Value to compare the argument with.
    pub value: u64,
    /// Bits to compare; all of them unless the comparison is MaskedEq.
    pub mask: u64,
}

/// One entry of `linux.seccomp.syscalls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule<'a> {
    /// Names of system calls.
    pub names: &'a [String],
    /// Return value when one of `matches` holds.
    pub action: Return,
    /// Alternatives, each a list of conditions that must all hold. Never empty; a list without conditions always
    /// holds.
    pub matches: Vec<Vec<Condition>>,
}

/// A checked and normalised profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile<'a> {
    /// Return value for a system call without a matching rule.
    pub default: Return,
    /// The ABIs to filter, without duplicates, the native one first. The flag says whether the profile names it.
    pub abis: Vec<(Abi, bool)>,
    /// `SECCOMP_FILTER_FLAG_*` for the installation.
    pub flags: u32,
    /// The rules in the order of the profile.
    pub rules: Vec<Rule<'a>>,
}

/// Flags of seccomp(2), linux/seccomp.h.
pub mod flag {
    /// Log every action but ALLOW.
    pub const LOG: u32 = 1 << 1;
    /// Leave the mitigation of speculative store bypass off.
    pub const SPEC_ALLOW: u32 = 1 << 2;
    /// Return a listener from the installation: a descriptor on which calls with the action NOTIFY are answered.
    pub const NEW_LISTENER: u32 = 1 << 3;
    /// After the agent has received a call, only a fatal signal interrupts it (since 5.19).
    pub const WAIT_KILLABLE_RECV: u32 = 1 << 5;
}

/// Actions of a filter: `SECCOMP_RET_*` of linux/seccomp.h.
pub mod ret {
    /// Kill the calling thread.
    pub const KILL_THREAD: u32 = 0;
    /// Kill the whole process.
    pub const KILL_PROCESS: u32 = 0x8000_0000;
    /// Send SIGSYS to the thread.
    pub const TRAP: u32 = 0x0003_0000;
    /// Fail with the errno in the data.
    pub const ERRNO: u32 = 0x0005_0000;
    /// Hand the call over to the agent that holds the listener.
    pub const USER_NOTIF: u32 = 0x7fc0_0000;
    /// Hand the call over to the tracer, with the data as its message.
    pub const TRACE: u32 = 0x7ff0_0000;
    /// Make the call, and log it.
    pub const LOG: u32 = 0x7ffc_0000;
    /// Make the call.
    pub const ALLOW: u32 = 0x7fff_0000;
}

/// Parses `linux.seccomp` for a machine whose native ABI is `native`. Violations and warnings go to `findings` with
/// their JSON paths; a profile with violations must not be used.
pub fn read<'a>(spec: &'a LinuxSeccomp, native: Abi, findings: &mut Findings) -> Profile<'a> {
    let default =
        read_action(spec.default_action(), spec.default_errno_ret(), "linux.seccomp.defaultErrnoRet", findings);
    let notifies = notifies(spec);
    check_listener(spec, notifies, findings);
    let rules = spec.syscalls().iter().flatten().enumerate();
    Profile {
        default,
        abis: read_architectures(spec, native, findings),
        flags: read_flags(spec, notifies, findings) | if notifies { flag::NEW_LISTENER } else { 0 },
        rules: rules
            .map(|(i, rule)| {
                let path = |field: &str| format!("linux.seccomp.syscalls[{i}].{field}");
                for (n, _) in rule.names().iter().enumerate().filter(|(_, name)| name.is_empty()) {
                    findings.deny(path(&format!("names[{n}]")), "an empty name", "name a syscall");
                }
                if rule.names().is_empty() {
                    findings.deny(path("names"), "names no syscall", "name at least one, or remove the rule");
                }
                let args = rule.args().as_deref().unwrap_or_default();
                Rule {
                    names: rule.names(),
                    action: read_action(rule.action(), rule.errno_ret(), &path("errnoRet"), findings),
                    matches: read_args(args, &path("args"), findings),
                }
            })
            .collect(),
    }
}

/// Whether the profile has the action NOTIFY, so that an agent answers calls.
pub fn notifies(spec: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    spec.default_action() == notify || spec.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}

/// config-linux.md, Seccomp: listenerPath and listenerMetadata are valid only with SCMP_ACT_NOTIFY.
fn check_listener(spec: &LinuxSeccomp, notifies: bool, findings: &mut Findings) {
    let path = spec.listener_path().as_deref().filter(|path| !path.as_os_str().is_empty());
    let metadata = spec.listener_metadata().as_deref().filter(|text| !text.is_empty());
    match path {
        None if notifies => findings.deny(
            "linux.seccomp.listenerPath",
            "seccomp listenerPath is not set, and SCMP_ACT_NOTIFY is used",
            "name the unix socket of the agent that answers, or use another action",
        ),
        None if metadata.is_some() => findings.deny(
            "linux.seccomp.listenerMetadata",
            "it is set, and listenerPath is not",
            "set both, or leave it out",
        ),
        Some(path) if notifies && !path.is_absolute() => {
            findings.deny("linux.seccomp.listenerPath", format!("{path:?} is not absolute"), "");
        }
        Some(_) if !notifies => {
            findings.warn(
                "linux.seccomp.listenerPath: ignored, since nothing in the profile has the action SCMP_ACT_NOTIFY",
            );
        }
        _ => {}
    }
}

/// The return value of an action and its errno, whose JSON path is `path`.
fn read_action(action: LinuxSeccompAction, errno: Option<u32>, path: &str, findings: &mut Findings) -> Return {
    use LinuxSeccompAction as A;
    let (base, limit) = match action {
        A::ScmpActKill | A::ScmpActKillThread => (ret::KILL_THREAD, 0),
        A::ScmpActKillProcess => (ret::KILL_PROCESS, 0),
        A::ScmpActTrap => (ret::TRAP, 0),
        // The kernel limits errno to MAX_ERRNO, 4095.
        A::ScmpActErrno => (ret::ERRNO, 4095),
        A::ScmpActTrace => (ret::TRACE, 0xffff),
        A::ScmpActLog => (ret::LOG, 0),
        A::ScmpActAllow => (ret::ALLOW, 0),
        A::ScmpActNotify => (ret::USER_NOTIF, 0),
    };
    match errno {
        None if limit > 0 => base | libc::EPERM as u32,
        None => base,
        Some(_) if limit == 0 => {
            let reason = format!("{action} has no errno to return");
            findings.deny(path, reason, "remove it, or use SCMP_ACT_ERRNO or SCMP_ACT_TRACE");
            base
        }
        Some(errno) if errno > limit => {
            findings.deny(path, format!("{errno} is above {limit}, the most that {action} can carry"), "");
            base
        }
        Some(errno) => base | errno,
    }
}

fn read_architectures(spec: &LinuxSeccomp, native: Abi, findings: &mut Findings) -> Vec<(Abi, bool)> {
    // Without a list the profile is for the native architecture, as if it named that.
    let mut abis = vec![(native, spec.architectures().iter().flatten().next().is_none())];
    for (i, arch) in spec.architectures().iter().flatten().enumerate() {
        match Abi::from_spec(*arch, native) {
            None => findings.warn(format!(
                "linux.seccomp.architectures[{i}]: no syscall table for {arch}: its syscalls are killed, as for an \
                 architecture that is not listed"
            )),
            Some(abi) => match abis.iter_mut().find(|(known, _)| *known == abi) {
                Some((_, named)) => *named = true,
                None => abis.push((abi, true)),
            },
        }
    }
    abis
}

fn read_flags(spec: &LinuxSeccomp, notifies: bool, findings: &mut Findings) -> u32 {
    // As runc since 1.2: without a list, not even an empty one, the mitigation of speculative store bypass, which
    // seccomp enabled on old kernels, stays off.
    let Some(list) = spec.flags() else { return flag::SPEC_ALLOW };
    let mut flags = 0;
    for (i, name) in list.iter().enumerate() {
        flags |= match name {
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => flag::LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => flag::SPEC_ALLOW,
            // A process with one thread installs the filter, so there is nothing to synchronise.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => flag::WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                findings.warn(format!("linux.seccomp.flags[{i}]: {name} has no effect without SCMP_ACT_NOTIFY"));
                0
            }
        };
    }
    flags
}

/// The conditions of one rule: one list of all of them, or one list each when two of them test the same argument.
fn read_args(args: &[LinuxSeccompArg], path: &str, findings: &mut Findings) -> Vec<Vec<Condition>> {
    let mut conditions = Vec::with_capacity(args.len());
    let mut seen = [false; 6];
    let mut repeated = false;
    for (i, arg) in args.iter().enumerate() {
        let (Some(slot), Ok(index)) = (seen.get_mut(arg.index()), u8::try_from(arg.index())) else {
            let reason = format!("{} is no argument of a syscall", arg.index());
            findings.deny(format!("{path}[{i}].index"), reason, "use 0 to 5");
            continue;
        };
        repeated |= std::mem::replace(slot, true);
        conditions.push(match arg.op() {
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                let mask = arg.value();
                Condition { index, op: arg.op(), value: arg.value_two().unwrap_or(0) & mask, mask }
            }
            op => Condition { index, op, value: arg.value(), mask: u64::MAX },
        });
    }
    if repeated {
        return conditions.into_iter().map(|condition| vec![condition]).collect();
    }
    conditions.sort_by_key(|condition| condition.index);
    vec![conditions]
}
