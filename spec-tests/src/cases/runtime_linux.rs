//! runtime-linux.md: file descriptors, and the symbolic links of /dev.

use anyhow::ensure;
use serde_json::json;

use crate::facts::Facts;
use crate::harness::{Case, Ground, Level};

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
    Case::new("what the caller left open stays outside", DESCRIPTORS, Level::Must, of_the_caller),
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

fn standard(ground: &Ground) -> anyhow::Result<()> {
    expect_standard(&ground.facts(&ground.bundle()?)?)
}

fn standard_exec(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    expect_standard(&ground.start(&mut bundle)?.exec_facts(&[])?)
}

/// Calls the runtime with these words, with descriptors 3, 4 and 9 open.
fn with_open(ground: &Ground, words: &[&str]) -> anyhow::Result<Facts> {
    let command = ground.command(words);
    let mut line = vec!["-c".to_owned(), "exec \"$@\" 3</etc 4</etc/passwd 9<.".to_owned(), "sh".to_owned()];
    line.push(command.get_program().to_string_lossy().into_owned());
    line.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let line: Vec<&str> = line.iter().map(String::as_str).collect();
    Facts::parse(&ground.tool("sh", &line)?.ok()?.stdout)
}

fn of_the_caller(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    bundle.write()?;
    expect_standard(&with_open(ground, &["run", "--bundle", &bundle.path().to_string_lossy(), &ground.id()])?)?;
    let container = ground.start(&mut bundle)?;
    expect_standard(&with_open(ground, &["exec", container.id(), "/probe", "facts"])?)
}

fn preserved(ground: &Ground) -> anyhow::Result<()> {
    let bundle = ground.bundle()?;
    bundle.write()?;
    let path = bundle.path().to_string_lossy();
    let facts = with_open(ground, &["run", "--preserve-fds", "2", "--bundle", &path, &ground.id()])?;
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

fn links(ground: &Ground) -> anyhow::Result<()> {
    expect_links(&ground.facts(&ground.bundle()?)?)
}

fn links_without_mount(ground: &Ground) -> anyhow::Result<()> {
    let mut bundle = ground.bundle()?;
    let proc = bundle.config["mounts"][0].clone();
    ground_is_proc(&proc)?;
    expect_links(&ground.facts(bundle.set("/mounts", json!([proc])))?)
}

fn ground_is_proc(mount: &serde_json::Value) -> anyhow::Result<()> {
    ensure!(mount["destination"] == "/proc", "the first mount of a bundle is {mount}");
    Ok(())
}

fn links_when_created(ground: &Ground) -> anyhow::Result<()> {
    let container = ground.create(&ground.bundle()?)?;
    for name in ["fd", "stdin", "stdout", "stderr"] {
        let path = container.proc(&format!("root/dev/{name}"));
        let is_link = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
        ensure!(is_link, "/dev/{name} of a created container: expected a link");
    }
    Ok(())
}
