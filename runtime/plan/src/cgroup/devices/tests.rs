//! Three ways to answer a request: reading the rules, running the program, looking at mode and exceptions.

use proptest::prelude::*;

use super::*;
use brig_sys::bpf::Instruction;

#[derive(Clone, Copy, Debug)]
struct Request {
    kind: DeviceKind,
    major: u32,
    minor: u32,
    access: u8,
}

fn covers(rule: &DeviceRule, request: &Request) -> bool {
    (rule.kind == DeviceKind::All || rule.kind == request.kind)
        && rule.major.is_none_or(|major| major == request.major)
        && rule.minor.is_none_or(|minor| minor == request.minor)
}

/// The definition: each access by the last rule that covers it.
fn read(rules: &[DeviceRule], request: &Request) -> bool {
    [MKNOD, READ, WRITE].iter().filter(|&&bit| request.access & bit != 0).all(|bit| {
        let last = rules.iter().rev().find(|rule| rule.access & bit != 0 && covers(rule, request));
        last.is_some_and(|rule| rule.allow)
    })
}

/// Runs a device program, for the few instructions that it has. Any other one, and any step outside, panics.
fn run(program: &[Instruction], request: &Request) -> bool {
    let kind = match request.kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
        DeviceKind::All => panic!("a request names one kind"),
    };
    let context = [u32::from(request.access) << 16 | kind, request.major, request.minor];
    let mut registers = [0u64; 11];
    let mut at = 0usize;
    loop {
        let Instruction { code, registers: pair, offset, immediate } = program[at];
        let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
        let wide = i64::from(immediate).cast_unsigned();
        let mut next = at + 1;
        let jump = |taken: bool| if taken { next.checked_add_signed(offset.into()).expect("a jump") } else { next };
        match code {
            0x61 => registers[to] = u64::from(context[usize::try_from(offset / 4).expect("an offset")]),
            0xb7 => registers[to] = wide,
            0xbf => registers[to] = registers[from],
            0x57 => registers[to] &= wide,
            0x77 => registers[to] >>= wide,
            0x56 => next = jump(registers[to] & 0xffff_ffff != u64::from(immediate.cast_unsigned())),
            0x15 => next = jump(registers[to] == wide),
            0x95 => return registers[0] == 1,
            other => panic!("unknown instruction {other:#x}"),
        }
        assert!(next > at, "programs go forward");
        at = next;
    }
}

/// The answer of the v1 controller for a policy (security/device_cgroup.c).
fn listed(policy: &Policy, request: &Request) -> bool {
    let meets = |rule: &&DeviceRule| covers(rule, request) && rule.access & request.access != 0;
    match policy.mode {
        Mode::AllowUnlisted => !policy.exceptions.iter().any(|rule| meets(&rule)),
        Mode::DenyUnlisted => {
            policy.exceptions.iter().any(|rule| covers(rule, request) && request.access & !rule.access == 0)
        }
    }
}

fn kinds() -> impl Strategy<Value = DeviceKind> {
    prop_oneof![Just(DeviceKind::Block), Just(DeviceKind::Char)]
}

fn numbers() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..4, Just(u32::MAX), Just(0x8000_0000)]
}

fn rules() -> impl Strategy<Value = Vec<DeviceRule>> {
    let kind = prop_oneof![kinds(), Just(DeviceKind::All)];
    let number = || prop::option::of(numbers());
    let rule = (any::<bool>(), kind, number(), number(), 1u8..8)
        .prop_map(|(allow, kind, major, minor, access)| DeviceRule { allow, kind, major, minor, access });
    prop::collection::vec(rule, 0..12)
}

fn requests() -> impl Strategy<Value = Request> {
    (kinds(), numbers(), numbers(), 1u8..8).prop_map(|(kind, major, minor, access)| Request {
        kind,
        major,
        minor,
        access,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn the_device_program_permits_the_same_as_the_rules(rules in rules(), request in requests()) {
        prop_assert_eq!(run(&program(&rules), &request), read(&rules, &request));
    }

    #[test]
    fn device_lists_permit_the_same_as_the_rules(rules in rules(), request in requests()) {
        if let Ok(policy) = simplify(&rules) {
            for access in [MKNOD, READ, WRITE] {
                let one = Request { access, ..request };
                prop_assert_eq!(listed(&policy, &one), read(&rules, &one));
            }
            // Two exceptions that only cross cannot be put together on v1; it is never the other way round.
            prop_assert!(!listed(&policy, &request) || read(&rules, &request));
        }
    }
}

fn parsed(json: serde_json::Value) -> (Vec<DeviceRule>, Findings) {
    let resources = serde_json::from_value(serde_json::json!({ "devices": json })).expect("resources");
    let mut findings = Findings::default();
    let rules = rules_of(&resources, &mut findings);
    (rules, findings)
}

fn rules_of(resources: &LinuxResources, findings: &mut Findings) -> Vec<DeviceRule> {
    super::rules(None, resources, findings)
}

#[test]
fn the_usual_configuration_denies_all_but_the_default_devices() {
    let (rules, findings) = parsed(serde_json::json!([{"allow": false, "access": "rwm"}]));
    assert_eq!(findings.violations, vec![]);
    let ask = |kind, major, minor, access| read(&rules, &Request { kind, major, minor, access });
    assert!(ask(DeviceKind::Char, 1, 3, READ | WRITE));
    assert!(ask(DeviceKind::Char, 136, 7, READ | WRITE));
    assert!(ask(DeviceKind::Block, 8, 0, MKNOD));
    assert!(!ask(DeviceKind::Block, 8, 0, READ));
    assert!(!ask(DeviceKind::Char, 1, 1, READ));
    assert!(!ask(DeviceKind::Char, 5, 1, WRITE));
    let texts: Vec<String> = simplify(&rules).expect("a list").exceptions.iter().map(DeviceRule::text).collect();
    assert_eq!(texts[..3], ["c *:* m", "b *:* m", "c 1:3 rwm"]);
}

#[test]
fn invalid_rules_are_named() {
    let (rules, findings) = parsed(serde_json::json!([
        {"allow": true, "type": "p", "access": "r"},
        {"allow": true, "type": "c", "major": 5_000_000_000_i64, "access": "r"},
        {"allow": true, "type": "c", "access": "rx"},
        {"allow": true, "type": "c"},
        {"allow": true, "type": "c", "major": -1, "minor": -1, "access": "r"},
    ]));
    let paths: Vec<&str> = findings.violations.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(
        paths,
        [
            "linux.resources.devices[0].type",
            "linux.resources.devices[1].major",
            "linux.resources.devices[2].access",
            "linux.resources.devices[3].access",
        ]
    );
    assert_eq!(rules[0].text(), "c *:* r");
}

#[test]
fn a_hole_in_a_wider_rule_is_no_list() {
    let wide = DeviceRule { allow: true, kind: DeviceKind::Char, major: None, minor: None, access: READ };
    let hole = DeviceRule { allow: false, major: Some(1), ..wide };
    assert_eq!(simplify(&[wide, hole]), Err(1));
    assert_eq!(simplify(&[wide, DeviceRule { allow: false, ..wide }]).map(|it| it.exceptions), Ok(vec![]));
}
