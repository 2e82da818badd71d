//! The translation of ranges of syscall numbers to BPF.
//!
//! The program is built from its last instruction: a jump goes forward only, so that every target is known when the
//! jump is emitted. `code` holds the instructions in reverse, and a position is an index into it.

use oci_spec::runtime::LinuxSeccompOperator as Op;
use seccompiler::{BackendError, BpfProgram, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::resolve::{BAD_ARCHITECTURE, Clause, Outcome, Range, Resolved, effective};
use crate::error::{Error, ErrorKind, Result};
use brig_plan::seccomp::{Condition, Return};
use brig_sys::seccomp::Instruction;

/// The kernel's limit: BPF_MAXINSNS of linux/bpf_common.h.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

// From linux/bpf_common.h, and the offsets of the fields of struct seccomp_data in linux/seccomp.h.
const LD_W_ABS: u16 = 0x20;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;
const DATA_NR: u32 = 0;
const DATA_ARCH: u32 = 4;

/// The maximum distance between a conditional jump and its target. A jump reaches 255 instructions; one of them is
/// reserved for the helper of the other branch, which may lie between.
const REACH: usize = 254;

pub(super) fn assemble(resolved: &Resolved) -> Result<Vec<Instruction>> {
    let mut builder = Builder {
        resolved,
        code: Vec::with_capacity(1024),
        returns: Vec::with_capacity(8),
        blocks: vec![None; resolved.blocks.len()],
    };
    let mut machines = Vec::with_capacity(resolved.machines.len());
    for machine in resolved.machines.iter().rev() {
        let tree = builder.tree(&machine.ranges, 1 << 32)?;
        builder.fall_into(tree)?;
        machines.push((machine.audit_arch, builder.push(LD_W_ABS, DATA_NR)));
    }
    let mut next = Target::Return(BAD_ARCHITECTURE);
    for (audit_arch, start) in machines {
        next = Target::At(builder.branch(JMP_JEQ_K, audit_arch, Target::At(start), next)?);
    }
    builder.fall_into(next)?;
    builder.push(LD_W_ABS, DATA_ARCH);
    if builder.code.len() > MAX_INSTRUCTIONS {
        return Err(too_long(builder.code.len()));
    }
    builder.code.reverse();
    Ok(builder.code)
}

fn too_long(len: usize) -> Error {
    Error::new(
        ErrorKind::InvalidConfig,
        format!(
            "invalid config.json: linux.seccomp: the profile needs {len} BPF instructions, and the kernel takes no more \
             than {MAX_INSTRUCTIONS} (use fewer conditions on arguments, or fewer architectures)"
        ),
    )
}

/// The target of a branch.
#[derive(Clone, Copy)]
enum Target {
    /// Any instruction that returns this value.
    Return(Return),
    /// The instruction at a position.
    At(usize),
}

struct Builder<'a> {
    resolved: &'a Resolved,
    code: Vec<Instruction>,
    /// The nearest position of a return instruction, for each returned value.
    returns: Vec<(Return, usize)>,
    /// The start of each block, once it is emitted.
    blocks: Vec<Option<usize>>,
}

