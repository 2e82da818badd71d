//! config-linux.md, Control groups: the path, and the owner of the directory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use crate::harness::{Bundle, Case, Container, Fixture, Level, Need};

const GROUPS: &str = "config-linux.md#control-groups";
const PATH: &str = "config-linux.md#cgroups-path";
const OWNERSHIP: &str = "config-linux.md#cgroup-ownership";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a frozen cgroup is refused or thawed, and create returns", GROUPS, Level::Must, frozen),
    Case::new("an absolute cgroupsPath is relative to the mount of the cgroups", PATH, Level::Must, absolute),
    Case::new("a relative cgroupsPath leads to the same place each time", PATH, Level::Must, relative),
    Case::new("an absolute cgroupsPath leads to the same place each time", PATH, Level::Must, consistent),
    Case::new("a container without a cgroupsPath has a cgroup of its own", PATH, Level::Runc, without),
    Case::new("a missing cgroup is made with its parents", PATH, Level::Must, deep),
    Case::new("an existing cgroup is accepted", PATH, Level::Must, existing),
    Case::new("init is in its cgroup before its program runs", PATH, Level::Must, before_start),
    Case::new("exec is in the container's cgroup", PATH, Level::Must, exec),
    Case::new("the cgroup is gone after delete", PATH, Level::Runc, removed),
    Case::new("the owner of a cgroup of v1 stays", OWNERSHIP, Level::Should, v1).on(&[Need::CgroupV1]),
    Case::new("a writable cgroup belongs to the container's user", OWNERSHIP, Level::Should, delegated)
        .on(&[Need::CgroupV2]),
    Case::new("only the files for delegation belong to the container's user", OWNERSHIP, Level::Should, only_delegated)
        .on(&[Need::CgroupV2]),
    Case::new("without a cgroup namespace the cgroup's owner stays", OWNERSHIP, Level::Should, without_namespace)
        .on(&[Need::CgroupV2]),
    Case::new("with a read-only cgroup mount the cgroup's owner stays", OWNERSHIP, Level::Should, read_only)
        .on(&[Need::CgroupV2]),
    Case::new("without a cgroup mount the cgroup's owner stays", OWNERSHIP, Level::Should, without_mount)
        .on(&[Need::CgroupV2]),
];

/// A controller that every host has in v1, where there is v1.
const ANY: &str = "pids";

fn root(fixture: &Fixture) -> PathBuf {
    match fixture.host().v1(ANY) {
        Some(mount) if !fixture.host().is_v2() => mount.to_owned(),
        _ => "/sys/fs/cgroup".into(),
    }
}

/// Where the caller's linux.cgroupsPath leads to by the driver in use: systemd's is `slice:prefix:name`.
fn expected_place(fixture: &Fixture, cgroups_path: &str) -> PathBuf {
    let inside = match cgroups_path.split(':').collect::<Vec<_>>()[..] {
        [slice, prefix, name] => format!("{slice}/{prefix}-{name}.scope"),
        _ => cgroups_path.trim_start_matches('/').to_owned(),
    };
    root(fixture).join(inside)
}

fn frozen(fixture: &Fixture) -> anyhow::Result<()> {
    if fixture.systemd() {
        // systemd makes the scope anew, so that nothing is there to be frozen.
        return Ok(());
    }
    let mut bundle = fixture.bundle()?;
    let path = fixture.cgroups_path("frozen");
    bundle.set("/linux/cgroupsPath", json!(path));
    let (place, file, freeze, thaw) = match fixture.host().v1("freezer") {
        Some(mount) if !fixture.host().is_v2() => {
            (mount.join(path.trim_start_matches('/')), "freezer.state", "FROZEN", "THAWED")
        }
        _ => (expected_place(fixture, &path), "cgroup.freeze", "1", "0"),
    };
    fs::create_dir_all(&place)?;
    fs::write(place.join(file), freeze)?;
    bundle.write()?;
    let id = fixture.id();
    let done = fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id]);
    fs::write(place.join(file), thaw).ok();
    let done = done.context("create in a frozen cgroup")?;
    if done.code == 0 {
        fixture.call(&["start", &id])?.ok()?;
    } else {
        done.refused()?;
        fs::remove_dir(&place).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
    }
    Ok(())
}

