//! Device nodes of the host that a container can reach: no process in it can change their inodes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::without_mounts;
use crate::harness::{Bundle, Case, Container, Fixture, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// By what reaches the container.
pub const CASES: &[Case] = &[
    case("a masked file is no node of the host whose inode can be changed", "host nodes", masked),
    case("two masked files are no nodes of the host whose inodes can be changed", "host nodes", two_masked),
    case("default devices are no nodes of the host whose inodes can be changed", "host nodes", devices),
    case(
        "devices of a runtime without CAP_MKNOD are no nodes of the host whose inodes can be changed",
        "host nodes",
        bound,
    ),
    case("standard streams of init are no nodes of the host whose inodes can be changed", "host nodes", init_streams),
    case("standard streams of exec are no nodes of the host whose inodes can be changed", "host nodes", exec_streams),
    case(
        "standard streams of exec are no nodes of the host, whatever its user and capabilities",
        "host nodes",
        exec_variants,
    ),
    case(
        "standard streams without /dev/null in the container are no nodes of the host whose inodes can be changed",
        "host nodes",
        streams_without_null,
    ),
    case("memory devices as streams are no nodes of the host whose inodes can be changed", "host nodes", |fixture| {
        memory_streams(fixture, privileged(fixture)?)
    }),
    case(
        "memory devices as streams of a container without devices are no nodes of the host whose inodes can be changed",
        "host nodes",
        |fixture| memory_streams(fixture, without_devices(fixture)?),
    ),
];

/// Checks that `seen`, a path below /proc/PID that leads through the container's own mount, is another node than the
/// host's at `host`, or lies on a read-only mount.
fn cannot_be_changed(seen: &str, host: &str) -> anyhow::Result<()> {
    let (found, theirs) = (fs::metadata(seen).with_context(|| seen.to_owned())?, fs::metadata(host)?);
    if (found.dev(), found.ino()) != (theirs.dev(), theirs.ino()) {
        return Ok(());
    }
    let flags = statvfs(seen)?.flags();
    ensure!(flags.contains(FsFlags::ST_RDONLY), "{seen} is the host's {host}, on a mount with {flags:?}");
    Ok(())
}

/// Root in the container, with every right over files, and no user namespace.
pub(super) fn privileged(fixture: &Fixture) -> anyhow::Result<Bundle> {
    let mut bundle = fixture.bundle()?;
    let capabilities = serde_json::json!(["CAP_CHOWN", "CAP_FOWNER", "CAP_DAC_OVERRIDE"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), capabilities.clone());
    }
    Ok(bundle)
}

/// Has a process of the container give each path the owner and mode that it has already, which has to fail with EROFS
/// where the inode is the host's.
fn attempt(container: &Container, paths: &[&str]) -> anyhow::Result<()> {
    let host = fs::metadata("/dev/null")?;
    let operations: Vec<String> = paths.iter().map(|path| format!("rewrite-inode {path}")).collect();
    let operations: Vec<&str> = operations.iter().map(String::as_str).collect();
    let theirs = format!("ok {}:{} ", host.dev(), host.ino());
    for (line, path) in container.attempts(&operations)?.iter().zip(paths) {
        let Some(outcome) = line.strip_prefix(&theirs) else { continue };
        ensure!(outcome == "EROFS EROFS", "{path} is the host's /dev/null; chown and chmod: {outcome}");
    }
    Ok(())
}

fn masked(fixture: &Fixture) -> anyhow::Result<()> {
    masks(fixture, &["/masked"])
}

/// Later masks are copies of the first.
fn two_masked(fixture: &Fixture) -> anyhow::Result<()> {
    masks(fixture, &["/masked", "/masked2", "/proc/keys"])
}

fn masks(fixture: &Fixture, paths: &[&str]) -> anyhow::Result<()> {
    let mut bundle = privileged(fixture)?;
    for path in paths.iter().filter(|path| !path.starts_with("/proc")) {
        fs::write(bundle.rootfs(path), "of the image")?;
    }
    bundle.set("/linux/maskedPaths", serde_json::json!(paths));
    let container = fixture.start(&mut bundle)?;
    for path in paths {
        let seen = container.proc(&format!("root{path}"));
        if Path::new(&seen).exists() {
            cannot_be_changed(&seen, "/dev/null")?;
        }
    }
    attempt(&container, paths)
}

pub(super) const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];

fn devices(fixture: &Fixture) -> anyhow::Result<()> {
    let container = fixture.start(&mut privileged(fixture)?)?;
    for path in DEVICES {
        cannot_be_changed(&container.proc(&format!("root{path}")), path)?;
    }
    attempt(&container, &["/dev/null"])
}

/// Creates a container by a runtime to which mknod(2) is refused: it has the host's nodes alone. `None` if it refuses.
pub(super) fn create_without_mknod<'a>(fixture: &'a Fixture, bundle: &Bundle) -> anyhow::Result<Option<Container<'a>>> {
    bundle.write()?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    let words =
        ["create", "--bundle", &*bundle.path().to_string_lossy(), "--pid-file", &*pid_file.to_string_lossy(), &id];
    let done = fixture.call_after("set -- setpriv --bounding-set -mknod \"$@\"", &words)?;
    if super::unless_refused(done)?.is_none() {
        return Ok(None);
    }
    fixture.container(&id, fs::read_to_string(&pid_file)?.trim().parse()?).map(Some)
}

