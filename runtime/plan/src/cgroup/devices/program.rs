//! Rules as a program of type BPF_PROG_TYPE_CGROUP_DEVICE.

use super::{DeviceKind, DeviceRule, EVERYTHING};
use brig_sys::bpf::Instruction;

// Registers. R1 holds the context on entry and is free once it is read.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Opcodes: class | operation | source (linux/bpf_common.h, linux/bpf.h).
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_UNLESS_EQUAL_32: u8 = 0x56;
const JUMP_IF_ZERO: u8 = 0x15;
const EXIT: u8 = 0x95;

// linux/bpf.h, BPF_DEVCG_DEV_*.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: to | from << 4, offset, immediate }
}

fn answer(list: &mut Vec<Instruction>, allow: bool) {
    list.push(instruction(MOVE, RESULT, 0, 0, i32::from(allow)));
    list.push(instruction(EXIT, 0, 0, 0, 0));
}

/// Compiles `rules`.
///
/// The program walks them from the last to the first, and keeps in ACCESS what of the request is not decided yet. A
/// rule that covers the device takes its bits away: one that denies any of them ends in denial, and when none are left
/// the request is granted.
pub fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut list = Vec::with_capacity(8 + rules.len() * 8);
    // struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type); u32 major; u32 minor; }
    list.push(instruction(LOAD_WORD, TYPE, CONTEXT, 0, 0));
    list.push(instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0));
    list.push(instruction(AND, TYPE, 0, 0, 0xffff));
    list.push(instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16));
    list.push(instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0));
    list.push(instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0));
    for rule in rules.iter().rev() {
        let all = rule.kind == DeviceKind::All && rule.major.is_none() && rule.minor.is_none();
        if all && rule.access == EVERYTHING {
            // Nothing before this rule can matter, and the verifier would refuse unreachable code.
            answer(&mut list, rule.allow);
            return list;
        }
        push_rule(&mut list, rule);
    }
    answer(&mut list, false);
    list
}

fn push_rule(list: &mut Vec<Instruction>, rule: &DeviceRule) {
    let mut body = Vec::with_capacity(5);
    if rule.allow {
        // ACCESS &= !granted; granted when nothing is left.
        body.push(instruction(AND, ACCESS, 0, 0, i32::from(!rule.access & EVERYTHING)));
        body.push(instruction(JUMP_UNLESS_EQUAL_32, ACCESS, 0, 2, 0));
        answer(&mut body, true);
    } else {
        // RESULT = ACCESS & denied; on to the next rule when none of the undecided bits is among them.
        body.push(instruction(MOVE_REGISTER, RESULT, ACCESS, 0, 0));
        body.push(instruction(AND, RESULT, 0, 0, i32::from(rule.access)));
        body.push(instruction(JUMP_IF_ZERO, RESULT, 0, 2, 0));
        answer(&mut body, false);
    }
    let kind = match rule.kind {
        DeviceKind::All => None,
        DeviceKind::Block => Some((TYPE, BLOCK)),
        DeviceKind::Char => Some((TYPE, CHAR)),
    };
    let major = rule.major.map(|major| (MAJOR, major.cast_signed()));
    let minor = rule.minor.map(|minor| (MINOR, minor.cast_signed()));
    let conditions: Vec<(u8, i32)> = [kind, major, minor].into_iter().flatten().collect();
    // Over the conditions that follow, and the body. Both are a handful.
    let mut skip: i16 = conditions.iter().map(|_| 1).chain(body.iter().map(|_| 1)).sum();
    for (register, value) in &conditions {
        skip -= 1;
        // 32 bits wide: the immediate would be sign-extended for a 64-bit comparison.
        list.push(instruction(JUMP_UNLESS_EQUAL_32, *register, 0, skip, *value));
    }
    list.extend(body);
}
