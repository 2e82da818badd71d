//! config-linux.md: Rootfs Mount Propagation, Masked Paths, Readonly Paths, Mount Label.

use std::fs;
use std::path::Path;

use anyhow::ensure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use crate::facts::Mount;
use crate::harness::{Bundle, Case, Fixture, Level, Need};

const PROPAGATION: &str = "config-linux.md#rootfs-mount-propagation";
const MASKED: &str = "config-linux.md#masked-paths";
const READONLY: &str = "config-linux.md#readonly-paths";
const LABEL: &str = "config-linux.md#mount-label";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("rootfsPropagation shared makes a peer group of the root", PROPAGATION, Level::Must, shared),
    Case::new("a shared root is no peer of the host's", PROPAGATION, Level::Must, shared_is_not_the_hosts),
    Case::new("rootfsPropagation slave receives mounts of the host", PROPAGATION, Level::Must, slave),
    Case::new("rootfsPropagation slave sends no mounts to the host", PROPAGATION, Level::Must, slave_sends_nothing),
    Case::new("rootfsPropagation private receives no mounts of the host", PROPAGATION, Level::Must, private),
    Case::new(
        "rootfsPropagation unbindable is a private root that cannot be bound",
        PROPAGATION,
        Level::Must,
        unbindable,
    ),
    Case::new("a rootfsPropagation that is not known is refused", PROPAGATION, Level::Must, unknown),
    Case::new("a masked file cannot be read", MASKED, Level::Must, masked_file),
    Case::new("a masked directory is empty and cannot be written", MASKED, Level::Must, masked_directory),
    Case::new("a masked path that is not there is no error", MASKED, Level::Runc, masked_missing),
    Case::new("a masked path in /proc cannot be read", MASKED, Level::Must, masked_proc),
    Case::new("a masked path stays masked for exec", MASKED, Level::Must, masked_in_exec),
    Case::new("a relative masked path is refused or masks the root's", MASKED, Level::Must, masked_relative),
    Case::new("a read-only file cannot be written", READONLY, Level::Must, readonly_file),
    Case::new("a read-only directory cannot be written, with all below it", READONLY, Level::Must, readonly_directory),
    Case::new("mounts below a read-only path cannot be written", READONLY, Level::Must, readonly_below),
    Case::new("a read-only path that is not there is no error", READONLY, Level::Runc, readonly_missing),
    Case::new("a read-only path keeps the other flags of its mount", READONLY, Level::Must, readonly_flags),
    Case::new("a read-only path in /proc cannot be written", READONLY, Level::Must, readonly_proc),
    Case::new("masked and read-only paths are effective in a user namespace", MASKED, Level::Must, in_user_namespace),
    Case::new("mountLabel is the context of mounts that can have one", LABEL, Level::Must, label).on(&[Need::Selinux]),
];

/// A bundle whose root file system is a mount of its own, shared, as on a host whose mounts are all shared.
struct SharedRoot(Bundle);

impl SharedRoot {
    fn make(fixture: &Fixture, propagation: &str) -> anyhow::Result<SharedRoot> {
        let mut bundle = fixture.bundle()?;
        bundle.set("/linux/rootfsPropagation", json!(propagation)).args(&["/probe", "wait"]);
        fs::create_dir(bundle.rootfs("/late"))?;
        let root = bundle.rootfs("/");
        mount(Some(&root), &root, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        let shared = SharedRoot(bundle);
        mount(None::<&str>, &root, None::<&str>, MsFlags::MS_SHARED, None::<&str>)?;
        Ok(shared)
    }
}

impl Drop for SharedRoot {
    fn drop(&mut self) {
        // The search for leaks reports a mount that stays.
        let _ = umount2(&self.0.rootfs("/"), MntFlags::MNT_DETACH);
    }
}

fn root_of(fixture: &Fixture, propagation: &str) -> anyhow::Result<Mount> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/linux/rootfsPropagation", json!(propagation)))?;
    Ok(facts.mount("/")?.clone())
}

fn shared(fixture: &Fixture) -> anyhow::Result<()> {
    let found = root_of(fixture, "shared")?.propagation;
    ensure!(found.iter().any(|word| word.starts_with("shared:")), "expected a shared root, found {found:?}");
    Ok(())
}