fn bound(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = privileged(fixture)?;
    let Some(container) = create_without_mknod(fixture, bundle.args(&["/probe", "wait"]))? else { return Ok(()) };
    for path in DEVICES {
        cannot_be_changed(&container.proc(&format!("root{path}")), path)?;
    }
    Ok(())
}

fn streams(pid: i32) -> anyhow::Result<()> {
    (0..3).try_for_each(|number| cannot_be_changed(&format!("/proc/{pid}/fd/{number}"), "/dev/null"))
}

/// The harness gives every runtime /dev/null as standard input.
fn init_streams(fixture: &Fixture) -> anyhow::Result<()> {
    let container = fixture.start(&mut privileged(fixture)?)?;
    streams(container.pid())?;
    attempt(&container, &["/proc/1/fd/0"])
}

/// Starts an exec in the background whose streams and fd 3 are all /dev/null, and returns its pid.
fn exec_in_background(fixture: &Fixture, container: &Container, flags: &[&str]) -> anyhow::Result<i32> {
    let pid_file = fixture.directory().join("exec.pid");
    let pid_path = pid_file.to_string_lossy();
    let words = [&["exec", "--detach", "--pid-file", &*pid_path], flags, &[container.id(), "/probe", "wait"]].concat();
    fixture.call_after("exec >/dev/null 2>&1 3</dev/null", &words)?.ok()?;
    Ok(fs::read_to_string(&pid_file)?.trim().parse()?)
}

fn exec_streams(fixture: &Fixture) -> anyhow::Result<()> {
    let container = fixture.start(&mut privileged(fixture)?)?;
    streams(exec_in_background(fixture, &container, &[])?)?;
    // In the foreground the probe itself tries.
    attempt(&container, &["/proc/self/fd/0"])
}

fn exec_variants(fixture: &Fixture) -> anyhow::Result<()> {
    let container = fixture.start(&mut privileged(fixture)?)?;
    for flags in [&["--user", "0:0", "--cwd", "/"][..], &["--user", "1000"], &["--cap", "CAP_FOWNER"]] {
        streams(exec_in_background(fixture, &container, flags)?)?;
    }
    let preserving = exec_in_background(fixture, &container, &["--preserve-fds", "1"])?;
    cannot_be_changed(&format!("/proc/{preserving}/fd/3"), "/dev/null")
}

/// With a directory bound to /dev, nothing is made in it.
pub(super) fn without_devices(fixture: &Fixture) -> anyhow::Result<Bundle> {
    let empty = fixture.directory().join("dev");
    fs::create_dir(&empty)?;
    let mut bundle = privileged(fixture)?;
    without_mounts(&mut bundle, "/dev");
    bundle.mount("/dev", "bind", &empty.to_string_lossy(), &["bind"]);
    bundle.set("/linux/maskedPaths", serde_json::json!([]));
    Ok(bundle)
}

/// Init and an exec in the background, whose streams and fd 3 are four memory devices of the host.
fn memory_streams(fixture: &Fixture, mut bundle: Bundle) -> anyhow::Result<()> {
    const STREAMS: [&str; 4] = ["/dev/zero", "/dev/full", "/dev/urandom", "/dev/random"];
    bundle.args(&["/probe", "wait"]).write()?;
    let (id, path) = (fixture.id(), bundle.path().to_string_lossy().into_owned());
    let handed_over = |words: &[&str]| -> anyhow::Result<()> {
        let pid_file = fixture.directory().join("streams.pid");
        let pid_path = pid_file.to_string_lossy();
        let words = [&words[..1], &["--pid-file", &*pid_path, "--preserve-fds", "1"], &words[1..]].concat();
        fixture.call_after("exec </dev/zero >/dev/full 2>/dev/urandom 3</dev/random", &words)?.ok()?;
        let pid: i32 = fs::read_to_string(&pid_file)?.trim().parse()?;
        for (number, device) in STREAMS.iter().enumerate() {
            let seen = format!("/proc/{pid}/fd/{number}");
            ensure!(fs::metadata(&seen)?.rdev() == fs::metadata(device)?.rdev(), "{seen} is not {device}");
            cannot_be_changed(&seen, device)?;
        }
        Ok(())
    };
    handed_over(&["create", "--bundle", &path, &id])?;
    fixture.call(&["start", &id])?.ok()?;
    handed_over(&["exec", "--detach", &id, "/probe", "wait"])
}

fn streams_without_null(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = without_devices(fixture)?;
    let container = match fixture.start(&mut bundle) {
        Ok(container) => container,
        // A container without a null device need not be possible.
        Err(error) if error.to_string().contains("/dev/null") => return Ok(()),
        Err(error) => return Err(error),
    };
    ensure!(!Path::new(&container.proc("root/dev/null")).exists(), "the bound /dev has a null device");
    streams(container.pid())?;
    streams(exec_in_background(fixture, &container, &[])?)?;
    attempt(&container, &["/proc/self/fd/0", "/proc/1/fd/0"])
}