fn expect_place(container: &Container<'_>, expected: &Path) -> anyhow::Result<()> {
    let found = container.cgroup(ANY)?;
    ensure!(found == expected, "init's cgroup: expected {}, found {}", expected.display(), found.display());
    Ok(())
}

fn absolute(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let path = fixture.cgroups_path("absolute");
    let container = fixture.create(bundle.set("/linux/cgroupsPath", json!(path)))?;
    expect_place(&container, &expected_place(fixture, &path))
}

/// Two containers one after the other.
fn same_twice(fixture: &Fixture, bundle: &Bundle) -> anyhow::Result<PathBuf> {
    let place = |container: Container<'_>| -> anyhow::Result<PathBuf> {
        let place = container.cgroup(ANY)?;
        container.call_with_flags("delete", &["--force"])?.ok()?;
        Ok(place)
    };
    let first = place(fixture.create(bundle)?)?;
    let second = place(fixture.create(bundle)?)?;
    let (one, other) = (first.display(), second.display());
    ensure!(first == second, "one cgroupsPath led to {one} and then to {other}");
    Ok(first)
}

fn relative(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let name = fixture.cgroups_path("relative");
    let name = name.trim_start_matches('/');
    let found = same_twice(fixture, bundle.set("/linux/cgroupsPath", json!(name)))?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    ensure!(found != root(fixture), "a cgroupsPath of {name:?} led to the root; the caller is in {own}");
    if let Some(parent) = found.parent().filter(|_| !fixture.systemd()) {
        // Empty now, unless it was there before.
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

fn consistent(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let path = fixture.cgroups_path("consistent");
    same_twice(fixture, bundle.set("/linux/cgroupsPath", json!(path))).map(drop)
}

fn without(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.create(bundle.remove("/linux/cgroupsPath"))?;
    let found = container.cgroup(ANY)?;
    let own = fs::read_to_string(format!("/proc/{}/cgroup", std::process::id()))?;
    let is_ours = own.lines().any(|line| line.rsplit(':').next() == Some(&*found.to_string_lossy()));
    ensure!(found != root(fixture) && !is_ours, "expected a cgroup of its own, found {}", found.display());
    let members = fs::read_to_string(found.join("cgroup.procs"))?;
    ensure!(members.trim() == container.pid().to_string(), "expected init alone in its cgroup, found {members:?}");
    Ok(())
}

fn deep(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let path = match fixture.systemd() {
        true => fixture.cgroups_path("deep"),
        false => fixture.cgroups_path("one/two/three"),
    };
    let container = fixture.create(bundle.set("/linux/cgroupsPath", json!(path)))?;
    let expected = expected_place(fixture, &path);
    expect_place(&container, &expected)?;
    container.call_with_flags("delete", &["--force"])?.ok()?;
    if !fixture.systemd() {
        // Other containers may use its parent by then: a runtime need not remove that.
        for directory in fixture.host().cgroup_directories(&fixture.cgroups_path("one/two")) {
            let _ = fs::remove_dir(&directory);
            let _ = directory.parent().map(fs::remove_dir);
        }
    }
    Ok(())
}

fn existing(fixture: &Fixture) -> anyhow::Result<()> {
    if fixture.systemd() {
        // A scope cannot be there before its first process.
        return Ok(());
    }
    let mut bundle = fixture.bundle()?;
    let path = fixture.cgroups_path("existing");
    let place = expected_place(fixture, &path);
    fs::create_dir_all(&place)?;
    let container = fixture.create(bundle.set("/linux/cgroupsPath", json!(path)))?;
    expect_place(&container, &place)
}

fn before_start(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let path = fixture.cgroups_path("before");
    bundle.set("/linux/cgroupsPath", json!(path)).args(&["/probe", "wait"]);
    let container = fixture.create(&bundle)?;
    expect_place(&container, &expected_place(fixture, &path))?;
    container.start()?;
    expect_place(&container, &expected_place(fixture, &path))
}

fn exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    let facts = container.exec_facts(&[])?;
    let text = fs::read_to_string(container.proc("cgroup"))?;
    let expected: Vec<&str> = text.lines().collect();
    ensure!(facts.cgroups == expected, "exec's cgroups: expected init's {expected:?}, found {:?}", facts.cgroups);
    Ok(())
}

fn removed(fixture: &Fixture) -> anyhow::Result<()> {
    let container = fixture.create(&fixture.bundle()?)?;
    let place = container.cgroup(ANY)?;
    ensure!(place.is_dir(), "{} is no directory", place.display());
    container.call_with_flags("delete", &["--force"])?.ok()?;
    ensure!(!place.exists(), "{} is still there after delete", place.display());
    Ok(())
}

/// A container of user 1000 in a user namespace whose cgroup namespace and cgroup mount are as asked.
fn container<'a>(fixture: &'a Fixture, namespace: bool, mount: Option<&[&str]>) -> anyhow::Result<Container<'a>> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    if namespace {
        bundle.namespace("cgroup", None);
    }
    if let Some(options) = mount {
        bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", options);
    }
    fixture.start(&mut bundle)
}

