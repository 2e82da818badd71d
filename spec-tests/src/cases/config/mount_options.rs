//! config.md, Linux mount options: each option by what the kernel then says of the mount.

use std::fs;

use anyhow::{Context, ensure};
use nix::mount::MsFlags;
use serde_json::json;

use crate::facts::{Facts, Mount};
use crate::harness::{Case, Fixture, HostMount, Level, Need};

const fn must(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-mount-options", Level::Must, run)
}

const fn should(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-mount-options", Level::Should, run)
}

/// In the order of the table.
pub const CASES: &[Case] = &[
    must("the option async undoes sync", |fixture| tmpfs(fixture, &["sync", "async"], &[], &["sync"])),
    must("the option atime undoes noatime", |fixture| tmpfs(fixture, &["noatime", "atime"], &[], &["noatime"])),
    must("the option bind leaves out the mounts below the source", bind),
    must("the option defaults is the runtime's, not the file system's", |fixture| {
        tmpfs(fixture, &["defaults"], &["rw"], &[])
    }),
    must("the option dev undoes nodev", |fixture| tmpfs(fixture, &["nodev", "dev"], &[], &["nodev"])),
    must("the option diratime undoes nodiratime", |fixture| {
        tmpfs(fixture, &["nodiratime", "diratime"], &[], &["nodiratime"])
    }),
    must("the option dirsync is applied", |fixture| tmpfs(fixture, &["dirsync"], &["dirsync"], &[])),
    must("the option exec undoes noexec", |fixture| tmpfs(fixture, &["noexec", "exec"], &[], &["noexec"])),
    must("the option iversion is the runtime's, not the file system's", |fixture| {
        tmpfs(fixture, &["iversion"], &[], &[])
    }),
    must("the option lazytime is applied", |fixture| tmpfs(fixture, &["lazytime"], &["lazytime"], &[])),
    must("the option loud is the runtime's, not the file system's", |fixture| tmpfs(fixture, &["loud"], &[], &[])),
    must("the option noatime is applied", |fixture| tmpfs(fixture, &["noatime"], &["noatime"], &[])),
    must("the option nodev is applied", |fixture| tmpfs(fixture, &["nodev"], &["nodev"], &[])),
    must("the option nodiratime is applied", |fixture| tmpfs(fixture, &["nodiratime"], &["nodiratime"], &[])),
    must("the option noexec is applied", |fixture| tmpfs(fixture, &["noexec"], &["noexec"], &[])),
    must("the option noiversion is the runtime's, not the file system's", |fixture| {
        tmpfs(fixture, &["noiversion"], &[], &[])
    }),
    must("the option nolazytime undoes lazytime", |fixture| {
        tmpfs(fixture, &["lazytime", "nolazytime"], &[], &["lazytime"])
    }),
    must("the option norelatime is the runtime's, not the file system's", |fixture| {
        tmpfs(fixture, &["norelatime"], &[], &[])
    }),
    must("the option nostrictatime undoes strictatime", |fixture| {
        tmpfs(fixture, &["strictatime", "nostrictatime"], &["relatime"], &[])
    }),
    must("the option nosuid is applied", |fixture| tmpfs(fixture, &["nosuid"], &["nosuid"], &[])),
    should("the option nosymfollow is applied", |fixture| tmpfs(fixture, &["nosymfollow"], &["nosymfollow"], &[]))
        .on(&[Need::Kernel(5, 10)]),
    must("the option rbind includes the mounts below the source", rbind),
    must("the option relatime is applied to a bind mount", |fixture| {
        bound(fixture, MsFlags::MS_STRICTATIME, &["bind", "relatime"], &["relatime"], &[])
    }),
    must("the option remount changes a mount that is there", remount),
    must("the option ro makes a mount read-only", readonly),
    must("the option ro makes a bind mount read-only, and its source not", readonly_bind),
    must("the option rw undoes ro", |fixture| tmpfs(fixture, &["ro", "rw"], &["rw"], &["ro"])),
    must("the option silent is the runtime's, not the file system's", |fixture| tmpfs(fixture, &["silent"], &[], &[])),
    must("the option strictatime is applied", |fixture| {
        tmpfs(fixture, &["strictatime"], &[], &["relatime", "noatime"])
    }),
    must("the option suid undoes nosuid", |fixture| tmpfs(fixture, &["nosuid", "suid"], &[], &["nosuid"])),
    should("the option symfollow undoes nosymfollow", |fixture| {
        tmpfs(fixture, &["nosymfollow", "symfollow"], &[], &["nosymfollow"])
    })
    .on(&[Need::Kernel(5, 10)]),
    must("the option sync is applied", |fixture| tmpfs(fixture, &["sync"], &["sync"], &[])),
    must("options of a bind mount are applied to it", |fixture| {
        let wanted = ["nosuid", "nodev", "noexec", "noatime"];
        bound(fixture, MsFlags::empty(), &["bind", "nosuid", "nodev", "noexec", "noatime"], &wanted, &[])
    }),
    Case::new("the option tmpcopyup copies the image's files", "runc: mount options", Level::Runc, copy_up),
    should("options that are not the runtime's are the file system's", |fixture| {
        tmpfs(fixture, &["size=8k", "nr_inodes=7", "mode=0700"], &["size=8k", "nr_inodes=7", "mode=700"], &[])
    }),
    should("an option that the file system does not know is refused", |fixture| {
        fixture.refused(fixture.bundle()?.mount("/tmp", "tmpfs", "tmpfs", &["nosuchoption=1"])).map(drop)
    }),
];

