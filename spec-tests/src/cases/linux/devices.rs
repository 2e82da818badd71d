//! config-linux.md, Devices and Default Devices.

use std::fs;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::facts::Node;
use crate::harness::{Bundle, Case, Fixture, Level};

const SECTION: &str = "config-linux.md#devices";
const DEFAULTS: &str = "config-linux.md#default-devices";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a character device is available", SECTION, Level::Must, |fixture| available(fixture, "c")),
    Case::new("a block device is available", SECTION, Level::Must, |fixture| available(fixture, "b")),
    Case::new("a device of type u is a character device", SECTION, Level::Must, |fixture| available(fixture, "u")),
    Case::new("a device of type p is a fifo, without numbers", SECTION, Level::Must, fifo),
    Case::new("a device may be anywhere in the container", SECTION, Level::Must, anywhere),
    Case::new("directories on the way to a device are made", SECTION, Level::Must, deep),
    Case::new("a file at a device's path that is no such device is refused", SECTION, Level::Must, other_file),
    Case::new("another device at a device's path is refused", SECTION, Level::Must, other_device),
    Case::new("the same device at a device's path is no error", SECTION, Level::Must, same_device),
    Case::new("a device of a type that is not known is refused", SECTION, Level::Must, unknown_type),
    Case::new("fileMode, uid and gid are the device's", SECTION, Level::Must, mode_and_owner),
    Case::new("fileMode is kept whatever the umask is", SECTION, Level::Must, umask),
    Case::new("a configured device may take the place of a default one", SECTION, Level::Must, instead_of_default),
    Case::new("a device is available in a user namespace", SECTION, Level::Must, in_user_namespace),
    Case::new("a device that is not in the configuration is not in /dev", SECTION, Level::Must, no_other),
    Case::new(
        "a device of the image that is not in the configuration cannot be opened",
        SECTION,
        Level::Must,
        of_image,
    ),
    Case::new("the default devices are there and anyone may use them", DEFAULTS, Level::Must, defaults),
    Case::new("the default devices are there without a mount at /dev", DEFAULTS, Level::Must, defaults_without_mount),
    Case::new("the default devices are there in a user namespace", DEFAULTS, Level::Must, defaults_in_user_namespace),
    Case::new("the default devices can be used whatever the allowed device list says", DEFAULTS, Level::Must, usable),
    Case::new("/dev/ptmx is that of the container's devpts", DEFAULTS, Level::Must, ptmx),
    Case::new("without a terminal there is no /dev/console", DEFAULTS, Level::Must, no_console),
];

/// A device without a driver (60 to 63 are for local use): an open fails, and does no harm.
fn device(path: &str, kind: &str) -> Value {
    json!({ "path": path, "type": kind, "major": 61, "minor": 7, "fileMode": 0o640, "uid": 3, "gid": 4 })
}

fn expect(node: &Node, kind: char, major: u64, minor: u64) -> anyhow::Result<()> {
    let found = (node.kind, node.major, node.minor);
    ensure!(found == (kind, major, minor), "expected {kind} {major}:{minor}, found {node:?}");
    Ok(())
}

fn available(fixture: &Fixture, kind: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.push("/linux/devices", device("/dev/spec", kind)))?;
    expect(facts.device("/dev/spec")?, if kind == "b" { 'b' } else { 'c' }, 61, 7)
}

fn fifo(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let fifo = json!({ "path": "/dev/spec", "type": "p", "fileMode": 0o622, "uid": 3, "gid": 4 });
    let facts = fixture.facts(bundle.push("/linux/devices", fifo))?;
    let found = facts.device("/dev/spec")?;
    let is_right = (found.kind, found.mode, found.uid, found.gid) == ('p', 0o622, 3, 4);
    ensure!(is_right, "expected a fifo of mode 622 and owner 3:4, found {found:?}");
    Ok(())
}

/// The output of `probe try stat` for the device of these cases: 0o020640 in octal, and the owner.
const STATUS: &str = "ok 20640 3:4 0";

fn anywhere(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/linux/devices", device("/etc/spec", "c"));
    let found = fixture.attempts(&mut bundle, &["stat /etc/spec"])?;
    ensure!(found == [STATUS], "expected a character device of mode 640, {STATUS}, found {found:?}");
    Ok(())
}

fn deep(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/linux/devices", device("/dev/a/b/spec", "c"));
    let found = fixture.attempts(&mut bundle, &["stat /dev/a/b/spec"])?;
    ensure!(found == [STATUS], "expected a character device of mode 640, {STATUS}, found {found:?}");
    Ok(())
}

fn other_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/etc/spec"), "a file")?;
    fixture.refused(bundle.push("/linux/devices", device("/etc/spec", "c"))).map(drop)
}

fn mknod(bundle: &Bundle, path: &str, minor: u64) -> anyhow::Result<()> {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let (kind, mode) = (SFlag::S_IFCHR, Mode::from_bits_truncate(0o666));
    Ok(mknod(&bundle.rootfs(path), kind, mode, makedev(61, minor))?)
}

fn other_device(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    mknod(&bundle, "/etc/spec", 8)?;
    fixture.refused(bundle.push("/linux/devices", device("/etc/spec", "c"))).map(drop)
}

fn same_device(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    mknod(&bundle, "/etc/spec", 7)?;
    fixture.run(bundle.push("/linux/devices", device("/etc/spec", "c")))?.ok().map(drop)
}