fn shared_is_not_the_hosts(fixture: &Fixture) -> anyhow::Result<()> {
    let group = |mounts: &str, point: &str| {
        let of = |line: &str| line.split(' ').nth(4) == Some(point);
        let line = mounts.lines().rev().find(|line| of(line)).unwrap_or_default().to_owned();
        line.split(' ').find(|word| word.starts_with("shared:")).map(str::to_owned)
    };
    let bundle = fixture.bundle()?;
    let mut bundle = bundle;
    let container = fixture.start(bundle.set("/linux/rootfsPropagation", json!("shared")))?;
    let inside = fs::read_to_string(container.proc("mountinfo"))?;
    let found = group(&inside, "/");
    let host = fs::read_to_string("/proc/1/mountinfo")?;
    let is_hosts = found.as_ref().is_some_and(|word| host.split_whitespace().any(|one| one == word));
    ensure!(found.is_some() && !is_hosts, "the root's peer group: expected one of its own, found {found:?}");
    Ok(())
}

/// Whether a mount that the host makes on the bundle's /late after the start is seen inside.
fn receives(fixture: &Fixture, propagation: &str) -> anyhow::Result<bool> {
    let shared = SharedRoot::make(fixture, propagation)?;
    let container = fixture.create(&shared.0)?;
    container.start()?;
    let place = shared.0.rootfs("/late");
    mount(Some("late"), &place, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
    let marked = fs::write(place.join("mark"), "");
    let found = container.attempts(&["list /late"]);
    umount2(&place, MntFlags::MNT_DETACH)?;
    marked?;
    container.call_with_flags("delete", &["--force"])?.ok()?;
    Ok(found? == ["ok mark"])
}

fn slave(fixture: &Fixture) -> anyhow::Result<()> {
    let root = receives(fixture, "slave")?;
    ensure!(root, "a mount of the host: expected to see it in the container");
    Ok(())
}

fn slave_sends_nothing(fixture: &Fixture) -> anyhow::Result<()> {
    let shared = SharedRoot::make(fixture, "slave")?;
    let mut bundle = fixture.bundle()?;
    bundle.config = shared.0.config.clone();
    for set in ["bounding", "effective", "permitted"] {
        bundle.push(&format!("/process/capabilities/{set}"), json!("CAP_SYS_ADMIN"));
    }
    bundle.set("/root/path", json!(shared.0.rootfs("/")));
    let container = fixture.create(&bundle)?;
    container.start()?;
    let made = container.attempts(&["mount tmpfs /late", "create /late/mark"])?;
    ensure!(made == ["ok", "ok"], "mounting in the container: expected success, found {made:?}");
    let seen = shared.0.rootfs("/late/mark").exists();
    container.call_with_flags("delete", &["--force"])?.ok()?;
    ensure!(!seen, "a mount of the container is seen on the host");
    Ok(())
}

fn private(fixture: &Fixture) -> anyhow::Result<()> {
    let found = root_of(fixture, "private")?.propagation;
    ensure!(found.is_empty(), "expected a private root, found {found:?}");
    ensure!(!receives(fixture, "private")?, "a mount of the host was seen in the container");
    Ok(())
}

fn unbindable(fixture: &Fixture) -> anyhow::Result<()> {
    let found = root_of(fixture, "unbindable")?.propagation;
    ensure!(found == ["unbindable"], "expected an unbindable root, found {found:?}");
    Ok(())
}

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/linux/rootfsPropagation", json!("sideways"))).map(drop)
}

fn image(fixture: &Fixture) -> anyhow::Result<Bundle> {
    let bundle = fixture.bundle()?;
    fs::create_dir_all(bundle.rootfs("/secret/deep"))?;
    fs::write(bundle.rootfs("/secret/file"), "of the image")?;
    fs::write(bundle.rootfs("/secret/deep/file"), "of the image")?;
    Ok(bundle)
}

fn masked_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.set("/linux/maskedPaths", json!(["/secret/file"]));
    let found = fixture.attempts(&mut bundle, &["read /secret/file", "read /secret/deep/file"])?;
    ensure!(found[0] == "ok" || found[0] == "EACCES", "the masked file: expected nothing to read, found {found:?}");
    ensure!(found[1] == "ok of the image", "its neighbour: expected what the image has, found {found:?}");
    let kept = fs::read_to_string(bundle.rootfs("/secret/file"))?;
    ensure!(kept == "of the image", "the image's file was changed: {kept:?}");
    Ok(())
}

fn masked_directory(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.set("/linux/maskedPaths", json!(["/secret"]));
    let found = fixture.attempts(&mut bundle, &["list /secret", "read /secret/file", "create /secret/new"])?;
    ensure!(found == ["ok", "ENOENT", "EROFS"], "list, read, create: expected nothing, ENOENT, EROFS, found {found:?}");
    Ok(())
}

fn masked_missing(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/linux/maskedPaths", json!(["/proc/nothing", "/nowhere"])))?;
    ensure!(!bundle.rootfs("/nowhere").exists(), "a masked path was made");
    ensure!(facts.mount("/nowhere").is_err(), "something is mounted at a path that was not there");
    Ok(())
}

