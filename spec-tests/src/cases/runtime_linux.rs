//! runtime-linux.md: file descriptors, and the symbolic links of /dev.

use anyhow::ensure;
use serde_json::json;

use crate::facts::Facts;
use crate::harness::{Case, Fixture, Level};

const DESCRIPTORS: &str = "runtime-linux.md#file-descriptors";
const LINKS: &str = "runtime-linux.md#-dev-symbolic-links";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a program has its three standard descriptors and no other", DESCRIPTORS, Level::Must, standard),
    Case::new(
        "a program of exec has its three standard descriptors and no other",
        DESCRIPTORS,
        Level::Must,
        standard_exec,
    ),
    Case::new("descriptors that the caller left open are not passed on", DESCRIPTORS, Level::Must, of_the_caller),
    Case::new("--preserve-fds passes descriptors on for socket activation", DESCRIPTORS, Level::Runc, preserved),
    Case::new("links in /dev lead to the process's own descriptors", LINKS, Level::Must, links),
    Case::new("links in /dev are made without a mount at /dev", LINKS, Level::Must, links_without_mount),
    Case::new("links in /dev are there before the program starts", LINKS, Level::Must, links_when_created),
];

fn expect_standard(facts: &Facts) -> anyhow::Result<()> {
    let numbers: Vec<i32> = facts.fds.keys().copied().collect();
    ensure!(numbers == [0, 1, 2], "expected the descriptors 0, 1 and 2, found {:?}", facts.fds);
    Ok(())
}

fn standard(fixture: &Fixture) -> anyhow::Result<()> {
    expect_standard(&fixture.facts(&fixture.bundle()?)?)
}

fn standard_exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    expect_standard(&fixture.start(&mut bundle)?.exec_facts(&[])?)
}

/// Calls the runtime with `words`, with descriptors 3, 4 and 9 open.
fn with_open(fixture: &Fixture, words: &[&str]) -> anyhow::Result<Facts> {
    let command = fixture.command(words);
    let mut line = vec!["-c".to_owned(), "exec \"$@\" 3</etc 4</etc/passwd 9<.".to_owned(), "sh".to_owned()];
    line.push(command.get_program().to_string_lossy().into_owned());
    line.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    Facts::parse(&fixture.tool("sh", &line)?.ok()?.stdout)
}

fn of_the_caller(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.write()?;
    expect_standard(&with_open(fixture, &["run", "--bundle", &bundle.path().to_string_lossy(), &fixture.id()])?)?;
    let container = fixture.start(&mut bundle)?;
    expect_standard(&with_open(fixture, &["exec", container.id(), "/probe", "facts"])?)
}

fn preserved(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    let path = bundle.path().to_string_lossy();
    let facts = with_open(fixture, &["run", "--preserve-fds", "2", "--bundle", &path, &fixture.id()])?;
    let numbers: Vec<i32> = facts.fds.keys().copied().collect();
    ensure!(numbers == [0, 1, 2, 3, 4], "expected the descriptors 0 to 4, found {:?}", facts.fds);
    Ok(())
}

fn expect_links(facts: &Facts) -> anyhow::Result<()> {
    for (path, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        let found = facts.device(path)?.link.as_deref();
        ensure!(found == Some(target), "{path}: expected a link to {target}, found {found:?}");
    }
    Ok(())
}

fn links(fixture: &Fixture) -> anyhow::Result<()> {
    expect_links(&fixture.facts(&fixture.bundle()?)?)
}

fn links_without_mount(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let proc = bundle.config["mounts"][0].clone();
    ground_is_proc(&proc)?;
    expect_links(&fixture.facts(bundle.set("/mounts", json!([proc])))?)
}

fn ground_is_proc(mount: &serde_json::Value) -> anyhow::Result<()> {
    ensure!(mount["destination"] == "/proc", "the first mount of a bundle is {mount}");
    Ok(())
}

fn links_when_created(fixture: &Fixture) -> anyhow::Result<()> {
    let container = fixture.create(&fixture.bundle()?)?;
    for name in ["fd", "stdin", "stdout", "stderr"] {
        let path = container.proc(&format!("root/dev/{name}"));
        let is_link = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
        ensure!(is_link, "/dev/{name} of a created container: expected a link");
    }
    Ok(())
}
