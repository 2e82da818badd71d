//! The translation of a profile to ranges of syscall numbers, each with its outcome.

use std::cmp::{Ordering, Reverse};

use oci_spec::runtime::LinuxSeccompOperator as Op;

use super::tables::{SYSCALLS, X};
use crate::error::{Error, ErrorKind, Result};
use brig_plan::seccomp::{Abi, Condition, Profile, Return, X32_BIT, ret};

/// The outcome of a syscall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The same value for all arguments.
    Return(Return),
    /// A value that depends on the arguments: an index into [`Resolved::blocks`].
    Block(usize),
}

/// Syscall numbers from `start` up to the start of the next range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub start: u32,
    pub outcome: Outcome,
}

/// The ranges of one audit architecture. They cover all of u32, ascending, and neighbours differ in outcome.
#[derive(Debug)]
pub(super) struct Machine {
    pub audit_arch: u32,
    pub ranges: Vec<Range>,
}

/// Conditions that must all hold, and the value that is returned then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clause {
    pub action: Return,
    pub conditions: Vec<Condition>,
}

/// The clauses of one syscall in their order of evaluation; the default applies if none matches.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The filter compares only the low 32 bits of the arguments.
    pub is_32_bit: bool,
    /// Indices into [`Resolved::clauses`].
    pub clauses: Vec<u32>,
}

/// The input of the assembler.
#[derive(Debug)]
pub(super) struct Resolved {
    pub default: Return,
    pub machines: Vec<Machine>,
    pub clauses: Vec<Clause>,
    pub blocks: Vec<Block>,
    pub unknown: Vec<String>,
}

impl Resolved {
    /// Checks whether the filter refuses this call whatever its arguments are. A tracer or an agent may still allow it.
    pub(super) fn refuses(&self, audit_arch: u32, number: u32) -> bool {
        let Some(machine) = self.machines.iter().find(|machine| machine.audit_arch == audit_arch) else {
            return true;
        };
        let outcome = machine.ranges.iter().rev().find(|range| range.start <= number).map(|range| range.outcome);
        const REFUSING: [u32; 4] = [ret::KILL_THREAD, ret::KILL_PROCESS, ret::TRAP, ret::ERRNO];
        matches!(outcome, Some(Outcome::Return(action)) if REFUSING.contains(&(action & 0xffff_0000)))
    }
}

/// The return value for an architecture that the profile does not name.
pub(super) const BAD_ARCHITECTURE: Return = ret::KILL_THREAD;

const ENOSYS: Return = ret::ERRNO | libc::ENOSYS as u32;

/// arm's private calls (cacheflush, set_tls) have numbers above all others: they do not indicate how new a profile is,
/// and none of them is new.
const ARM_PRIVATE: u32 = 0x000f_0000;

/// Calls of machines without a table here (mips, powerpc, s390), and additional names of libseccomp. The default
/// profiles of containerd and Podman hold them everywhere.
const OF_OTHER_MACHINES: [&str; 18] = [
    "cachectl",
    "multiplexer",
    "pciconfig_iobase",
    "pciconfig_read",
    "pciconfig_write",
    "rtas",
    "s390_guarded_storage",
    "s390_pci_mmio_read",
    "s390_pci_mmio_write",
    "s390_runtime_instr",
    "s390_sthyi",
    "spu_create",
    "spu_run",
    "subpage_prot",
    "swapcontext",
    "switch_endian",
    "syscall",
    "timerfd",
];

/// socketcall(2) and ipc(2) on x86.
const SOCKETCALL: u32 = 102;
const IPC: u32 = 117;