/// Compares the mount's options with what has to be among them, and what may not.
pub(super) fn compare(mount: &Mount, has: &[&str], lacks: &[&str]) -> anyhow::Result<()> {
    let is = |wanted: &&&str| mount.options.iter().chain(&mount.super_options).any(|option| option == **wanted);
    let missing: Vec<_> = has.iter().filter(|option| !is(option)).collect();
    let beyond: Vec<_> = lacks.iter().filter(|option| is(option)).collect();
    ensure!(
        missing.is_empty() && beyond.is_empty(),
        "the mount at {}: expected {missing:?}, and not {beyond:?}; found {:?} and of the file system {:?}",
        mount.point,
        mount.options,
        mount.super_options
    );
    Ok(())
}

fn tmpfs(fixture: &Fixture, options: &[&str], has: &[&str], lacks: &[&str]) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    compare(fixture.facts(bundle.mount("/tmp", "tmpfs", "tmpfs", options))?.mount("/tmp")?, has, lacks)
}

/// A bind mount of a tmpfs that has these flags on the host.
fn bound(fixture: &Fixture, before: MsFlags, options: &[&str], has: &[&str], lacks: &[&str]) -> anyhow::Result<()> {
    let source = HostMount::tmpfs(fixture.directory().join("source"), before)?;
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "bind", &source.path().to_string_lossy(), options);
    compare(fixture.facts(&bundle)?.mount("/tmp")?, has, lacks)
}

/// The content of the two files `mark` in a tree that is mounted with these options.
fn marks(fixture: &Fixture, options: &[&str]) -> anyhow::Result<Vec<String>> {
    let [_sub, top] = HostMount::tree(fixture.directory().join("tree"), MsFlags::empty())?;
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "bind", &top.path().to_string_lossy(), options);
    fixture.tries(&mut bundle, &["read", "/tmp/mark", ",", "read", "/tmp/sub/mark"])
}

fn bind(fixture: &Fixture) -> anyhow::Result<()> {
    let found = marks(fixture, &["bind"])?;
    ensure!(found == ["ok top", "ENOENT"], "expected the source's own file alone, found {found:?}");
    Ok(())
}

fn rbind(fixture: &Fixture) -> anyhow::Result<()> {
    let found = marks(fixture, &["rbind"])?;
    ensure!(found == ["ok top", "ok sub"], "expected the files of both mounts, found {found:?}");
    Ok(())
}

fn remount(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "tmpfs", "once", &["size=1m"]).mount("/tmp", "tmpfs", "once", &["remount", "ro", "size=2m"]);
    let facts = fixture.facts(&bundle)?;
    let there = facts.mounts.iter().filter(|mount| mount.point == "/tmp").count();
    ensure!(there == 1, "mounts at /tmp: expected one, found {there}");
    compare(facts.mount("/tmp")?, &["ro", "size=2048k"], &[])
}

fn readonly(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "tmpfs", "tmpfs", &["ro"]);
    let found = fixture.tries(&mut bundle, &["create", "/tmp/new"])?;
    ensure!(found == ["EROFS"], "a new file: expected EROFS, found {found:?}");
    Ok(())
}

fn readonly_bind(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let source = bundle.path().join("data");
    fs::create_dir(&source)?;
    let path = source.to_string_lossy().into_owned();
    bundle.mount("/tmp", "bind", &path, &["bind", "ro"]).mount("/dev/again", "bind", &path, &["bind"]);
    let found = fixture.tries(&mut bundle, &["create", "/tmp/new", ",", "create", "/dev/again/new"])?;
    ensure!(found == ["EROFS", "ok"], "a new file by the read-only mount, and by another: found {found:?}");
    ensure!(source.join("new").exists(), "the new file is not in the source");
    Ok(())
}

fn copy_up(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/etc/mark"), "image")?;
    bundle.mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let found = fixture.tries(&mut bundle, &["read", "/etc/mark", ",", "create", "/etc/new"])?;
    ensure!(found == ["ok image", "ok"], "the image's file in the tmpfs, and a new one: found {found:?}");
    ensure!(!bundle.rootfs("/etc/new").exists(), "the new file is in the image");
    Ok(())
}

/// The facts of a container in which a tree of two mounts is bound to /tmp; both had these flags before.
pub(super) fn tree(fixture: &Fixture, before: MsFlags, options: &[&str]) -> anyhow::Result<Facts> {
    let [_sub, top] = HostMount::tree(fixture.directory().join("tree"), before)?;
    let mut bundle = fixture.bundle()?;
    // A slave has to have a master: the mounts of a private root have none.
    bundle.set("/linux/rootfsPropagation", json!("slave"));
    bundle.mount("/tmp", "bind", &top.path().to_string_lossy(), options);
    fixture.facts(&bundle).with_context(|| format!("a tree that is bound with {options:?}"))
}