fn masked_proc(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/maskedPaths", json!(["/proc/meminfo", "/proc/driver"]));
    let found = fixture.attempts(&mut bundle, &["read /proc/meminfo", "list /proc/driver"])?;
    let is_hidden = |line: &str| line == "ok" || line == "EACCES" || line == "ENOENT";
    ensure!(found.iter().all(|line| is_hidden(line)), "masked paths of /proc: expected nothing, found {found:?}");
    Ok(())
}

fn masked_in_exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.set("/linux/maskedPaths", json!(["/secret/file", "/secret/deep"]));
    let container = fixture.start(&mut bundle)?;
    let found = container.attempts(&["read /secret/file", "list /secret/deep", "umount /secret/file"])?;
    ensure!(found == ["ok", "ok", "EPERM"], "read, list, umount: expected nothing, nothing, EPERM, found {found:?}");
    Ok(())
}

fn masked_relative(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.set("/linux/maskedPaths", json!(["secret/file"])).args(&["/probe", "try", "read", "/secret/file"]);
    let done = fixture.run(&bundle)?;
    if done.code != 0 {
        return done.refused().map(drop);
    }
    ensure!(done.stdout.trim() == "ok", "expected a refusal or a masked /secret/file, found {}", done.stdout);
    Ok(())
}

fn readonly_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.set("/linux/readonlyPaths", json!(["/secret/file"]));
    let found =
        fixture.attempts(&mut bundle, &["write /secret/file x", "read /secret/file", "write /secret/deep/file x"])?;
    let expected = ["EROFS", "ok of the image", "ok"];
    ensure!(found == expected, "write, read, write a neighbour: expected {expected:?}, found {found:?}");
    Ok(())
}

fn readonly_directory(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.set("/linux/readonlyPaths", json!(["/secret"]));
    let tried = ["create /secret/new", "write /secret/deep/file x", "remove /secret/file", "read /secret/file"];
    let found = fixture.attempts(&mut bundle, &tried)?;
    ensure!(found == ["EROFS", "EROFS", "EROFS", "ok of the image"], "{tried:?}: found {found:?}");
    Ok(())
}

fn readonly_below(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.mount("/secret/deep", "tmpfs", "tmpfs", &["rw"]).set("/linux/readonlyPaths", json!(["/secret"]));
    let found = fixture.attempts(&mut bundle, &["create /secret/new", "list /secret/deep"])?;
    ensure!(found == ["EROFS", "ok"], "create in it, list a mount below: expected EROFS and nothing, found {found:?}");
    Ok(())
}

fn readonly_missing(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.facts(bundle.set("/linux/readonlyPaths", json!(["/proc/nothing", "/nowhere"])))?;
    ensure!(!bundle.rootfs("/nowhere").exists(), "a read-only path was made");
    Ok(())
}

fn readonly_flags(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/linux/readonlyPaths", json!(["/proc/sys"])))?;
    let found = &facts.mount("/proc/sys")?.options;
    for option in ["ro", "nosuid", "noexec", "nodev"] {
        ensure!(found.iter().any(|one| one == option), "/proc/sys: expected {option} as /proc has it, found {found:?}");
    }
    Ok(())
}

fn readonly_proc(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/readonlyPaths", json!(["/proc/sys"]));
    let found = fixture.attempts(&mut bundle, &["write /proc/sys/kernel/domainname x", "remount /proc/sys"])?;
    ensure!(found == ["EROFS", "EPERM"], "write, remount: expected EROFS and EPERM, found {found:?}");
    Ok(())
}

fn in_user_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = image(fixture)?;
    bundle.user_namespace(100_000, 65536)?;
    bundle.set("/linux/maskedPaths", json!(["/secret/deep", "/proc/meminfo"]));
    bundle.set("/linux/readonlyPaths", json!(["/secret/file"]));
    let tried = ["list /secret/deep", "read /proc/meminfo", "write /secret/file x", "umount /secret/deep"];
    let found = fixture.attempts(&mut bundle, &tried)?;
    ensure!(found == ["ok", "ok", "EROFS", "EPERM"], "{tried:?}: found {found:?}");
    Ok(())
}

fn label(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let expected = "system_u:object_r:container_file_t:s0:c1,c2";
    let facts = fixture.facts(bundle.set("/linux/mountLabel", json!(expected)))?;
    for point in ["/dev", "/dev/shm"] {
        let found = facts.mount(point)?.super_options.join(",");
        ensure!(found.contains(expected), "{point}: expected the context {expected}, found {found}");
    }
    ensure!(Path::new("/sys/fs/selinux/enforce").exists(), "SELinux went away");
    Ok(())
}
