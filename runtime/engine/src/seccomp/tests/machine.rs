//! Classic BPF as the kernel runs it for seccomp.

use brig_sys::seccomp::Instruction;

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub nr: u32,
    pub arch: u32,
    pub args: [u64; 6],
}

impl Call {
    fn load(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            8 | 12 => 0,
            _ => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
        }
    }
}

/// The result of a run, and its cost.
pub struct Run {
    pub outcome: u32,
    pub steps: usize,
    pub loads: usize,
}

/// Runs a valid program.
pub fn run(program: &[Instruction], call: &Call) -> Run {
    let (mut accumulator, mut at, mut steps, mut loads) = (0u32, 0, 0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => {
                accumulator = call.load(k);
                loads += 1;
            }
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => jump(accumulator == k),
            0x25 => jump(accumulator > k),
            0x35 => jump(accumulator >= k),
            0x45 => jump(accumulator & k != 0),
            0x06 => return Run { outcome: k, steps, loads },
            _ => panic!("{code:#x} is no instruction that is used here"),
        }
    }
}

/// Performs the kernel's checks (bpf_check_classic, seccomp_check_filter), and checks that all instructions can be
/// reached.
pub fn validate(program: &[Instruction]) {
    assert!(!program.is_empty() && program.len() <= 4096, "{} instructions", program.len());
    let mut reached = vec![false; program.len()];
    reached[0] = true;
    for (at, instruction) in program.iter().enumerate() {
        assert!(reached[at], "{at} cannot be reached");
        let mut to = |offset: usize| {
            assert!(at + 1 + offset < program.len(), "{at} jumps out of the program");
            reached[at + 1 + offset] = true;
        };
        match instruction.code {
            0x20 => {
                assert!(instruction.k % 4 == 0 && instruction.k < 64, "{at} loads from {}", instruction.k);
                to(0);
            }
            0x54 => to(0),
            0x05 => to(instruction.k as usize),
            0x15 | 0x25 | 0x35 | 0x45 => {
                to(instruction.jt.into());
                to(instruction.jf.into());
            }
            0x06 => {}
            code => panic!("{code:#x} at {at}"),
        }
    }
}
