//! `linux.seccomp` compiled to one BPF program for all architectures of the profile.
//!
//! ```text
//! spec ─ plan::seccomp::read ─► Profile ─ resolve ─► ranges of syscall numbers ─ assemble ─► Program ─► sys::seccomp::install
//! ```
//!
//! The conditions of one rule become BPF in seccompiler. The rest is here, since seccompiler filters one architecture
//! with two actions and compares syscall numbers one by one: for each audit architecture a balanced tree of ranges,
//! in which neighbours of one outcome are one leaf. A shorter program matters at installation, when the kernel
//! translates it and emulates it once for each syscall number to learn which are always allowed.
//!
//! The meaning is that of runc 1.1 over libseccomp 2.5, down to these points:
//! - an audit architecture that the profile does not name ends the thread, as does an x32 number where x32 is not named;
//! - a name that no architecture knows is ignored, and reported as such;
//! - of several rules for one syscall, one without conditions beats those with, and the first of those without wins;
//!   rules with conditions are tried from the more to the less specific (`resolve`), but one that only adds
//!   conditions to those of an earlier rule is never reached;
//! - where the default action refuses, a number above the largest that the profile names gets ENOSYS, as a kernel
//!   without that call would answer;
//! - on x86 a rule for a socket or System V IPC call holds for its own number and for socketcall(2) or ipc(2).
//!
//! The meaning departs from them where they contradict the profile: runc does not count the calls behind socketcall(2)
//! and ipc(2), and counts arm's private ones, when it looks for the largest number; libseccomp 2.5 now and then forgets to
//! load the number for one of several architectures, and loses rules when several orders (LT, LE) are on one argument.

mod assemble;
mod machine;
mod permits;
mod resolve;
mod tables;
#[cfg(test)]
mod tests;

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use brig_plan::seccomp::{Abi, flag, read};
use brig_plan::{Findings, nearest};
use brig_sys::seccomp::{Instruction, flags_available};

pub use permits::{Call, permits};

/// A filter for [`brig_sys::seccomp::install`]. It can be sent to another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The BPF program, of at most 4096 instructions.
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// The result of [`compile`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The filter for the kernel.
    pub program: Program,
    /// Warnings about the profile. The plan's check, which reads the profile too, logs them.
    pub warnings: Vec<String>,
    /// The filter refuses every execution, that of the container's program included.
    pub refuses_exec: bool,
    /// Names in the profile that no known architecture has; their rules were ignored.
    pub unknown: Vec<String>,
}

/// Compiles `linux.seccomp` for this machine. The error lists every violation with its place in config.json.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for violations, and for a profile that needs more instructions than the kernel takes;
/// [`ErrorKind::Unsupported`] on a machine without a table of system calls.
pub fn compile(spec: &LinuxSeccomp) -> Result<Compiled> {
    let Some(native) = Abi::native() else {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "linux.seccomp: no syscall table for this machine's architecture",
        ));
    };
    let mut findings = Findings::default();
    let profile = read(spec, native, &mut findings);
    let warnings = findings.into_result()?;
    let resolved = resolve::resolve(&profile)?;
    let refuses = |number| resolved.refuses(native.audit_arch(), number);
    let refuses_exec = u32::try_from(libc::SYS_execve).is_ok_and(refuses);
    let program = Program { instructions: assemble::assemble(&resolved)?, flags: profile.flags };
    Ok(Compiled { program, warnings, unknown: resolved.unknown, refuses_exec })
}

/// A hint at the system call that an unknown name most likely means. Empty if no name is similar, and for a call of an
/// architecture without a table here.
pub fn nearest_syscall(name: &str) -> String {
    nearest::hint(name, tables::SYSCALLS.iter().map(|(known, _)| *known))
}

/// Compiles a checked profile, and names the syscalls in it that are unknown.
///
/// Fails with [`ErrorKind::InvalidConfig`] on two rules that contradict each other, and on a profile that needs more
/// instructions than the kernel takes.
#[cfg(test)]
fn assemble(profile: &brig_plan::seccomp::Profile<'_>) -> Result<(Program, Vec<String>)> {
    let resolved = resolve::resolve(profile)?;
    let instructions = assemble::assemble(&resolved)?;
    Ok((Program { instructions, flags: profile.flags }, resolved.unknown))
}

/// The actions of profiles, for `features`.
pub const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

/// The comparison operators, for `features`.
pub const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

/// The architectures of profiles, for `features`.
pub const ARCHITECTURES: &[&str] =
    &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_RISCV64", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"];

/// The flags of profiles, for `features`.
pub const KNOWN_FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

/// The flags of [`KNOWN_FLAGS`] that the running kernel supports, for `features`.
pub fn supported_flags() -> Vec<&'static str> {
    let bits = [0, flag::SPEC_ALLOW, flag::LOG, flag::NEW_LISTENER | flag::WAIT_KILLABLE_RECV];
    KNOWN_FLAGS.iter().zip(bits).filter(|(_, bits)| flags_available(*bits)).map(|(name, _)| *name).collect()
}
