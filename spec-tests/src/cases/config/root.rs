//! config.md, Root.

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, Level};

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("root.path is the container's root", "config.md#root", Level::Must, path),
    Case::new("root.path may be absolute", "config.md#root", Level::Must, absolute_path),
    Case::new("a root.path that is not there is refused", "config.md#root", Level::Must, missing_path),
    Case::new("a root.path that is no directory is refused", "config.md#root", Level::Must, file_path),
    Case::new("a configuration without root is refused", "config.md#root", Level::Must, without_root),
    Case::new("root.readonly makes it read-only", "config.md#root", Level::Must, readonly),
    Case::new("without root.readonly it can be written", "config.md#root", Level::Must, writable),
];

fn path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    std::fs::write(bundle.rootfs("/mark"), "here")?;
    let out = fixture.run(bundle.args(&["/probe", "try", "read", "/mark"]))?.ok()?.stdout;
    ensure!(out == "ok here\n", "expected the bundle's /mark, found {out:?}");
    Ok(())
}

fn absolute_path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let root = bundle.rootfs("/").display().to_string();
    std::fs::write(bundle.rootfs("/mark"), "here")?;
    bundle.set("/root/path", json!(root)).args(&["/probe", "try", "read", "/mark"]);
    let out = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(out == "ok here\n", "expected the bundle's /mark, found {out:?}");
    Ok(())
}

fn missing_path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/root/path", json!("nowhere"))).map(drop)
}

fn file_path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fixture.refused(bundle.set("/root/path", json!("rootfs/probe"))).map(drop)
}

fn without_root(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.refused(fixture.bundle()?.remove("/root")).map(drop)
}

fn readonly(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/root/readonly", json!(true)).args(&["/probe", "try", "create", "/new"]);
    let out = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(out == "EROFS\n", "creating a file: expected EROFS, found {out:?}");
    bundle.args(&["/probe", "facts"]);
    let facts = fixture.facts(&bundle)?;
    let root = facts.mount("/")?;
    ensure!(root.options.iter().any(|option| option == "ro"), "the mount of /: expected ro, found {:?}", root.options);
    Ok(())
}

fn writable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "try", "create", "/new"]);
    let out = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(out == "ok \n", "creating a file: expected success, found {out:?}");
    ensure!(bundle.rootfs("/new").exists(), "the new file is not in the bundle");
    Ok(())
}
