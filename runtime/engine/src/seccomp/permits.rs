//! A check that a filter allows given calls, whatever their arguments.

use super::machine;
use brig_plan::seccomp::Abi;
use brig_sys::seccomp::Instruction;

/// SECCOMP_RET_ALLOW (linux/seccomp.h).
const ALLOW: u32 = 0x7fff_0000;

/// A system call of this machine's own architecture.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The system call's number.
    pub number: libc::c_long,
    /// The first argument, if it is known.
    pub first: Option<u64>,
}

/// Checks that `program` allows each of `calls` for every value of the unknown arguments, and has no other effect.
pub fn permits(program: &[Instruction], calls: &[Call]) -> bool {
    let Some(native) = Abi::native() else { return false };
    calls.iter().all(|call| outcome(program, native.audit_arch(), *call) == Some(ALLOW))
}

/// The return value of the program; `None` if it depends on an unknown argument.
fn outcome(program: &[Instruction], audit_arch: u32, call: Call) -> Option<u32> {
    // Offsets in struct seccomp_data (linux/seccomp.h).
    let load = |offset: u32| match offset {
        0 => u32::try_from(call.number).ok(),
        4 => Some(audit_arch),
        16 => call.first.and_then(|first| u32::try_from(first & u64::from(u32::MAX)).ok()),
        20 => call.first.map(|first| (first >> 32) as u32),
        _ => None,
    };
    machine::run(|at| program.get(at).copied(), load)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(profile: &str) -> Vec<Instruction> {
        super::super::compile(&serde_json::from_str(profile).unwrap()).unwrap().program.instructions
    }

    fn call(number: libc::c_long) -> Call {
        Call { number, first: None }
    }

    #[test]
    fn a_call_is_permitted_only_when_no_argument_matters() {
        let filter = compile(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW"},
            {"names":["close"],"action":"SCMP_ACT_LOG"},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
            {"names":["ioctl"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":8,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        assert!(permits(&filter, &[call(libc::SYS_read), call(libc::SYS_write)]));
        for number in [libc::SYS_close, libc::SYS_personality, libc::SYS_ioctl, libc::SYS_setsid] {
            assert!(!permits(&filter, &[call(libc::SYS_read), call(number)]), "{number}");
        }
        let personality = |first| Call { number: libc::SYS_personality, first: Some(first) };
        assert!(permits(&filter, &[personality(8)]));
        assert!(!permits(&filter, &[personality(9)]));
    }
}
