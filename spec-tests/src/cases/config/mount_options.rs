//! config.md, Linux mount options: each option by what the kernel then says of the mount.

use std::fs;

use anyhow::{Context, ensure};
use nix::mount::MsFlags;
use serde_json::json;

use crate::facts::{Facts, Mount};
use crate::harness::{Case, Ground, HostMount, Level, Need};

const fn must(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-mount-options", Level::Must, run)
}

const fn should(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "config.md#linux-mount-options", Level::Should, run)
}

/// In the order of the table.
pub const CASES: &[Case] = &[
    must("the option async undoes sync", |ground| tmpfs(ground, &["sync", "async"], &[], &["sync"])),
    must("the option atime undoes noatime", |ground| tmpfs(ground, &["noatime", "atime"], &[], &["noatime"])),
    must("the option bind leaves out what is mounted below the source", bind),
    must("the option defaults is the runtime's, not the file system's", |ground| {
        tmpfs(ground, &["defaults"], &["rw"], &[])
    }),
    must("the option dev undoes nodev", |ground| tmpfs(ground, &["nodev", "dev"], &[], &["nodev"])),
    must("the option diratime undoes nodiratime", |ground| {
        tmpfs(ground, &["nodiratime", "diratime"], &[], &["nodiratime"])
    }),
    must("the option dirsync is applied", |ground| tmpfs(ground, &["dirsync"], &["dirsync"], &[])),
    must("the option exec undoes noexec", |ground| tmpfs(ground, &["noexec", "exec"], &[], &["noexec"])),
    must("the option iversion is the runtime's, not the file system's", |ground| {
        tmpfs(ground, &["iversion"], &[], &[])
    }),
    must("the option lazytime is applied", |ground| tmpfs(ground, &["lazytime"], &["lazytime"], &[])),
    must("the option loud is the runtime's, not the file system's", |ground| tmpfs(ground, &["loud"], &[], &[])),
    must("the option noatime is applied", |ground| tmpfs(ground, &["noatime"], &["noatime"], &[])),
    must("the option nodev is applied", |ground| tmpfs(ground, &["nodev"], &["nodev"], &[])),
    must("the option nodiratime is applied", |ground| tmpfs(ground, &["nodiratime"], &["nodiratime"], &[])),
    must("the option noexec is applied", |ground| tmpfs(ground, &["noexec"], &["noexec"], &[])),
    must("the option noiversion is the runtime's, not the file system's", |ground| {
        tmpfs(ground, &["noiversion"], &[], &[])
    }),
    must("the option nolazytime undoes lazytime", |ground| {
        tmpfs(ground, &["lazytime", "nolazytime"], &[], &["lazytime"])
    }),
    must("the option norelatime is the runtime's, not the file system's", |ground| {
        tmpfs(ground, &["norelatime"], &[], &[])
    }),
    must("the option nostrictatime undoes strictatime", |ground| {
        tmpfs(ground, &["strictatime", "nostrictatime"], &["relatime"], &[])
    }),
    must("the option nosuid is applied", |ground| tmpfs(ground, &["nosuid"], &["nosuid"], &[])),
    should("the option nosymfollow is applied", |ground| tmpfs(ground, &["nosymfollow"], &["nosymfollow"], &[]))
        .on(&[Need::Kernel(5, 10)]),
    must("the option rbind brings what is mounted below the source", rbind),
    must("the option relatime is applied to a bind mount", |ground| {
        bound(ground, MsFlags::MS_STRICTATIME, &["bind", "relatime"], &["relatime"], &[])
    }),
    must("the option remount changes a mount that is there", remount),
    must("the option ro makes a mount read-only", readonly),
    must("the option ro makes a bind mount read-only, and its source not", readonly_bind),
    must("the option rw undoes ro", |ground| tmpfs(ground, &["ro", "rw"], &["rw"], &["ro"])),
    must("the option silent is the runtime's, not the file system's", |ground| tmpfs(ground, &["silent"], &[], &[])),
    must("the option strictatime is applied", |ground| tmpfs(ground, &["strictatime"], &[], &["relatime", "noatime"])),
    must("the option suid undoes nosuid", |ground| tmpfs(ground, &["nosuid", "suid"], &[], &["nosuid"])),
    should("the option symfollow undoes nosymfollow", |ground| {
        tmpfs(ground, &["nosymfollow", "symfollow"], &[], &["nosymfollow"])
    })
    .on(&[Need::Kernel(5, 10)]),
    must("the option sync is applied", |ground| tmpfs(ground, &["sync"], &["sync"], &[])),
    must("options of a bind mount are applied to it", |ground| {
        let wanted = ["nosuid", "nodev", "noexec", "noatime"];
        bound(ground, MsFlags::empty(), &["bind", "nosuid", "nodev", "noexec", "noatime"], &wanted, &[])
    }),
    Case::new("the option tmpcopyup brings what the image has there", "runc: mount options", Level::Runc, copy_up),
    should("options that are not the runtime's are the file system's", |ground| {
        tmpfs(ground, &["size=8k", "nr_inodes=7", "mode=0700"], &["size=8k", "nr_inodes=7", "mode=700"], &[])
    }),
    should("an option that the file system does not know is refused", |ground| {
        ground.refused(ground.bundle()?.mount("/tmp", "tmpfs", "tmpfs", &["nosuchoption=1"])).map(drop)
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

fn tmpfs(ground: &Ground, options: &[&str], has: &[&str], lacks: &[&str]) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    compare(ground.facts(bundle.mount("/tmp", "tmpfs", "tmpfs", options))?.mount("/tmp")?, has, lacks)
}

/// A bind mount of a tmpfs that has these flags on the host.
fn bound(ground: &Ground, before: MsFlags, options: &[&str], has: &[&str], lacks: &[&str]) -> anyhow::Result<()> {
    let source = HostMount::tmpfs(ground.directory().join("source"), before)?;
    let mut bundle = ground.bundle()?;
    bundle.mount("/tmp", "bind", &source.path().to_string_lossy(), options);
    compare(ground.facts(&bundle)?.mount("/tmp")?, has, lacks)
}

/// The content of the two files `mark` in a tree that is mounted with these options.
fn marks(ground: &Ground, options: &[&str]) -> anyhow::Result<Vec<String>> {
    let [_sub, top] = HostMount::tree(ground.directory().join("tree"), MsFlags::empty())?;
    let mut bundle = ground.bundle()?;
    bundle.mount("/tmp", "bind", &top.path().to_string_lossy(), options);
    ground.tries(&mut bundle, &["read", "/tmp/mark", ",", "read", "/tmp/sub/mark"])
}

fn bind(ground: &Ground) -> anyhow::Result<()> {
    let found = marks(ground, &["bind"])?;
    ensure!(found == ["ok top", "ENOENT"], "expected the source's own file alone, found {found:?}");
    Ok(())
}

fn rbind(ground: &Ground) -> anyhow::Result<()> {
    let found = marks(ground, &["rbind"])?;
    ensure!(found == ["ok top", "ok sub"], "expected the files of both mounts, found {found:?}");
    Ok(())
}

fn remount(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.mount("/tmp", "tmpfs", "once", &["size=1m"]).mount("/tmp", "tmpfs", "once", &["remount", "ro", "size=2m"]);
    let facts = ground.facts(&bundle)?;
    let there = facts.mounts.iter().filter(|mount| mount.point == "/tmp").count();
    ensure!(there == 1, "mounts at /tmp: expected one, found {there}");
    compare(facts.mount("/tmp")?, &["ro", "size=2048k"], &[])
}

fn readonly(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.mount("/tmp", "tmpfs", "tmpfs", &["ro"]);
    let found = ground.tries(&mut bundle, &["create", "/tmp/new"])?;
    ensure!(found == ["EROFS"], "a new file: expected EROFS, found {found:?}");
    Ok(())
}

fn readonly_bind(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    let source = bundle.path().join("data");
    fs::create_dir(&source)?;
    let path = source.to_string_lossy().into_owned();
    bundle.mount("/tmp", "bind", &path, &["bind", "ro"]).mount("/dev/again", "bind", &path, &["bind"]);
    let found = ground.tries(&mut bundle, &["create", "/tmp/new", ",", "create", "/dev/again/new"])?;
    ensure!(found == ["EROFS", "ok"], "a new file by the read-only mount, and by another: found {found:?}");
    ensure!(source.join("new").exists(), "the new file is not in the source");
    Ok(())
}

fn copy_up(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    fs::write(bundle.rootfs("/etc/mark"), "image")?;
    bundle.mount("/etc", "tmpfs", "tmpfs", &["tmpcopyup"]);
    let found = ground.tries(&mut bundle, &["read", "/etc/mark", ",", "create", "/etc/new"])?;
    ensure!(found == ["ok image", "ok"], "the image's file in the tmpfs, and a new one: found {found:?}");
    ensure!(!bundle.rootfs("/etc/new").exists(), "the new file is in the image");
    Ok(())
}

/// The facts of a container in which a tree of two mounts is bound to /tmp; both had these flags before.
pub(super) fn tree(ground: &Ground, before: MsFlags, options: &[&str]) -> anyhow::Result<Facts> {
    let [_sub, top] = HostMount::tree(ground.directory().join("tree"), before)?;
    let mut bundle = ground.bundle()?;
    // A slave has to have a master: the mounts of a private root have none.
    bundle.set("/linux/rootfsPropagation", json!("slave"));
    bundle.mount("/tmp", "bind", &top.path().to_string_lossy(), options);
    ground.facts(&bundle).with_context(|| format!("a tree that is bound with {options:?}"))
}
