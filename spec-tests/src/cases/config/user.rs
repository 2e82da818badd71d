//! config.md, POSIX-platform User.

use anyhow::ensure;
use serde_json::json;

use crate::harness::{Case, Fixture, Level};

const SECTION: &str = "config.md#posix-platform-user";

/// In the order of the text.
pub const CASES: &[Case] = &[
    Case::new("user.uid and user.gid are the program's", SECTION, Level::Must, ids),
    Case::new("user.uid and user.gid are ids of the container's user namespace", SECTION, Level::Must, mapped),
    Case::new("a user without an entry in passwd is accepted", SECTION, Level::Must, nobody),
    Case::new("user.umask is the program's umask", SECTION, Level::Must, umask),
    Case::new("without user.umask the program's umask is 0022", "runc: process.user.umask", Level::Runc, default_umask),
    Case::new("user.additionalGids are the program's groups", SECTION, Level::Must, groups),
    Case::new(
        "without additionalGids the program has none of the caller's groups",
        SECTION,
        Level::Security,
        no_groups,
    ),
];

fn ids(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(bundle.set("/process/user", json!({ "uid": 1234, "gid": 5678 })))?;
    for (name, id) in [("Uid", "1234"), ("Gid", "5678")] {
        let found: Vec<_> = facts.status(name)?.split_whitespace().collect();
        ensure!(found == [id; 4], "{name}, real to file system: expected {id} four times, found {found:?}");
    }
    Ok(())
}

fn mapped(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65_536)?.set("/process/user", json!({ "uid": 12, "gid": 34 }));
    let facts = fixture.facts(&bundle)?;
    let found = (facts.status("Uid")?, facts.status("Gid")?);
    ensure!(found == ("12\t12\t12\t12", "34\t34\t34\t34"), "ids inside: expected 12 and 34, found {found:?}");
    Ok(())
}

fn nobody(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    std::fs::write(bundle.rootfs("/etc/passwd"), "root:x:0:0:root:/:/probe\n")?;
    let facts = fixture.facts(bundle.set("/process/user", json!({ "uid": 4321, "gid": 4321 })))?;
    ensure!(facts.status("Uid")?.starts_with("4321"), "the uid: expected 4321, found {}", facts.status("Uid")?);
    Ok(())
}

fn umask(fixture: &Fixture) -> anyhow::Result<()> {
    for (mask, wanted) in [(0o27, "0027"), (0, "0000"), (0o777, "0777")] {
        let mut bundle = fixture.bundle()?;
        let facts = fixture.facts(bundle.set("/process/user/umask", json!(mask)))?;
        let found = facts.status("Umask")?;
        ensure!(found == wanted, "the umask: expected {wanted}, found {found}");
    }
    Ok(())
}

/// The text wants it as it was in the caller; runc has always set it, and images count on files that all can read.
fn default_umask(fixture: &Fixture) -> anyhow::Result<()> {
    let facts = fixture.facts_after("umask 0077", &fixture.bundle()?)?;
    let found = facts.status("Umask")?;
    ensure!(found == "0022", "the umask: expected 0022, found {found}");
    Ok(())
}

fn groups(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/user", json!({ "uid": 1, "gid": 2, "additionalGids": [5, 6, 70_000] }));
    let facts = fixture.facts(&bundle)?;
    let found: Vec<_> = facts.status("Groups")?.split_whitespace().filter(|&gid| gid != "2").collect();
    ensure!(found == ["5", "6", "70000"], "the groups: expected 5, 6 and 70000, found {found:?}");
    Ok(())
}

fn no_groups(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    let id = fixture.id();
    let path = bundle.path().to_string_lossy().into_owned();
    let command = fixture.command(&["run", "--bundle", &path, &id]);
    let program = fixture.runtime().to_string_lossy().into_owned();
    let mut words = vec!["--groups".to_owned(), "0,4,24".to_owned(), "--".to_owned(), program];
    words.extend(command.get_args().map(|word| word.to_string_lossy().into_owned()));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let facts = crate::facts::Facts::parse(&fixture.tool("setpriv", &words)?.ok()?.stdout)?;
    let found: Vec<_> = facts.status("Groups")?.split_whitespace().filter(|&gid| gid != "0").collect();
    ensure!(found.is_empty(), "the groups: expected none, found {found:?}");
    Ok(())
}
