//! Runs of a program for one call, with their cost, and the kernel's checks of a program.

use crate::seccomp::machine;
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
                let half = if offset.is_multiple_of(8) { arg & 0xffff_ffff } else { arg >> 32 };
                u32::try_from(half).unwrap()
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
    let (mut steps, mut loads) = (0, 0);
    let fetch = |at: usize| {
        steps += 1;
        program.get(at).copied()
    };
    let load = |offset| {
        loads += 1;
        Some(call.load(offset))
    };
    let outcome = machine::run(fetch, load).expect("a valid program with instructions that are used here");
    Run { outcome, steps, loads }
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
