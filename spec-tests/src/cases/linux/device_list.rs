//! config-linux.md, Allowed Device list.
//!
//! The devices are of majors 60 and 61, which are for local use: they have no driver. A permitted open
//! fails with ENXIO, a denied one with EPERM, and no hardware is touched.

use anyhow::ensure;
use serde_json::{Value, json};

use crate::harness::{Case, Fixture, Level, Need};

const SECTION: &str = "config-linux.md#allowed-device-list";
const YES: &str = "ENXIO";
const NO: &str = "EPERM";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("rules for devices apply in their order: denied, then allowed", SECTION, Level::Must, allow_last),
    Case::new("rules for devices apply in their order: allowed, then denied", SECTION, Level::Must, deny_last),
    Case::new("a rule removes one device from a wider rule that allows it", SECTION, Level::Must, taken_out)
        .on(&[Need::CgroupV2]),
    Case::new(
        "a rule removes one device from a wider rule that allows it, or is refused",
        SECTION,
        Level::Must,
        expressed,
    )
    .on(&[Need::CgroupV1]),
    Case::new("a rule without a type is for all devices", SECTION, Level::Must, without_type),
    Case::new("a rule of type a is for all devices", SECTION, Level::Must, type_a),
    Case::new("a rule of type c is not for block devices", SECTION, Level::Must, type_c),
    Case::new("a rule of type b is not for character devices", SECTION, Level::Must, type_b),
    Case::new("a rule without a minor is for every minor", SECTION, Level::Must, every_minor),
    Case::new("a rule without a major is for every major", SECTION, Level::Must, every_major),
    Case::new("the access r does not let a device be written", SECTION, Level::Must, |fixture| {
        access(fixture, "r", [YES, NO])
    }),
    Case::new("the access w does not let a device be read", SECTION, Level::Must, |fixture| {
        access(fixture, "w", [NO, YES])
    }),
    Case::new("the access m lets a device be made and not used", SECTION, Level::Must, |fixture| {
        access(fixture, "m", [NO, NO])
    }),
    Case::new("the access rwm lets a device be read, written and made", SECTION, Level::Must, |fixture| {
        access(fixture, "rwm", [YES, YES])
    }),
    Case::new("the letter a in the access grants nothing beside r, w and m", SECTION, Level::Runc, |fixture| {
        access(fixture, "rwa", [YES, YES])?;
        access(fixture, "ra", [YES, NO])
    }),
    Case::new("a type of device that is not known in a rule is refused", SECTION, Level::Must, unknown_type),
    Case::new("the allowed device list applies to exec too", SECTION, Level::Must, in_exec),
];

/// Reads c 61:1, c 61:2, c 60:1 and b 61:1 in turn under these rules.
fn seen(fixture: &Fixture, rules: Value) -> anyhow::Result<Vec<String>> {
    let mut bundle = fixture.bundle()?;
    for (path, kind, major, minor) in
        [("/dev/c61.1", "c", 61, 1), ("/dev/c61.2", "c", 61, 2), ("/dev/c60.1", "c", 60, 1), ("/dev/b61.1", "b", 61, 1)]
    {
        bundle.push("/linux/devices", json!({ "path": path, "type": kind, "major": major, "minor": minor }));
    }
    bundle.set("/linux/resources/devices", rules);
    fixture.attempts(&mut bundle, &["read /dev/c61.1", "read /dev/c61.2", "read /dev/c60.1", "read /dev/b61.1"])
}

fn expect(fixture: &Fixture, rules: Value, expected: [&str; 4]) -> anyhow::Result<()> {
    let found = seen(fixture, rules)?;
    ensure!(found == expected, "c 61:1, c 61:2, c 60:1, b 61:1: expected {expected:?}, found {found:?}");
    Ok(())
}

fn none() -> Value {
    json!({ "allow": false, "access": "rwm" })
}

fn allow_last(fixture: &Fixture) -> anyhow::Result<()> {
    let one = json!({ "allow": true, "type": "c", "major": 61, "minor": 1, "access": "rwm" });
    expect(fixture, json!([none(), one]), [YES, NO, NO, NO])
}

fn deny_last(fixture: &Fixture) -> anyhow::Result<()> {
    let one = json!({ "allow": true, "type": "c", "major": 61, "minor": 1, "access": "rwm" });
    expect(fixture, json!([one, none()]), [NO, NO, NO, NO])
}

