//! config.md, Linux mount options and POSIX-platform Mounts: mounts with id mappings of their own.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use anyhow::{Context, ensure};
use nix::mount::MsFlags;
use serde_json::{Value, json};

use crate::harness::{Bundle, Case, Fixture, HostMount, Level, Need};

const OPTIONS: &str = "config.md#linux-mount-options";
const POSIX: &str = "config.md#posix-platform-mounts";
/// A tmpfs can be idmapped since 6.3.
const NEEDS: &[Need] = &[Need::Kernel(6, 3)];

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("an idmapped mount shows files by its own mappings", OPTIONS, Level::Should, shown).on(NEEDS),
    Case::new("a file made in an idmapped mount is stored by its mappings", POSIX, Level::Should, stored).on(NEEDS),
    Case::new("the option idmap applies to the topmost mount alone", OPTIONS, Level::Should, topmost).on(NEEDS),
    Case::new("the option ridmap applies to the whole tree", OPTIONS, Level::Should, whole_tree).on(NEEDS),
    Case::new("a mount's mappings come before the user namespace's", OPTIONS, Level::Should, beside_userns).on(NEEDS),
    Case::new("idmap without mappings uses the user namespace's, or is refused", OPTIONS, Level::Must, inherited)
        .on(NEEDS),
    Case::new("idmap without mappings and without a user namespace is refused", OPTIONS, Level::Must, without_mappings),
    Case::new("uidMappings without gidMappings are refused", POSIX, Level::Must, |fixture| {
        half(fixture, "uidMappings")
    }),
    Case::new("gidMappings without uidMappings are refused", POSIX, Level::Must, |fixture| {
        half(fixture, "gidMappings")
    }),
    Case::new("an idmapped mount leaves its source as it was", POSIX, Level::Should, source_stays).on(NEEDS),
];

fn mapping(container: u32, host: u32, size: u32) -> Value {
    json!([{ "containerID": container, "hostID": host, "size": size }])
}

/// Binds the tree with these options; its uids are mapped by `uids`, its gids by `gids`.
fn bind(bundle: &mut Bundle, source: &HostMount, options: &[&str], uids: Value, gids: Value) {
    bundle.push(
        "/mounts",
        json!({ "destination": "/tmp", "type": "bind", "source": source.path(), "options": options,
                "uidMappings": uids, "gidMappings": gids }),
    );
}

/// Two mounts, each with a file `mark` of 1000:2000.
fn owned_tree(fixture: &Fixture) -> anyhow::Result<[HostMount; 2]> {
    let tree = HostMount::tree(fixture.directory().join("tree"), MsFlags::empty())?;
    for mount in &tree {
        chown(mount.path().join("mark"), Some(1000), Some(2000))?;
    }
    Ok(tree)
}

/// The owners of the files of both mounts, as the container sees them.
fn owners(fixture: &Fixture, bundle: &mut Bundle) -> anyhow::Result<[String; 2]> {
    let lines = fixture.tries(bundle, &["stat", "/tmp/mark", ",", "stat", "/tmp/sub/mark"])?;
    let owner = |line: &String| line.split(' ').nth(2).unwrap_or(line).to_owned();
    Ok([owner(lines.first().context("stat")?), owner(lines.get(1).context("stat")?)])
}

fn expect(found: &[String; 2], wanted: [&str; 2]) -> anyhow::Result<()> {
    ensure!(found == &wanted, "owners in the mount, and in the one below: expected {wanted:?}, found {found:?}");
    Ok(())
}

fn shown(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    let mut bundle = fixture.bundle()?;
    bind(&mut bundle, &tree[1], &["bind", "idmap"], mapping(1000, 5000, 10), mapping(2000, 6000, 10));
    let found = fixture.tries(&mut bundle, &["stat", "/tmp/mark"])?;
    ensure!(found[0].contains(" 5000:6000 "), "the owner of a file of 1000:2000: expected 5000:6000, found {found:?}");
    Ok(())
}

