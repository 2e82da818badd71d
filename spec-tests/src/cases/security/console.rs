//! The mount at /dev/console is the terminal's own, whatever lies at /dev/pts and /dev/console.
//!
//! A runtime that binds the path /dev/pts/N over /dev/console binds what a neighbour has put there meanwhile: a link to
//! a file of /proc, writable, before masks and read-only paths are made.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Context, ensure};
use serde_json::json;

use super::{null_device, while_exchanged, without_mounts};
use crate::harness::{Bundle, Case, ConsoleSocket, Fixture, Level};

const SECTION: &str = "CVE-2025-52565";

/// A link that stands still, and one that does not.
pub const CASES: &[Case] = &[
    Case::new("a /dev/console of the image that is a link is not mounted on", SECTION, Level::Security, link),
    Case::new("a terminal's name that is swapped for a link is not mounted", SECTION, Level::Security, swapped),
];

/// So many containers are made while names are swapped.
const SWAPS: usize = 20;

/// The target of the attack. A write to it does no harm.
const WANTED: &str = "/proc/sys/kernel/domainname";

/// Creates the bundle with a terminal. Where that is not refused, no file of /proc may be mounted anywhere, and nothing
/// may be mounted on one. Gives what a runtime said that refused it.
fn attempt(fixture: &Fixture, bundle: &Bundle) -> anyhow::Result<Option<String>> {
    let socket = ConsoleSocket::listen(fixture)?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    let (path, pid_path) = (bundle.path().to_string_lossy().into_owned(), pid_file.to_string_lossy().into_owned());
    let console = socket.path().to_string_lossy().into_owned();
    let words = ["create", "--bundle", &path, "--pid-file", &pid_path, "--console-socket", &console, &id];
    let done = fixture.call(&words)?;
    if done.code != 0 {
        return done.refused().map(Some);
    }
    let pid = fs::read_to_string(&pid_file)?;
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", pid.trim())).context("init's mounts")?;
    fixture.call(&["delete", "--force", &id])?.ok()?;
    for line in mounts.lines() {
        let (place, kind) = line.split_once(" - ").context("a line of mountinfo")?;
        let mut words = place.split(' ').skip(3);
        let (root, point) = words.next().zip(words.next()).context("a line of mountinfo")?;
        let is_file_of_proc = kind.starts_with("proc ") && root != "/";
        ensure!(!is_file_of_proc && !point.starts_with("/proc/"), "expected no mount of or on a file of /proc: {line}");
    }
    Ok(None)
}

fn with_terminal(fixture: &Fixture) -> anyhow::Result<Bundle> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/terminal", json!(true)).args(&["/probe", "wait"]);
    without_mounts(&mut bundle, "/dev");
    Ok(bundle)
}

fn link(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = with_terminal(fixture)?;
    symlink(WANTED, bundle.rootfs("/dev/console"))?;
    bundle.write()?;
    attempt(fixture, &bundle)?;
    // And with a devpts of the container's own, as every engine has it.
    let mut bundle = with_terminal(fixture)?;
    symlink(WANTED, bundle.rootfs("/dev/console"))?;
    devpts(&mut bundle).write()?;
    attempt(fixture, &bundle).map(drop)
}

fn devpts(bundle: &mut Bundle) -> &mut Bundle {
    bundle.mount("/dev/pts", "devpts", "devpts", &["newinstance", "ptmxmode=0666", "mode=0620"])
}

/// /dev is a volume that a neighbour writes to: it swaps the directory that devpts is mounted on with one of links, and
/// the file that the terminal is mounted on with a link.
fn swapped(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = with_terminal(fixture)?;
    let volume = fixture.directory().join("volume");
    for directory in ["pts", "links"] {
        fs::create_dir_all(volume.join(directory))?;
    }
    for name in ["0", "1", "2"] {
        symlink(WANTED, volume.join("links").join(name))?;
    }
    fs::write(volume.join("console"), "")?;
    symlink(WANTED, volume.join("other"))?;
    symlink("pts/ptmx", volume.join("ptmx"))?;
    null_device(&volume.join("null"))?;
    bundle.mount("/dev", "bind", &volume.to_string_lossy(), &["rbind", "rw"]);
    devpts(&mut bundle).write()?;
    let refusal = attempt(fixture, &bundle)?;
    ensure!(refusal.is_none(), "expected a container while nothing is swapped, found {refusal:?}");
    let [pts, links, console, other] = ["pts", "links", "console", "other"].map(|name| volume.join(name));
    let (names, mount_points) = ((&*pts, &*links), (&*console, &*other));
    for pairs in [&[names][..], &[mount_points], &[names, mount_points]] {
        while_exchanged(pairs, || (0..SWAPS).try_for_each(|_| attempt(fixture, &bundle).map(drop)))?;
    }
    Ok(())
}