impl Builder<'_> {
    fn push(&mut self, code: u16, k: u32) -> usize {
        self.code.push(Instruction { code, jt: 0, jf: 0, k });
        self.code.len() - 1
    }

    fn push_return(&mut self, value: Return) -> usize {
        let position = self.push(RET_K, value);
        match self.returns.iter_mut().find(|(known, _)| *known == value) {
            Some((_, nearest)) => *nearest = position,
            None => self.returns.push((value, position)),
        }
        position
    }

    /// Returns a position within reach that leads to `target`: the target itself, or a helper that is emitted here.
    fn reach(&mut self, target: Target) -> Result<usize> {
        let here = self.code.len();
        Ok(match target {
            Target::Return(value) => {
                let near = self.returns.iter().find(|(known, at)| *known == value && here - at <= REACH);
                match near {
                    Some(&(_, at)) => at,
                    None => self.push_return(value),
                }
            }
            Target::At(at) if here - at <= REACH => at,
            Target::At(at) => {
                let distance = self.distance(at)?;
                self.push(JMP_JA, distance)
            }
        })
    }

    /// The instructions that a jump, which is pushed next, skips to reach `at`.
    fn distance<T: TryFrom<usize>>(&self, at: usize) -> Result<T> {
        T::try_from(self.code.len() - at - 1).map_err(|_| too_long(self.code.len()))
    }

    /// Makes `target` the successor of the instruction that is pushed next.
    fn fall_into(&mut self, target: Target) -> Result<()> {
        match target {
            Target::At(at) if at + 1 == self.code.len() => {}
            Target::At(at) => {
                let distance = self.distance(at)?;
                self.push(JMP_JA, distance);
            }
            Target::Return(value) => {
                self.push_return(value);
            }
        }
        Ok(())
    }

    /// Emits a comparison of the accumulator with `k`.
    fn branch(&mut self, code: u16, k: u32, then: Target, otherwise: Target) -> Result<usize> {
        let then = self.reach(then)?;
        let otherwise = self.reach(otherwise)?;
        let here = self.code.len();
        // Both targets are at most REACH + 1 instructions back, and therefore the offsets fit.
        let (jt, jf) = (self.distance(then)?, self.distance(otherwise)?);
        self.code.push(Instruction { code, jt, jf, k });
        Ok(here)
    }

    /// Emits a search for the range that holds the accumulator: a balanced tree down to groups of few single numbers,
    /// which are compared one by one. `end` is the exclusive end of the last range.
    fn tree(&mut self, ranges: &[Range], end: u64) -> Result<Target> {
        if let Some(rest) = rest_of_singles(ranges, end) {
            let mut next = self.target(rest)?;
            for single in ranges.iter().rev().filter(|range| range.outcome != rest) {
                let then = self.target(single.outcome)?;
                next = Target::At(self.branch(JMP_JEQ_K, single.start, then, next)?);
            }
            return Ok(next);
        }
        let (left, right) = ranges.split_at(ranges.len() / 2);
        let middle = right[0].start;
        let then = self.tree(right, end)?;
        let otherwise = self.tree(left, middle.into())?;
        Ok(Target::At(self.branch(JMP_JGE_K, middle, then, otherwise)?))
    }

    fn target(&mut self, outcome: Outcome) -> Result<Target> {
        match outcome {
            Outcome::Return(value) => Ok(Target::Return(value)),
            Outcome::Block(index) => match self.blocks[index] {
                Some(at) => Ok(Target::At(at)),
                None => {
                    let at = self.block(index)?;
                    self.blocks[index] = Some(at);
                    Ok(Target::At(at))
                }
            },
        }
    }

    /// Emits the clauses of a block one after the other. A clause that does not match continues after its own return.
    fn block(&mut self, index: usize) -> Result<usize> {
        let block = &self.resolved.blocks[index];
        let mut start = self.push_return(self.resolved.default);
        for clause in block.clauses.iter().rev() {
            let clause = &self.resolved.clauses[*clause as usize];
            self.push_return(clause.action);
            for instruction in conditions(clause, block.is_32_bit)?.iter().rev() {
                let seccompiler::sock_filter { code, jt, jf, k } = *instruction;
                self.code.push(Instruction { code, jt, jf, k });
            }
            start = self.code.len() - 1;
            if self.code.len() > MAX_INSTRUCTIONS {
                return Err(too_long(self.code.len()));
            }
        }
        Ok(start)
    }
}

/// The number of single numbers that are compared one after the other, before a tree is better.
const SINGLES: usize = 4;

/// The outcome of all ranges except a few, each of which is a single number.
fn rest_of_singles(ranges: &[Range], end: u64) -> Option<Outcome> {
    let single = |i: usize| ranges.get(i + 1).map_or(end, |next| next.start.into()) - u64::from(ranges[i].start) == 1;
    // Neighbours differ, and therefore the outcome of the rest is that of the first range or of the second.
    ranges.iter().take(2).map(|range| range.outcome).find(|&rest| {
        ranges.len() <= 2 * SINGLES + 1
            && ranges.iter().filter(|range| range.outcome != rest).count() <= SINGLES
            && (0..ranges.len()).all(|i| ranges[i].outcome == rest || single(i))
    })
}

/// The conditions of a clause as seccompiler compiles them: they fall through when all hold, and skip one instruction
/// more when one does not.
fn conditions(clause: &Clause, is_32_bit: bool) -> Result<BpfProgram> {
    let failed = |error: BackendError| Error::other(format!("linux.seccomp.syscalls: {error}"));
    let list: Result<Vec<_>> = effective(&clause.conditions, is_32_bit)
        .map(|condition| condition_of(&condition, is_32_bit).map_err(failed))
        .collect();
    let mut program: BpfProgram = SeccompRule::new(list?).map_err(failed)?.into();
    // seccompiler starts with a jump over a jump past the whole rule, for chains that are entered in their middle. This
    // program enters a rule at its start only.
    let skip =
        |instruction: &seccompiler::sock_filter, k: usize| instruction.code == JMP_JA && instruction.k as usize == k;
    if program.len() > 2 && skip(&program[0], 1) && skip(&program[1], program.len()) {
        program.drain(..2);
    }
    Ok(program)
}

fn condition_of(condition: &Condition, is_32_bit: bool) -> Result<SeccompCondition, BackendError> {
    let op = match condition.op {
        Op::ScmpCmpEq => SeccompCmpOp::Eq,
        Op::ScmpCmpNe => SeccompCmpOp::Ne,
        Op::ScmpCmpLt => SeccompCmpOp::Lt,
        Op::ScmpCmpLe => SeccompCmpOp::Le,
        Op::ScmpCmpGe => SeccompCmpOp::Ge,
        Op::ScmpCmpGt => SeccompCmpOp::Gt,
        Op::ScmpCmpMaskedEq => SeccompCmpOp::MaskedEq(condition.mask),
    };
    // A mask without bits in the upper half makes a comparison of the upper half unnecessary.
    let low = is_32_bit || condition.mask >> 32 == 0;
    let len = if low { SeccompCmpArgLen::Dword } else { SeccompCmpArgLen::Qword };
    SeccompCondition::new(condition.index, len, op, condition.value)
}
