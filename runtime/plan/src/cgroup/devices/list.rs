//! Rules as v1 and systemd can say them: one answer for everything, and exceptions to it.

use super::{DeviceKind, DeviceRule, EVERYTHING};

/// The answer for what no exception names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Everything is granted; exceptions deny.
    AllowUnlisted,
    /// Everything is denied; exceptions grant.
    DenyUnlisted,
}

/// A mode with its exceptions, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether the exceptions are allowed or denied.
    pub mode: Mode,
    /// Exceptions to it: no two for the same device, and never of kind [`DeviceKind::All`].
    pub exceptions: Vec<DeviceRule>,
}

fn same_device(one: &DeviceRule, other: &DeviceRule) -> bool {
    (one.kind, one.major, one.minor) == (other.kind, other.major, other.minor)
}

fn covers(wide: &DeviceRule, narrow: &DeviceRule) -> bool {
    let number = |wide: Option<u32>, narrow: Option<u32>| wide.is_none() || wide == narrow;
    wide.kind == narrow.kind && number(wide.major, narrow.major) && number(wide.minor, narrow.minor)
}

fn meets(one: &DeviceRule, other: &DeviceRule) -> bool {
    let number = |one: Option<u32>, other: Option<u32>| one.is_none() || other.is_none() || one == other;
    one.kind == other.kind && number(one.major, other.major) && number(one.minor, other.minor)
}

/// Brings `rules` into that form.
///
/// # Errors
/// The number of the first rule that takes a part out of a wider one before it, which a list of exceptions cannot say.
pub fn simplify(rules: &[DeviceRule]) -> Result<Policy, usize> {
    let mut policy = Policy { mode: Mode::DenyUnlisted, exceptions: Vec::new() };
    for (index, rule) in rules.iter().enumerate() {
        let everything = rule.kind == DeviceKind::All && rule.major.is_none() && rule.minor.is_none();
        if everything && rule.access == EVERYTHING {
            let mode = if rule.allow { Mode::AllowUnlisted } else { Mode::DenyUnlisted };
            policy = Policy { mode, exceptions: Vec::new() };
            continue;
        }
        let kinds: &[DeviceKind] = match rule.kind {
            DeviceKind::All => &[DeviceKind::Block, DeviceKind::Char],
            DeviceKind::Block => &[DeviceKind::Block],
            DeviceKind::Char => &[DeviceKind::Char],
        };
        for &kind in kinds {
            if !apply(&mut policy, DeviceRule { kind, ..*rule }) {
                return Err(index);
            }
        }
    }
    if policy.mode == Mode::DenyUnlisted {
        // v1 grants a request by one exception that has all of it: a narrow one must have what a wider one adds.
        let wide = policy.exceptions.clone();
        for exception in &mut policy.exceptions {
            let more = wide.iter().filter(|wide| covers(wide, exception)).fold(0, |bits, wide| bits | wide.access);
            exception.access |= more;
        }
    }
    Ok(policy)
}

/// One rule of one kind; false when it cannot be said.
fn apply(policy: &mut Policy, rule: DeviceRule) -> bool {
    if rule.allow == (policy.mode == Mode::DenyUnlisted) {
        match policy.exceptions.iter_mut().find(|exception| same_device(exception, &rule)) {
            Some(exception) => exception.access |= rule.access,
            None => policy.exceptions.push(rule),
        }
        return true;
    }
    // The rule takes exceptions back.
    for exception in &mut policy.exceptions {
        if exception.access & rule.access == 0 || !meets(exception, &rule) {
            continue;
        }
        if !covers(&rule, exception) {
            return false;
        }
        exception.access &= !rule.access;
    }
    policy.exceptions.retain(|exception| exception.access != 0);
    true
}
