//! create and start: what they write, what they refuse, ids.

use std::fs;

use serde_json::json;

use super::RUNC;
use crate::harness::{Case, Differential, Fixture, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: create", Level::Runc, run).on(RUNC)
}

/// A container's beginning.
pub const CASES: &[Case] = &[
    case("create leaves a created container and prints nothing", created),
    case("the pid file holds the pid and nothing else", pid_file),
    case("flags may follow the id of create", flags_after_id),
    case("create accepts each of runc's flags", flags),
    case("a second create of an id is refused, and the first container continues", twice),
    case("ids are accepted and refused as by runc", ids),
    case("start of a container in the wrong state has the same outcome as runc's", start_in_wrong_state),
    case("a pid file that cannot be written fails the create", bad_pid_file),
    case("a terminal without a console socket is refused, and the reverse", terminals),
    case("a created container of another bundle directory runs there", working_directory),
    case("a console socket that is none is an error", bad_sockets),
];

/// The names in the both' directories.
fn listing(both: &Differential, what: &str) -> anyhow::Result<()> {
    both.see(what, |side| {
        let mut names = Vec::new();
        for entry in fs::read_dir(side.directory())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names.join(" "))
    })?;
    Ok(())
}

fn created(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?.lines(&["state {id}", "start {id}"])?;
    both.wait()?.lines(&["state {id}", "delete {id}", "state {id}", "delete {id}"])?;
    both.see("the root after delete", |side| {
        let left = side.fixture.root().read_dir()?.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
        Ok(left.count().to_string())
    })?;
    both.equal()
}

fn pid_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?;
    listing(&both, "files after create")?;
    both.see("the pid file", |side| Ok(fs::read_to_string(side.directory().join("pid"))?))?;
    both.see("its mode", |side| {
        use std::os::unix::fs::PermissionsExt;
        Ok(format!("{:o}", fs::metadata(side.directory().join("pid"))?.permissions().mode()))
    })?;
    both.see("init's parent and argv", |side| {
        let stat = fs::read_to_string(format!("/proc/{}/status", side.pid()?))?;
        Ok(stat.lines().filter(|line| line.starts_with("PPid") || line.starts_with("NSpid")).collect())
    })?;
    // An existing file is replaced, in the working directory and in others.
    both.line("delete -f {id}")?.each(|side| Ok(fs::write(side.directory().join("pid"), "old and longer")?))?;
    both.line("create -b {bundle} --pid-file pid {id}")?;
    both.see("the pid file again", |side| Ok(fs::read_to_string(side.directory().join("pid"))?))?;
    both.equal()
}

fn flags_after_id(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.lines(&["create {id} --bundle {bundle} --pid-file={dir}/pid", "start {id}"])?.wait()?;
    both.lines(&["delete {id} --force", "create -b={bundle} {id} -no-pivot=false", "delete -f {id}"])?.equal()
}

fn flags(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    for flags in [
        "--no-pivot",
        "--no-new-keyring",
        "--preserve-fds 0",
        "--preserve-fds=0 --no-pivot=false",
        "--pid-file=",
        "--console-socket=",
    ] {
        both.lines(&[&format!("create {flags} -b {{bundle}} {{id}}"), "delete -f {id}"])?;
    }
    both.equal()
}

fn twice(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?;
    both.lines(&["create -b {bundle} {id}", "run -b {bundle} {id}", "run -d -b {bundle} {id}", "state {id}"])?;
    both.line("start {id}")?.wait()?.lines(&["create -b {bundle} {id}", "state {id}"])?.equal()
}

fn ids(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    for id in
        ["{id}+a_B.c-9", "_{id}", "-", "+", ".", "..", "a/b", "/", "a b", "ü", "a:b", "", "{id}\n", "~", "a\\b", "%x"]
    {
        if id.contains("{id}") {
            both.each(|side| {
                side.fixture.claim(&side.expand(id));
                Ok(())
            })?;
        }
        both.call(&["create", "-b", "{bundle}", "--", id])?.call(&["delete", "-f", "--", id])?;
    }
    // Longer than a file name may be.
    let long = "x".repeat(300);
    both.call(&["create", "-b", "{bundle}", &long])?.call(&["state", &long])?.equal()
}

fn start_in_wrong_state(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.lines(&["start {id}", "state {id}", "pause {id}", "start {id}", "resume {id}"])?;
    both.stopped()?.lines(&["start {id}", "state {id}"])?.equal()
}

fn bad_pid_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    both.lines(&[
        "create -b {bundle} --pid-file {dir}/no/pid {id}",
        "state {id}",
        "run -b {bundle} --pid-file {dir}/no/pid {id}",
    ])?;
    both.lines(&["state {id}", "create -b {bundle} --pid-file {dir} {id}", "state {id}"])?;
    listing(&both, "files after that")?;
    both.equal()
}

fn terminals(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.set("/process/terminal", json!(true));
    })?;
    both.lines(&["create -b {bundle} {id}", "state {id}", "run -d -b {bundle} {id}", "state {id}"])?;
    both.line("run --console-socket {dir}/none -b {bundle} {id}")?;
    both.bundle(|bundle| {
        bundle.set("/process/terminal", json!(false));
    })?;
    both.lines(&["create --console-socket {dir}/none -b {bundle} {id}", "state {id}"])?;
    both.lines(&[
        "run -d --console-socket {dir}/none -b {bundle} {id}",
        "state {id}",
        "run --console-socket {dir}/none -b {bundle} {id}",
    ])?;
    both.started()?.lines(&["exec -t -d {id} /probe", "exec --console-socket {dir}/none {id} /probe"])?;
    both.lines(&["exec --console-socket {dir}/none -d {id} /probe", "exec --console-socket {dir}/none -t {id} /probe"])?
        .equal()
}

fn bad_sockets(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.set("/process/terminal", json!(true));
    })?;
    both.each(|side| Ok(fs::write(side.directory().join("file"), "")?))?;
    both.lines(&["create --console-socket {dir}/none -b {bundle} {id}", "state {id}"])?;
    both.lines(&["create --console-socket {dir}/file -b {bundle} {id}", "state {id}"])?.equal()
}

fn working_directory(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?;
    let from = |line: &'static str| {
        move |side: &crate::harness::Side| {
            let mut command = side.command(&line.split_whitespace().collect::<Vec<_>>());
            command.current_dir(side.bundle.path());
            side.run(command, None)
        }
    };
    both.done("create {id} in the bundle", from("create --pid-file {dir}/pid {id}"))?
        .lines(&["state {id}", "delete -f {id}"])?;
    both.done("create -b . {id} in the bundle", from("create -b . --pid-file {dir}/pid {id}"))?
        .lines(&["state {id}", "delete -f {id}"])?;
    both.done("create -b ./rootfs/../ {id} in the bundle", from("create -b ./rootfs/../ --pid-file {dir}/pid {id}"))?
        .line("state {id}")?;
    both.equal()
}
