//! Files that the runtime itself reads and writes, as root, where others may have been first.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::ensure;
use serde_json::json;

use super::{run_in_time, unless_refused};
use crate::facts::Facts;
use crate::harness::{Case, Done, Fixture, Level};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// In the order of their sections in data/requirements.
pub const CASES: &[Case] = &[
    case("a /etc/passwd that reads the kernel's log does not block the runtime", "files of the image", kernel_log),
    case("a /etc/passwd that is a file of procfs names no home", "files of the image", procfs_home),
    case("a file of procfs that is mounted at /etc/passwd names no user", "files of the image", procfs_user),
    case("a link planted beside a pid file is not written through", "pid files", planted_links),
    case("a link in the place of a pid file is replaced, not followed", "pid files", linked_pid_file),
];

/// By a link of the image, and by a mount: each read would wait for the host's next message, and take it away.
fn kernel_log(fixture: &Fixture) -> anyhow::Result<()> {
    for by_link in [true, false] {
        let mut bundle = fixture.bundle()?;
        if by_link {
            symlink("/proc/kmsg", bundle.rootfs("/etc/passwd"))?;
        } else {
            bundle.mount("/etc/passwd", "bind", "/proc/kmsg", &["bind", "ro"]);
        }
        if let Some(done) = unless_refused(run_in_time(fixture, &bundle)?)? {
            let home = Facts::parse(&done.stdout)?.env.get("HOME").cloned();
            ensure!(home.as_deref() == Some("/"), "HOME: expected the default, found {home:?}");
        }
    }
    Ok(())
}

/// The container's host name, which reads as a line of passwd(5).
const LINE: &str = "root:x:0:0::/from-procfs:/bin/sh";

fn procfs_home(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    symlink("/proc/sys/kernel/hostname", bundle.rootfs("/etc/passwd"))?;
    bundle.set("/hostname", json!(LINE));
    let home = |facts: &Facts| facts.env.get("HOME").cloned().unwrap_or_default();
    let found = home(&fixture.facts(&bundle)?);
    ensure!(found != "/from-procfs", "create: HOME was read from a file of procfs");
    let container = fixture.start(&mut bundle)?;
    let found = home(&container.exec_facts(&[])?);
    ensure!(found != "/from-procfs", "exec: HOME was read from a file of procfs");
    Ok(())
}

fn procfs_user(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let source = fixture.directory().join("source");
    fs::write(&source, "")?;
    // Over a regular file first, so that the mount is what is looked at.
    bundle.mount("/etc/passwd", "bind", &source.to_string_lossy(), &["bind"]);
    bundle.mount("/etc/passwd", "bind", "/proc/sys/kernel/hostname", &["bind", "ro"]);
    bundle.set("/hostname", json!("spec:x:4242:4242::/:/bin/sh"));
    let container = fixture.start(&mut bundle)?;
    let done = container.exec_with(&["--user", "spec"], &["/probe", "facts"])?;
    ensure!(done.code != 0, "a user of a file of procfs was taken: {}", done.stdout);
    Ok(())
}

/// How many pids ahead the links are planted.
const AHEAD: i32 = 3000;

/// The names that a temporary file beside `pid` may have if it can be foreseen, for each process to come.
fn plant(directory: &Path, victim: &Path) -> anyhow::Result<()> {
    let next = i32::try_from(
        std::process::Command::new("true").spawn().and_then(|mut child| child.wait().map(|_| child.id()))?,
    )?;
    for name in [".pid", "pid.tmp", ".pid.tmp", "pid~"] {
        symlink(victim, directory.join(name))?;
    }
    for pid in next..next + AHEAD {
        for name in [format!(".pid.{pid}"), format!("pid.{pid}"), format!(".pid-{pid}"), format!(".pid.{pid}.tmp")] {
            symlink(victim, directory.join(name))?;
        }
    }
    Ok(())
}

/// The attacker's directory has no sticky bit, so that the kernel's protected_symlinks does not help either.
fn planted_links(fixture: &Fixture) -> anyhow::Result<()> {
    let directory = fixture.directory().join("shared");
    let victim = fixture.directory().join("victim");
    fs::create_dir(&directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777))?;
    fs::write(&victim, "of the host")?;
    plant(&directory, &victim)?;
    let pid_file = directory.join("pid");
    let done = create(fixture, &pid_file)?;
    let text = fs::read_to_string(&victim)?;
    ensure!(text == "of the host", "a file of the host was written through a planted link: {text:?}");
    if unless_refused(done)?.is_some() {
        ensure!(fs::symlink_metadata(&pid_file)?.is_file(), "the pid file is no regular file");
    }
    Ok(())
}

fn create(fixture: &Fixture, pid_file: &Path) -> anyhow::Result<Done> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    let (pid_file, bundle) = (pid_file.to_string_lossy(), bundle.path().to_string_lossy());
    fixture.call(&["create", "--pid-file", &pid_file, "--bundle", &bundle, &fixture.id()])
}

fn linked_pid_file(fixture: &Fixture) -> anyhow::Result<()> {
    let (pid_file, victim) = (fixture.directory().join("pid"), fixture.directory().join("victim"));
    fs::write(&victim, "of the host")?;
    symlink(&victim, &pid_file)?;
    create(fixture, &pid_file)?.ok()?;
    let text = fs::read_to_string(&victim)?;
    ensure!(text == "of the host", "a file of the host was written through a link: {text:?}");
    ensure!(fs::symlink_metadata(&pid_file)?.is_file(), "the pid file is no regular file");
    Ok(())
}