fn wider() -> Value {
    let all = json!({ "allow": true, "type": "c", "major": 61, "access": "rwm" });
    json!([none(), all, { "allow": false, "type": "c", "major": 61, "minor": 2, "access": "rwm" }])
}

fn taken_out(fixture: &Fixture) -> anyhow::Result<()> {
    expect(fixture, wider(), [YES, NO, NO, NO])
}

/// The devices controller of v1 has a list of exceptions, which cannot express this: a runtime that cannot keep the
/// order must deny the device.
fn expressed(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/devices", wider()).write()?;
    bundle.push("/linux/devices", json!({ "path": "/dev/two", "type": "c", "major": 61, "minor": 2 }));
    bundle.args(&["/probe", "try", "read", "/dev/two"]);
    let done = fixture.run(&bundle)?;
    if done.code != 0 {
        return done.refused().map(drop);
    }
    ensure!(done.stdout.trim() == NO, "c 61:2: expected a refusal of the rules, or EPERM, found {}", done.stdout);
    Ok(())
}

fn without_type(fixture: &Fixture) -> anyhow::Result<()> {
    expect(fixture, json!([none(), { "allow": true, "access": "rwm" }]), [YES, YES, YES, YES])
}

fn type_a(fixture: &Fixture) -> anyhow::Result<()> {
    expect(fixture, json!([none(), { "allow": true, "type": "a", "access": "rwm" }]), [YES, YES, YES, YES])
}

fn type_c(fixture: &Fixture) -> anyhow::Result<()> {
    let rule = json!({ "allow": true, "type": "c", "major": 61, "minor": 1, "access": "rwm" });
    expect(fixture, json!([none(), rule]), [YES, NO, NO, NO])
}

fn type_b(fixture: &Fixture) -> anyhow::Result<()> {
    let rule = json!({ "allow": true, "type": "b", "major": 61, "minor": 1, "access": "rwm" });
    expect(fixture, json!([none(), rule]), [NO, NO, NO, YES])
}

fn every_minor(fixture: &Fixture) -> anyhow::Result<()> {
    expect(fixture, json!([none(), { "allow": true, "type": "c", "major": 61, "access": "rwm" }]), [YES, YES, NO, NO])
}

fn every_major(fixture: &Fixture) -> anyhow::Result<()> {
    expect(fixture, json!([none(), { "allow": true, "type": "c", "minor": 1, "access": "rwm" }]), [YES, NO, YES, NO])
}

/// The results of reading, writing and creating a device to which this access is granted.
fn access(fixture: &Fixture, access: &str, expected: [&str; 2]) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/linux/devices", json!({ "path": "/dev/spec", "type": "c", "major": 61, "minor": 1 }));
    let rule = json!({ "allow": true, "type": "c", "major": 61, "minor": 1, "access": access });
    bundle.set("/linux/resources/devices", json!([none(), rule]));
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_MKNOD"));
    }
    let found = fixture.attempts(&mut bundle, &["read /dev/spec", "write /dev/spec x", "mknod /dev/made c 61 1"])?;
    // Callers of runc may make any device, which says nothing of its use.
    ensure!(!access.contains('m') || found[2] == "ok", "mknod with {access:?}: expected success, found {found:?}");
    ensure!(found[..2] == expected, "read, write with {access:?}: expected {expected:?}, found {found:?}");
    Ok(())
}

fn unknown_type(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let rule = json!({ "allow": true, "type": "q", "major": 61, "minor": 1, "access": "r" });
    fixture.refused(bundle.set("/linux/resources/devices", json!([none(), rule]))).map(drop)
}

fn in_exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    for minor in [1, 2] {
        let path = format!("/dev/spec{minor}");
        bundle.push("/linux/devices", json!({ "path": path, "type": "c", "major": 61, "minor": minor }));
    }
    let rule = json!({ "allow": true, "type": "c", "major": 61, "minor": 1, "access": "rw" });
    let container = fixture.start(bundle.set("/linux/resources/devices", json!([none(), rule])))?;
    let found = container.attempts(&["read /dev/spec1", "read /dev/spec2"])?;
    ensure!(found == [YES, NO], "c 61:1 and c 61:2 in exec: expected [{YES}, {NO}], found {found:?}");
    Ok(())
}
