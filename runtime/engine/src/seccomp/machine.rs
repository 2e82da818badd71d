//! Classic BPF as the kernel runs it for seccomp.

use brig_sys::seccomp::Instruction;

/// Runs a program: `fetch` returns the instruction at an index, and `load` the word at an offset of struct seccomp_data
/// (linux/seccomp.h).
///
/// Returns the program's return value; `None` if `fetch` or `load` has no answer, or if an instruction is none that this
/// module's compiler emits.
pub(crate) fn run(
    mut fetch: impl FnMut(usize) -> Option<Instruction>,
    mut load: impl FnMut(u32) -> Option<u32>,
) -> Option<u32> {
    let (mut accumulator, mut at) = (0u32, 0usize);
    // The loop terminates, because jumps lead forwards alone (kernel/seccomp.c, seccomp_check_filter).
    loop {
        let Instruction { code, jt, jf, k } = fetch(at)?;
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