/// The syscalls that socketcall(2) or ipc(2) also call on x86, with the first argument that selects them (linux/net.h,
/// linux/ipc.h). Sorted by name.
const MULTIPLEXED: [(&str, u32, u64); 32] = [
    ("accept", SOCKETCALL, 5),
    ("accept4", SOCKETCALL, 18),
    ("bind", SOCKETCALL, 2),
    ("connect", SOCKETCALL, 3),
    ("getpeername", SOCKETCALL, 7),
    ("getsockname", SOCKETCALL, 6),
    ("getsockopt", SOCKETCALL, 15),
    ("listen", SOCKETCALL, 4),
    ("msgctl", IPC, 14),
    ("msgget", IPC, 13),
    ("msgrcv", IPC, 12),
    ("msgsnd", IPC, 11),
    ("recv", SOCKETCALL, 10),
    ("recvfrom", SOCKETCALL, 12),
    ("recvmmsg", SOCKETCALL, 19),
    ("recvmsg", SOCKETCALL, 17),
    ("semctl", IPC, 3),
    ("semget", IPC, 2),
    ("semop", IPC, 1),
    ("semtimedop", IPC, 4),
    ("send", SOCKETCALL, 9),
    ("sendmmsg", SOCKETCALL, 20),
    ("sendmsg", SOCKETCALL, 16),
    ("sendto", SOCKETCALL, 11),
    ("setsockopt", SOCKETCALL, 14),
    ("shmat", IPC, 21),
    ("shmctl", IPC, 24),
    ("shmdt", IPC, 22),
    ("shmget", IPC, 23),
    ("shutdown", SOCKETCALL, 13),
    ("socket", SOCKETCALL, 1),
    ("socketpair", SOCKETCALL, 8),
];

fn multiplexed(name: &str) -> Option<(u32, u64)> {
    let row = MULTIPLEXED.binary_search_by(|(known, ..)| (*known).cmp(name)).ok()?;
    Some((MULTIPLEXED[row].1, MULTIPLEXED[row].2))
}

/// Finds the row of `name` in the table. Profiles list names in order, and therefore the rows after `last` are tried
/// first.
fn find(name: &str, last: usize) -> Option<usize> {
    let near = (last + 1..SYSCALLS.len()).take(3).find(|row| SYSCALLS[*row].0 == name);
    near.or_else(|| SYSCALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok())
}

/// A table of the rules for one ABI.
struct Column {
    abi: Abi,
    named: bool,
    /// Pairs of a number and a clause; clauses are numbered in the order of the profile.
    entries: Vec<(u32, u32)>,
    /// The largest number that the profile names.
    last: Option<u32>,
}

impl Column {
    fn name(&mut self, number: u32) {
        if !(self.abi == Abi::Arm && number >= ARM_PRIVATE) {
            self.last = self.last.max(Some(number));
        }
    }
}

/// Resolves names to numbers, rules to outcomes, and outcomes to ranges.
///
/// # Errors
/// Two rules for one syscall have the same conditions but different actions.
pub(super) fn resolve(profile: &Profile<'_>) -> Result<Resolved> {
    let mut columns: Vec<Column> = profile
        .abis
        .iter()
        .map(|&(abi, named)| Column { abi, named, entries: Vec::with_capacity(512), last: None })
        .collect();
    let mut resolved = Resolved {
        default: profile.default,
        machines: Vec::new(),
        clauses: Vec::new(),
        blocks: Vec::new(),
        unknown: Vec::new(),
    };
    collect(profile, &mut columns, &mut resolved)?;
    for column in &mut columns {
        column.entries.sort_unstable();
    }

    // Above the largest number of the profile a refusal becomes ENOSYS. A default that allows calls stays: a tracer,
    // too, answers for new calls itself.
    let permissive = matches!(profile.default & 0xffff_0000, ret::ALLOW | ret::LOG | ret::TRACE);
    for index in 0..columns.len() {
        let audit_arch = columns[index].abi.audit_arch();
        if resolved.machines.iter().any(|machine| machine.audit_arch == audit_arch) {
            continue;
        }
        let mut ranges = Vec::with_capacity(256);
        let mut append = |ranges: &mut Vec<Range>, abi: Abi| -> Result<bool> {
            let Some(column) = columns.iter().find(|column| column.abi == abi) else { return Ok(false) };
            let newer = column.last.filter(|last| column.named && !permissive && column.abi.base() + last > 0);
            append_column(ranges, column, newer, &mut resolved)?;
            Ok(true)
        };
        if audit_arch == Abi::X86_64.audit_arch() {
            if !append(&mut ranges, Abi::X86_64)? {
                push(&mut ranges, 0, Outcome::Return(BAD_ARCHITECTURE));
            }
            if !append(&mut ranges, Abi::X32)? {
                push(&mut ranges, X32_BIT, Outcome::Return(BAD_ARCHITECTURE));
                // A tracer writes -1 to skip a call; -1 must not kill.
                push(&mut ranges, u32::MAX, Outcome::Return(profile.default));
            }
        } else {
            append(&mut ranges, columns[index].abi)?;
        }
        resolved.machines.push(Machine { audit_arch, ranges });
    }
    Ok(resolved)
}