fn stored(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    chown(tree[1].path(), Some(1000), Some(2000))?;
    let mut bundle = fixture.bundle()?;
    bind(&mut bundle, &tree[1], &["bind", "idmap"], mapping(1000, 0, 10), mapping(2000, 0, 10));
    let found = fixture.tries(&mut bundle, &["create", "/tmp/new"])?;
    ensure!(found == ["ok"], "a new file: expected success, found {found:?}");
    let meta = fs::metadata(tree[1].path().join("new"))?;
    let owner = (meta.uid(), meta.gid());
    ensure!(owner == (1000, 2000), "the owner of root's new file on the host: expected 1000:2000, found {owner:?}");
    Ok(())
}

fn topmost(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    let mut bundle = fixture.bundle()?;
    bind(&mut bundle, &tree[1], &["rbind", "idmap"], mapping(1000, 5000, 10), mapping(2000, 6000, 10));
    expect(&owners(fixture, &mut bundle)?, ["5000:6000", "1000:2000"])
}

fn whole_tree(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    let mut bundle = fixture.bundle()?;
    bind(&mut bundle, &tree[1], &["rbind", "ridmap"], mapping(1000, 5000, 10), mapping(2000, 6000, 10));
    expect(&owners(fixture, &mut bundle)?, ["5000:6000", "5000:6000"])
}

fn beside_userns(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65_536)?;
    // 1000 of the file system becomes 100007 of the host, which is 7 in the container.
    bind(&mut bundle, &tree[1], &["bind", "idmap"], mapping(1000, 100_007, 1), mapping(2000, 100_008, 1));
    let found = fixture.tries(&mut bundle, &["stat", "/tmp/mark"])?;
    ensure!(found[0].contains(" 7:8 "), "the owner of a file of 1000:2000: expected 7:8, found {found:?}");
    Ok(())
}

fn inherited(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65_536)?.args(&["/probe", "try", "stat", "/tmp/mark"]);
    bundle.mount("/tmp", "bind", &tree[1].path().to_string_lossy(), &["bind", "idmap"]);
    let done = fixture.run(&bundle)?;
    let mapped = done.code == 0 && done.stdout.contains(" 1000:2000 ");
    ensure!(
        mapped || !done.stdout.starts_with("ok"),
        "the owner of a file of 1000:2000: expected 1000:2000 by the user namespace's mappings, or an error; found {done:?}"
    );
    Ok(())
}

fn without_mappings(fixture: &Fixture) -> anyhow::Result<()> {
    for option in ["idmap", "ridmap"] {
        let mut bundle = fixture.bundle()?;
        let source = bundle.path().to_string_lossy().into_owned();
        fixture.refused(bundle.mount("/tmp", "bind", &source, &["bind", option])).with_context(|| option.to_owned())?;
    }
    Ok(())
}

fn half(fixture: &Fixture, given: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let mut mount =
        json!({ "destination": "/tmp", "type": "bind", "source": bundle.path(), "options": ["bind", "idmap"] });
    mount[given] = mapping(0, 0, 10);
    fixture.refused(bundle.push("/mounts", mount)).map(drop)
}

fn source_stays(fixture: &Fixture) -> anyhow::Result<()> {
    let tree = owned_tree(fixture)?;
    let mut bundle = fixture.bundle()?;
    bind(&mut bundle, &tree[1], &["rbind", "ridmap"], mapping(1000, 5000, 10), mapping(2000, 6000, 10));
    expect(&owners(fixture, &mut bundle)?, ["5000:6000", "5000:6000"])?;
    for mount in &tree {
        let meta = fs::metadata(mount.path().join("mark"))?;
        let owner = (meta.uid(), meta.gid());
        ensure!(owner == (1000, 2000), "the file on the host: expected 1000:2000 as before, found {owner:?}");
    }
    Ok(())
}
