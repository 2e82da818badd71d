//! config.md, Process: the terminal and its size.

use anyhow::ensure;
use serde_json::json;

use crate::facts::Facts;
use crate::harness::{Bundle, Case, ConsoleSocket, Container, Fixture, Level, Terminal};

const SECTION: &str = "config.md#process";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("a terminal is stdin, stdout and stderr of the program", SECTION, Level::Must, on_streams),
    Case::new("a terminal is the program's controlling terminal", SECTION, Level::Runc, controlling),
    Case::new("without process.terminal there is none", SECTION, Level::Must, none),
    Case::new("input on a terminal reaches the program", SECTION, Level::Must, typed),
    Case::new("consoleSize is the terminal's size", SECTION, Level::Must, size),
    Case::new("consoleSize is ignored without a terminal", SECTION, Level::Must, size_without),
    Case::new("a terminal's size can be changed by the caller", SECTION, Level::Runc, resized),
    Case::new("a terminal is of the container's own devpts, and is its /dev/console", SECTION, Level::Runc, console),
];

/// Creates the bundle with a terminal, and starts it.
fn start<'a>(fixture: &'a Fixture, bundle: &mut Bundle) -> anyhow::Result<(Container<'a>, Terminal)> {
    let socket = ConsoleSocket::listen(fixture)?;
    bundle.set("/process/terminal", json!(true));
    let container = fixture.create_with(bundle, &["--console-socket", &socket.path().to_string_lossy()])?;
    let terminal = socket.terminal()?;
    container.start()?;
    Ok((container, terminal))
}

fn facts(fixture: &Fixture, bundle: &mut Bundle) -> anyhow::Result<Facts> {
    let (container, terminal) = start(fixture, bundle)?;
    let facts = Facts::parse(&terminal.read_to_end()?)?;
    container.wait()?;
    Ok(facts)
}

fn on_streams(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = facts(fixture, &mut fixture.bundle()?)?;
    ensure!(facts.terminal.is_some(), "stdin: expected a terminal, found {:?}", facts.fds);
    let found: Vec<_> = (0..3).map(|number| facts.fds.get(&number)).collect();
    ensure!(found[0] == found[1] && found[1] == found[2], "expected one terminal on 0, 1 and 2; found {found:?}");
    Ok(())
}

fn controlling(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = facts(fixture, &mut fixture.bundle()?)?;
    let number = facts.stat.get(6).map_or("", String::as_str);
    ensure!(number != "0" && !number.is_empty(), "tty_nr in /proc/self/stat: expected a terminal, found {number:?}");
    Ok(())
}

fn none(fixture: &Fixture) -> anyhow::Result<()> {
    for setting in [None, Some(false)] {
        let mut bundle = fixture.bundle()?;
        if let Some(value) = setting {
            bundle.set("/process/terminal", json!(value));
        }
        let facts = fixture.facts(&bundle)?;
        ensure!(facts.terminal.is_none(), "terminal {setting:?}: expected none, found {:?}", facts.fds);
    }
    Ok(())
}

fn typed(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "try", "read", "/dev/stdin"]);
    let (container, terminal) = start(fixture, &mut bundle)?;
    // A line, and the end of the file.
    terminal.write("words\n\u{4}")?;
    let text = terminal.read_to_end()?;
    ensure!(text.contains("ok words"), "the program's answer: expected \"ok words\", found {text:?}");
    container.wait().map(drop)
}

fn size(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/consoleSize", json!({ "height": 17, "width": 71 }));
    let found = facts(fixture, &mut bundle)?.terminal;
    ensure!(found == Some((17, 71)), "rows and columns: expected 17 and 71, found {found:?}");
    Ok(())
}

fn size_without(fixture: &Fixture) -> anyhow::Result<()> {
    for value in [json!({ "height": 17, "width": 71 }), json!({ "height": 0, "width": 0 })] {
        for terminal in [None, Some(false)] {
            let mut bundle = fixture.bundle()?;
            bundle.set("/process/consoleSize", value.clone());
            if let Some(terminal) = terminal {
                bundle.set("/process/terminal", json!(terminal));
            }
            fixture.facts(&bundle)?;
        }
    }
    Ok(())
}

fn resized(fixture: &Fixture) -> anyhow::Result<()> {
    let socket = ConsoleSocket::listen(fixture)?;
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/terminal", json!(true));
    let container = fixture.create_with(&bundle, &["--console-socket", &socket.path().to_string_lossy()])?;
    let terminal = socket.terminal()?;
    terminal.resize(41, 142)?;
    container.start()?;
    let facts = Facts::parse(&terminal.read_to_end()?)?;
    container.wait()?;
    ensure!(facts.terminal == Some((41, 142)), "rows and columns: expected 41 and 142, found {:?}", facts.terminal);
    Ok(())
}

fn console(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = facts(fixture, &mut fixture.bundle()?)?;
    let stdin = facts.fds.get(&0).map_or("", String::as_str);
    ensure!(["/dev/pts/0", "/dev/console"].contains(&stdin), "stdin: expected /dev/pts/0, found {stdin}");
    let mount = facts.mount("/dev/console")?;
    ensure!(mount.kind == "devpts", "the mount at /dev/console: expected a devpts, found {mount:?}");
    Ok(())
}