/// The index of the clause that is added next.
fn next_clause(resolved: &Resolved) -> Result<u32> {
    u32::try_from(resolved.clauses.len())
        .map_err(|_| Error::new(ErrorKind::InvalidConfig, "linux.seccomp.syscalls: more than 4294967295 clauses"))
}

/// Distributes the rules over the columns.
fn collect(profile: &Profile<'_>, columns: &mut [Column], resolved: &mut Resolved) -> Result<()> {
    let x86 = columns.iter().position(|column| column.abi == Abi::X86);
    let mut row = 0;
    for rule in &profile.rules {
        // A rule that repeats the default has no effect, and does not even override another one, as in runc.
        let redundant = rule.action == profile.default;
        let first = next_clause(resolved)?;
        if !redundant {
            let clauses =
                rule.matches.iter().map(|conditions| Clause { action: rule.action, conditions: conditions.clone() });
            resolved.clauses.extend(clauses);
        }
        let all = first..next_clause(resolved)?;
        for name in rule.names {
            let Some(found) = find(name, row) else {
                if !OF_OTHER_MACHINES.contains(&name.as_str()) {
                    resolved.unknown.push(name.clone());
                }
                continue;
            };
            row = found;
            let numbers = &SYSCALLS[row].1;
            for column in columns.iter_mut() {
                let number = numbers[column.abi as usize];
                if number != X {
                    column.name(number);
                    column.entries.extend(all.clone().map(|clause| (number, clause)));
                }
            }
            let Some(column) = x86 else { continue };
            let Some((number, call)) = multiplexed(name) else { continue };
            columns[column].name(number);
            for clause in all.clone() {
                let mut clause = resolved.clauses[clause as usize].clone();
                // The call's number replaces the first argument; the other arguments are compared as they are, as in
                // libseccomp.
                clause.conditions.retain(|condition| condition.index != 0);
                clause.conditions.insert(0, Condition { index: 0, op: Op::ScmpCmpEq, value: call, mask: u64::MAX });
                columns[column].entries.push((number, next_clause(resolved)?));
                resolved.clauses.push(clause);
            }
        }
    }
    Ok(())
}

/// Appends the numbers of one ABI up to the end of u32. If `newer` is set, ENOSYS replaces the default above that
/// number.
fn append_column(ranges: &mut Vec<Range>, column: &Column, newer: Option<u32>, resolved: &mut Resolved) -> Result<()> {
    let base = column.abi.base();
    let default = Outcome::Return(resolved.default);
    // The start of the range that gets ENOSYS.
    let newer = newer.map_or(X32_BIT, |last| last + 1);
    let end = if column.abi == Abi::Arm { ARM_PRIVATE.max(newer) } else { X32_BIT };
    let zones = [(0, newer, default), (newer, end, Outcome::Return(ENOSYS)), (end, X32_BIT, default)];
    let fill = |ranges: &mut Vec<Range>, from: u32, to: u32| {
        for (start, stop, outcome) in zones {
            if from.max(start) < to.min(stop) {
                push(ranges, base + from.max(start), outcome);
            }
        }
    };
    let mut next = 0;
    for group in column.entries.chunk_by(|a, b| a.0 == b.0) {
        let number = group[0].0;
        fill(ranges, next, number);
        let outcome = outcome(group, column.abi, resolved)?;
        push(ranges, base + number, outcome);
        next = number + 1;
    }
    fill(ranges, next, X32_BIT);
    Ok(())
}

