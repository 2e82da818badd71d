//! config.md, Mounts and POSIX-platform Mounts.

use std::fs;

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, Level};

const SECTION: &str = "config.md#mounts";
const POSIX: &str = "config.md#posix-platform-mounts";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("mounts are made in the listed order", SECTION, Level::Must, order),
    Case::new("a mount is seen through one that was listed before it", SECTION, Level::Must, nested),
    Case::new("a relative destination counts from the container's root", SECTION, Level::Must, relative_destination),
    Case::new("a relative source of a bind mount counts from the bundle", SECTION, Level::Must, relative_source),
    Case::new(
        "a mount with bind among its options is a bind mount, whatever its type",
        SECTION,
        Level::Must,
        dummy_type,
    ),
    Case::new("a bind mount's type may be left out", POSIX, Level::Must, no_type),
    Case::new("a mount's source may be left out", SECTION, Level::Must, no_source),
    Case::new("a mount's options may be left out", SECTION, Level::Must, no_options),
    Case::new("a file is bound onto a file", SECTION, Level::Must, file),
    Case::new("a bind mount's missing source is refused", "config.md#valid-values", Level::Must, missing_source),
    Case::new("file systems of the kernel can be mounted by their type", POSIX, Level::Must, types),
    Case::new(
        "a file system that the kernel does not have is refused",
        "config.md#valid-values",
        Level::Must,
        unknown_type,
    ),
];

fn order(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "tmpfs", "first", &["size=1m"]).mount("/tmp", "tmpfs", "second", &["size=2m"]);
    let facts = fixture.facts(&bundle)?;
    let sources: Vec<_> =
        facts.mounts.iter().filter(|mount| mount.point == "/tmp").map(|mount| mount.source.as_str()).collect();
    ensure!(sources == ["first", "second"], "mounts at /tmp: expected first, then second; found {sources:?}");
    Ok(())
}

fn nested(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp", "tmpfs", "outer", &[]).mount("/tmp/inner", "tmpfs", "inner", &[]);
    let facts = fixture.facts(&bundle)?;
    let source = &facts.mount("/tmp/inner")?.source;
    ensure!(source == "inner", "the mount at /tmp/inner: expected the source inner, found {source}");
    Ok(())
}

fn relative_destination(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/cwd", json!("/etc")).mount("tmp", "tmpfs", "here", &[]);
    let facts = fixture.facts(&bundle)?;
    let source = &facts.mount("/tmp")?.source;
    ensure!(source == "here", "the mount at /tmp: expected the source here, found {source}");
    Ok(())
}

/// Binds a directory with a file `mark` by this source, and reads the file.
fn bound(fixture: &Fixture, kind: Option<&str>, source: &str, options: &[&str]) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let directory = bundle.path().join("data");
    fs::create_dir(&directory)?;
    fs::write(directory.join("mark"), "bound")?;
    let source = source.replace("BUNDLE", &bundle.path().to_string_lossy());
    let mut mount = json!({ "destination": "/tmp", "source": source, "options": options });
    if let Some(kind) = kind {
        mount["type"] = json!(kind);
    }
    bundle.push("/mounts", mount);
    let found = fixture.tries(&mut bundle, &["read", "/tmp/mark"])?;
    ensure!(found == ["ok bound"], "the source's file: expected \"ok bound\", found {found:?}");
    Ok(())
}

fn relative_source(fixture: &Fixture) -> anyhow::Result<()> {
    bound(fixture, Some("bind"), "data", &["bind"])?;
    bound(fixture, Some("bind"), "./data", &["rbind"])
}

fn dummy_type(fixture: &Fixture) -> anyhow::Result<()> {
    bound(fixture, Some("none"), "BUNDLE/data", &["bind"])?;
    bound(fixture, Some("none"), "BUNDLE/data", &["rbind", "rw"])?;
    bound(fixture, Some("dummy"), "BUNDLE/data", &["ro", "rbind"])
}

fn no_type(fixture: &Fixture) -> anyhow::Result<()> {
    bound(fixture, None, "BUNDLE/data", &["bind"])
}

fn no_source(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/mounts", json!({ "destination": "/tmp", "type": "tmpfs", "options": ["size=1m"] }));
    let kind = fixture.facts(&bundle)?.mount("/tmp")?.kind.clone();
    ensure!(kind == "tmpfs", "the mount at /tmp: expected a tmpfs, found {kind}");
    Ok(())
}

fn no_options(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.push("/mounts", json!({ "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" }));
    let kind = fixture.facts(&bundle)?.mount("/tmp")?.kind.clone();
    ensure!(kind == "tmpfs", "the mount at /tmp: expected a tmpfs, found {kind}");
    Ok(())
}

fn file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let source = bundle.path().join("source");
    fs::write(&source, "bound")?;
    fs::write(bundle.rootfs("/etc/file"), "image")?;
    bundle.mount("/etc/file", "bind", &source.to_string_lossy(), &["bind"]);
    let found = fixture.tries(&mut bundle, &["read", "/etc/file"])?;
    ensure!(found == ["ok bound"], "the file: expected \"ok bound\", found {found:?}");
    let below = fs::read_to_string(bundle.rootfs("/etc/file"))?;
    ensure!(below == "image", "the image's file below the mount: expected \"image\", found {below:?}");
    Ok(())
}

fn missing_source(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.refused(fixture.bundle()?.mount("/tmp", "bind", "/nowhere/at/all", &["bind"])).map(drop)
}

fn types(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.mount("/tmp/a", "ramfs", "ramfs", &[]).mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "nodev"]);
    let facts = fixture.facts(&bundle)?;
    for (point, kind) in [
        ("/proc", "proc"),
        ("/sys", "sysfs"),
        ("/dev/pts", "devpts"),
        ("/dev/shm", "tmpfs"),
        ("/dev/mqueue", "mqueue"),
        ("/tmp/a", "ramfs"),
    ] {
        let found = &facts.mount(point)?.kind;
        ensure!(found == kind, "the mount at {point}: expected {kind}, found {found}");
    }
    Ok(())
}

fn unknown_type(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.refused(fixture.bundle()?.mount("/tmp", "nosuchfs", "none", &[])).map(drop)
}