/// The owner of the cgroup's directory and, by name, of each of its files.
fn owners(container: &Container<'_>) -> anyhow::Result<(u32, Vec<(String, u32)>)> {
    let place = container.cgroup(ANY)?;
    let mut files = Vec::new();
    for entry in fs::read_dir(&place)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push((entry.file_name().to_string_lossy().into_owned(), entry.metadata()?.uid()));
        }
    }
    Ok((fs::metadata(&place)?.uid(), files))
}

fn expect_kept(container: &Container<'_>) -> anyhow::Result<()> {
    let (directory, files) = owners(container)?;
    let changed: Vec<_> = files.into_iter().filter(|(_, uid)| *uid != 0).collect();
    ensure!(directory == 0 && changed.is_empty(), "expected all of root, found {directory} and {changed:?}");
    Ok(())
}

fn v1(fixture: &Fixture) -> anyhow::Result<()> {
    expect_kept(&container(fixture, true, Some(&["nosuid", "noexec", "nodev"]))?)
}

fn delegated(fixture: &Fixture) -> anyhow::Result<()> {
    let container = container(fixture, true, Some(&["nosuid", "noexec", "nodev"]))?;
    let (directory, files) = owners(&container)?;
    ensure!(directory == 101_000, "the cgroup's directory: expected the owner 101000, found {directory}");
    for name in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        let owner = files.iter().find(|(file, _)| file == name).with_context(|| format!("there is no {name}"))?.1;
        ensure!(owner == 101_000, "{name}: expected the owner 101000, found {owner}");
    }
    let made = container.attempts(&["mkdir /sys/fs/cgroup/own", "write /sys/fs/cgroup/own/cgroup.procs 0"])?;
    ensure!(made[0] == "ok", "making a cgroup inside: expected success, found {made:?}");
    Ok(())
}

fn only_delegated(fixture: &Fixture) -> anyhow::Result<()> {
    let container = container(fixture, true, Some(&["nosuid", "noexec", "nodev"]))?;
    let listed = fs::read_to_string("/sys/kernel/cgroup/delegate")
        .unwrap_or_else(|_| "cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n".to_owned());
    let listed: Vec<&str> = listed.split_whitespace().collect();
    let (_, files) = owners(&container)?;
    let wrong: Vec<_> = files.iter().filter(|(name, uid)| *uid != 0 && !listed.contains(&name.as_str())).collect();
    ensure!(wrong.is_empty(), "expected no owner but root of what is not for delegation, found {wrong:?}");
    let left: Vec<_> = files.iter().filter(|(name, uid)| *uid == 0 && listed.contains(&name.as_str())).collect();
    ensure!(left.is_empty(), "expected the owner 101000 of what is for delegation, found {left:?}");
    Ok(())
}

fn without_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    expect_kept(&container(fixture, false, Some(&["nosuid", "noexec", "nodev"]))?)
}

fn read_only(fixture: &Fixture) -> anyhow::Result<()> {
    expect_kept(&container(fixture, true, Some(&["nosuid", "noexec", "nodev", "ro"]))?)
}

fn without_mount(fixture: &Fixture) -> anyhow::Result<()> {
    expect_kept(&container(fixture, true, None)?)
}