/// Starts a range, or extends the previous one if the outcome is the same.
fn push(ranges: &mut Vec<Range>, start: u32, outcome: Outcome) {
    if ranges.last().is_none_or(|last| last.outcome != outcome) {
        ranges.push(Range { start, outcome });
    }
}

/// The combined outcome of all clauses for one number.
fn outcome(group: &[(u32, u32)], abi: Abi, resolved: &mut Resolved) -> Result<Outcome> {
    let is_32_bit = abi.is_32_bit();
    let clause = |index: u32| &resolved.clauses[index as usize];
    let unconditional = |index: u32| effective(&clause(index).conditions, is_32_bit).next().is_none();
    if let Some(&(_, index)) = group.iter().find(|(_, index)| unconditional(*index)) {
        return Ok(Outcome::Return(clause(index).action));
    }
    let mut clauses: Vec<u32> = Vec::with_capacity(group.len());
    for &(number, index) in group {
        let new = clause(index);
        // A clause is redundant if an earlier one decides with a subset of its conditions.
        let covers = |&&other: &&u32| {
            let mut longer = effective(&new.conditions, is_32_bit);
            effective(&clause(other).conditions, is_32_bit).all(|condition| longer.next() == Some(condition))
        };
        match clauses.iter().find(covers) {
            None => clauses.push(index),
            Some(&other) if clause(other).action == new.action => {}
            Some(&other) => {
                let count = |index: u32| effective(&clause(index).conditions, is_32_bit).count();
                if count(other) == count(index) {
                    return Err(contradiction(number, abi));
                }
            }
        }
    }
    clauses.sort_by(|a, b| specific_first(&clause(*a).conditions, &clause(*b).conditions, is_32_bit));
    let block = Block { is_32_bit, clauses };
    let position = resolved.blocks.iter().position(|known| *known == block);
    Ok(Outcome::Block(position.unwrap_or_else(|| {
        resolved.blocks.push(block);
        resolved.blocks.len() - 1
    })))
}

fn contradiction(number: u32, abi: Abi) -> Error {
    let name = SYSCALLS.iter().find(|(_, numbers)| numbers[abi as usize] == number).map_or("?", |(name, _)| *name);
    Error::new(
        ErrorKind::InvalidConfig,
        format!(
            "invalid config.json: linux.seccomp.syscalls: two rules for {name} have the same conditions but different \
             actions (remove one of them)"
        ),
    )
}

/// The conditions that can fail under an ABI, cut to 32 bits if the ABI compares no more.
pub(super) fn effective(conditions: &[Condition], is_32_bit: bool) -> impl Iterator<Item = Condition> {
    let width = if is_32_bit { u64::from(u32::MAX) } else { u64::MAX };
    conditions
        .iter()
        .map(move |condition| Condition { value: condition.value & width, mask: condition.mask & width, ..*condition })
        .filter(|condition| condition.op != Op::ScmpCmpMaskedEq || condition.mask != 0)
}

/// The order of evaluation of clauses, which is libseccomp's: by argument, the last one first; equality before the
/// orders, "less" before "greater"; the tighter bound first; and if one is a prefix of the other, the longer one.
fn specific_first(a: &[Condition], b: &[Condition], is_32_bit: bool) -> Ordering {
    let rank = |condition: &Condition| match condition.op {
        Op::ScmpCmpEq | Op::ScmpCmpNe | Op::ScmpCmpMaskedEq => (2, Reverse(condition.value)),
        Op::ScmpCmpLe | Op::ScmpCmpLt => (1, Reverse(u64::MAX - condition.value)),
        Op::ScmpCmpGe | Op::ScmpCmpGt => (0, Reverse(condition.value)),
    };
    let mut a = effective(a, is_32_bit);
    let mut b = effective(b, is_32_bit);
    loop {
        let (one, other) = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Greater,
            (Some(_), None) => return Ordering::Less,
            (Some(one), Some(other)) => (one, other),
        };
        let key = |condition: &Condition| {
            let (class, value) = rank(condition);
            (Reverse(condition.index), Reverse(class), value)
        };
        match key(&one).cmp(&key(&other)) {
            Ordering::Equal => {}
            order => return order,
        }
    }
}
