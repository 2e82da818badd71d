//! A check that a filter allows given calls, whatever their arguments.

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
        16 => call.first.map(|first| first as u32),
        20 => call.first.map(|first| (first >> 32) as u32),
        _ => None,
    };
    let (mut accumulator, mut at) = (0u32, 0usize);
    // The loop terminates, because jumps lead forwards alone (kernel/seccomp.c, seccomp_check_filter).
    loop {
        let Instruction { code, jt, jf, k } = *program.get(at)?;
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        // BPF_CLASS, BPF_OP and BPF_SRC of linux/bpf_common.h.
        match code {
            0x20 => accumulator = load(k)?,
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x45 => jump(accumulator & k != 0),
            0x06 => return Some(k),
            _ => return None,
        }
    }
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
