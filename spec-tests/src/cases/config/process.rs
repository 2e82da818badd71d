//! config.md, Process: the program, its arguments, its environment and its working directory.

use std::collections::BTreeMap;

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, Level};

const SECTION: &str = "config.md#process";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("process.cwd is the program's working directory", SECTION, Level::Must, cwd),
    Case::new("a process.cwd that is not absolute is refused", SECTION, Level::Must, relative_cwd),
    Case::new("a process.cwd that is not there is made", "runc: process.cwd", Level::Runc, missing_cwd),
    Case::new("process.env is the program's whole environment", SECTION, Level::Must, env),
    Case::new("process.args are the program's arguments", SECTION, Level::Must, args),
    Case::new("a program without a slash is searched for in PATH of process.env", SECTION, Level::Must, path),
    Case::new("a program with a slash is not searched for in PATH", SECTION, Level::Must, relative_program),
    Case::new("a program that is not there is an error", SECTION, Level::Must, |fixture| {
        no_program(fixture, "/nowhere")
    }),
    Case::new("a program that is nowhere in PATH is an error", SECTION, Level::Must, |fixture| {
        no_program(fixture, "nowhere")
    }),
    Case::new("a program that is no executable file is an error", SECTION, Level::Must, |fixture| {
        no_program(fixture, "/etc/text")
    }),
    Case::new("empty process.args are refused", SECTION, Level::Must, empty_args),
    Case::new("process without args is refused", SECTION, Level::Must, without_args),
];

fn cwd(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let found = fixture.facts(bundle.set("/process/cwd", json!("/etc")))?.cwd;
    ensure!(found == "/etc", "the working directory: expected /etc, found {found}");
    Ok(())
}

fn relative_cwd(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.refused(fixture.bundle()?.set("/process/cwd", json!("etc"))).map(drop)
}

fn missing_cwd(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let found = fixture.facts(bundle.set("/process/cwd", json!("/srv/of/nobody")))?.cwd;
    ensure!(found == "/srv/of/nobody", "the working directory: expected /srv/of/nobody, found {found}");
    Ok(())
}

fn env(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    // HOME is what runc adds when it is missing.
    bundle.set("/process/env", json!(["PATH=/", "EMPTY=", "SPACES= a  b ", "SIGN=a=b", "HOME=/etc"]));
    let found = fixture.facts(&bundle)?.env;
    let wanted = [("PATH", "/"), ("EMPTY", ""), ("SPACES", " a  b "), ("SIGN", "a=b"), ("HOME", "/etc")];
    let wanted: BTreeMap<_, _> = wanted.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    ensure!(found == wanted, "the environment: expected {wanted:?}, found {found:?}");
    Ok(())
}

fn args(fixture: &Fixture) -> anyhow::Result<()> {
    let words = ["/probe", "facts", "", "two words", "new\nline", "'quoted \"", "ütf", "-flag"];
    let found = fixture.facts(fixture.bundle()?.args(&words))?.args;
    ensure!(found == words, "argv: expected {words:?}, found {found:?}");
    Ok(())
}

fn path(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    std::fs::create_dir(bundle.rootfs("/there"))?;
    std::fs::rename(bundle.rootfs("/probe"), bundle.rootfs("/there/probe"))?;
    bundle.set("/process/env", json!(["PATH=/nowhere:/there:/etc"])).args(&["probe", "facts"]);
    let found = fixture.facts(&bundle)?.args;
    ensure!(found == ["probe", "facts"], "argv: expected probe facts, found {found:?}");
    Ok(())
}

fn relative_program(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    std::fs::create_dir(bundle.rootfs("/there"))?;
    std::fs::rename(bundle.rootfs("/probe"), bundle.rootfs("/there/probe"))?;
    bundle.set("/process/env", json!(["PATH=/etc"])).args(&["there/probe", "facts"]);
    let found = fixture.facts(&bundle)?.args;
    ensure!(found == ["there/probe", "facts"], "argv: expected there/probe facts, found {found:?}");
    // The current directory is no part of PATH, and a slash turns PATH off.
    bundle.set("/process/env", json!(["PATH=/there:/"])).args(&["./probe", "facts"]);
    let done = fixture.run(&bundle)?;
    ensure!(done.code != 0, "./probe in /, where there is none: expected an error, found {done:?}");
    Ok(())
}

fn no_program(fixture: &Fixture, program: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    std::fs::write(bundle.rootfs("/etc/text"), "no program")?;
    fixture.run(bundle.args(&[program]))?.refused().map(drop)
}

fn empty_args(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.run(fixture.bundle()?.args(&[]))?.refused().map(drop)
}

fn without_args(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.run(fixture.bundle()?.remove("/process/args"))?.refused().map(drop)
}