fn unknown_type(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.push("/linux/devices", device("/dev/spec", "x"))).map(drop)
}

fn expect_mode(node: &Node, mode: u32, uid: u32, gid: u32) -> anyhow::Result<()> {
    let found = (node.mode, node.uid, node.gid);
    ensure!(found == (mode, uid, gid), "expected mode {mode:o} and owner {uid}:{gid}, found {:o} {node:?}", node.mode);
    Ok(())
}

fn mode_and_owner(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.push("/linux/devices", device("/dev/spec", "c")))?;
    expect_mode(facts.device("/dev/spec")?, 0o640, 3, 4)
}

fn umask(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut wide = device("/dev/spec", "c");
    wide["fileMode"] = json!(0o666);
    bundle.push("/linux/devices", wide).set("/process/user/umask", json!(0o077)).write()?;
    let id = fixture.id();
    let runtime = fixture.command(&["run", "--bundle", &bundle.path().to_string_lossy(), &id]);
    let mut words = vec!["-c", "umask 077; exec \"$@\"", "sh"];
    let program: Vec<String> = std::iter::once(runtime.get_program())
        .chain(runtime.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.extend(program.iter().map(String::as_str));
    let facts = crate::facts::Facts::parse(&fixture.tool("sh", &words)?.ok()?.stdout)?;
    expect_mode(facts.device("/dev/spec")?, 0o666, 3, 4)?;
    expect_mode(facts.device("/dev/null")?, 0o666, 0, 0)
}

fn instead_of_default(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let null =
        json!({ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 7, "gid": 8 });
    let facts = fixture.facts(bundle.push("/linux/devices", null))?;
    expect(facts.device("/dev/null")?, 'c', 1, 3)?;
    expect_mode(facts.device("/dev/null")?, 0o666, 7, 8)
}

fn in_user_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?;
    // The host's own node, because no process of a user namespace can create one.
    let kmsg = json!({ "path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11 });
    let facts = fixture.facts(bundle.push("/linux/devices", kmsg))?;
    expect(facts.device("/dev/kmsg")?, 'c', 1, 11)
}

const DEFAULT: &[(&str, u64, u64)] = &[
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

fn no_other(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = fixture.facts(&fixture.bundle()?)?;
    let is_known = |path: &str| {
        path == "/dev/ptmx" || path.starts_with("/dev/pts/") || DEFAULT.iter().any(|(known, ..)| *known == path)
    };
    let others: Vec<_> =
        facts.devices.iter().filter(|(path, node)| matches!(node.kind, 'c' | 'b') && !is_known(path)).collect();
    ensure!(others.is_empty(), "expected only the default devices, found also {others:?}");
    Ok(())
}

fn of_image(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    mknod(&bundle, "/etc/spec", 8)?;
    // Without a driver, a permitted open fails with ENXIO.
    let found = fixture.attempts(&mut bundle, &["read /etc/spec", "write /etc/spec x"])?;
    ensure!(found == ["EPERM", "EPERM"], "opening a device of the image: expected EPERM twice, found {found:?}");
    Ok(())
}

fn expect_defaults(fixture: &Fixture, bundle: &Bundle) -> anyhow::Result<()> {
    let facts = fixture.facts(bundle)?;
    for &(path, major, minor) in DEFAULT {
        let node = facts.device(path)?;
        expect(node, 'c', major, minor)?;
        ensure!(node.mode & 0o666 == 0o666, "{path}: expected that anyone may use it, found mode {:o}", node.mode);
    }
    Ok(())
}

fn defaults(fixture: &Fixture) -> anyhow::Result<()> {
    expect_defaults(fixture, &fixture.bundle()?)
}

fn defaults_without_mount(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.config["mounts"]
        .as_array_mut()
        .into_iter()
        .for_each(|mounts| mounts.retain(|mount| mount["destination"] != "/dev" && mount["destination"] != "/dev/shm"));
    fs::create_dir_all(bundle.rootfs("/dev/pts"))?;
    expect_defaults(fixture, &bundle)
}

fn defaults_in_user_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?;
    expect_defaults(fixture, &bundle)
}

fn usable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/resources/devices", json!([{ "allow": false, "access": "rwm" }]));
    let found = fixture
        .attempts(&mut bundle, &["write /dev/null x", "write /dev/full x", "read /dev/null", "read /dev/tty"])?;
    // No terminal is anybody's here: ENXIO comes from the driver, behind the allowed device list.
    let expected = ["ok", "ENOSPC", "ok", "ENXIO"];
    ensure!(found == expected, "null, full, null, tty: expected {expected:?}, found {found:?}");
    Ok(())
}

fn ptmx(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = fixture.facts(&fixture.bundle()?)?;
    let node = facts.device("/dev/ptmx")?;
    let is_link = node.link.as_deref().is_some_and(|link| link == "pts/ptmx" || link == "/dev/pts/ptmx");
    let is_bound = facts.mount("/dev/ptmx").is_ok_and(|mount| mount.kind == "devpts" && mount.root == "/ptmx");
    ensure!(is_link || is_bound, "expected a link to, or a bind of, /dev/pts/ptmx, found {node:?}");
    Ok(())
}

fn no_console(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = fixture.facts(&fixture.bundle()?)?;
    let found = facts.devices.get("/dev/console");
    ensure!(found.is_none(), "expected no /dev/console, found {found:?}");
    Ok(())
}
