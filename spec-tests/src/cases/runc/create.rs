//! create and start: what they write, what they refuse, ids.

use std::fs;

use serde_json::json;

use super::RUNC;
use crate::harness::{Case, Ground, Level, Twins};

const fn case(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: create", Level::Runc, run).on(RUNC)
}

/// A container's beginning.
pub const CASES: &[Case] = &[
    case("create leaves a created container and says nothing", created),
    case("the pid file holds the pid and nothing else", pid_file),
    case("flags may follow the id of create", flags_after_id),
    case("create accepts each of runc's flags", flags),
    case("a second create of an id is refused, the first lives on", twice),
    case("ids are taken and refused as by runc", ids),
    case("start of a container in the wrong state ends as runc's", start_in_wrong_state),
    case("a pid file that cannot be written fails the create", bad_pid_file),
    case("a terminal without a console socket is refused, and the reverse", terminals),
    case("a created container of another bundle directory runs there", working_directory),
    case("a console socket that is none is an error", bad_sockets),
];

/// The names in the twins' directories.
fn listing(twins: &Twins, what: &str) -> anyhow::Result<()> {
    twins.see(what, |twin| {
        let mut names = Vec::new();
        for entry in fs::read_dir(twin.directory())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names.join(" "))
    })?;
    Ok(())
}

fn created(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?.lines(&["state {id}", "start {id}"])?;
    twins.wait()?.lines(&["state {id}", "delete {id}", "state {id}", "delete {id}"])?;
    twins.see("the root after delete", |twin| {
        let left = twin.ground.root().read_dir()?.filter_map(Result::ok).filter(|entry| entry.path().is_dir());
        Ok(left.count().to_string())
    })?;
    twins.equal()
}

fn pid_file(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?;
    listing(&twins, "files after create")?;
    twins.see("the pid file", |twin| Ok(fs::read_to_string(twin.directory().join("pid"))?))?;
    twins.see("its mode", |twin| {
        use std::os::unix::fs::PermissionsExt;
        Ok(format!("{:o}", fs::metadata(twin.directory().join("pid"))?.permissions().mode()))
    })?;
    twins.see("init's parent and argv", |twin| {
        let stat = fs::read_to_string(format!("/proc/{}/status", twin.pid()?))?;
        Ok(stat.lines().filter(|line| line.starts_with("PPid") || line.starts_with("NSpid")).collect())
    })?;
    // A file that is there is replaced, in the working directory as elsewhere.
    twins.line("delete -f {id}")?.each(|twin| Ok(fs::write(twin.directory().join("pid"), "old and longer")?))?;
    twins.line("create -b {bundle} --pid-file pid {id}")?;
    twins.see("the pid file again", |twin| Ok(fs::read_to_string(twin.directory().join("pid"))?))?;
    twins.equal()
}

fn flags_after_id(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.lines(&["create {id} --bundle {bundle} --pid-file={dir}/pid", "start {id}"])?.wait()?;
    twins.lines(&["delete {id} --force", "create -b={bundle} {id} -no-pivot=false", "delete -f {id}"])?.equal()
}

fn flags(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?;
    for flags in [
        "--no-pivot",
        "--no-new-keyring",
        "--preserve-fds 0",
        "--preserve-fds=0 --no-pivot=false",
        "--pid-file=",
        "--console-socket=",
    ] {
        twins.lines(&[&format!("create {flags} -b {{bundle}} {{id}}"), "delete -f {id}"])?;
    }
    twins.equal()
}

fn twice(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?.create()?;
    twins.lines(&["create -b {bundle} {id}", "run -b {bundle} {id}", "run -d -b {bundle} {id}", "state {id}"])?;
    twins.line("start {id}")?.wait()?.lines(&["create -b {bundle} {id}", "state {id}"])?.equal()
}

fn ids(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?;
    for id in
        ["{id}+a_B.c-9", "_{id}", "-", "+", ".", "..", "a/b", "/", "a b", "ü", "a:b", "", "{id}\n", "~", "a\\b", "%x"]
    {
        if id.contains("{id}") {
            twins.each(|twin| {
                twin.ground.claim(&twin.expand(id));
                Ok(())
            })?;
        }
        twins.call(&["create", "-b", "{bundle}", "--", id])?.call(&["delete", "-f", "--", id])?;
    }
    // Longer than a file name may be.
    let long = "x".repeat(300);
    twins.call(&["create", "-b", "{bundle}", &long])?.call(&["state", &long])?.equal()
}

fn start_in_wrong_state(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.started()?.lines(&["start {id}", "state {id}", "pause {id}", "start {id}", "resume {id}"])?;
    twins.stopped()?.lines(&["start {id}", "state {id}"])?.equal()
}

fn bad_pid_file(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    twins.lines(&[
        "create -b {bundle} --pid-file {dir}/no/pid {id}",
        "state {id}",
        "run -b {bundle} --pid-file {dir}/no/pid {id}",
    ])?;
    twins.lines(&["state {id}", "create -b {bundle} --pid-file {dir} {id}", "state {id}"])?;
    listing(&twins, "files after that")?;
    twins.equal()
}

fn terminals(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.set("/process/terminal", json!(true));
    })?;
    twins.lines(&["create -b {bundle} {id}", "state {id}", "run -d -b {bundle} {id}", "state {id}"])?;
    twins.line("run --console-socket {dir}/none -b {bundle} {id}")?;
    twins.bundle(|bundle| {
        bundle.set("/process/terminal", json!(false));
    })?;
    twins.lines(&["create --console-socket {dir}/none -b {bundle} {id}", "state {id}"])?;
    twins.lines(&[
        "run -d --console-socket {dir}/none -b {bundle} {id}",
        "state {id}",
        "run --console-socket {dir}/none -b {bundle} {id}",
    ])?;
    twins.started()?.lines(&["exec -t -d {id} /probe", "exec --console-socket {dir}/none {id} /probe"])?;
    twins
        .lines(&["exec --console-socket {dir}/none -d {id} /probe", "exec --console-socket {dir}/none -t {id} /probe"])?
        .equal()
}

fn bad_sockets(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|bundle| {
        bundle.set("/process/terminal", json!(true));
    })?;
    twins.each(|twin| Ok(fs::write(twin.directory().join("file"), "")?))?;
    twins.lines(&["create --console-socket {dir}/none -b {bundle} {id}", "state {id}"])?;
    twins.lines(&["create --console-socket {dir}/file -b {bundle} {id}", "state {id}"])?.equal()
}

fn working_directory(ground: &Ground) -> anyhow::Result<()> {
    let mut twins = ground.twins()?;
    twins.bundle(|_| ())?;
    let from = |line: &'static str| {
        move |twin: &crate::harness::Twin| {
            let mut command = twin.command(&line.split_whitespace().collect::<Vec<_>>());
            command.current_dir(twin.bundle.path());
            twin.run(command, None)
        }
    };
    twins
        .done("create {id} in the bundle", from("create --pid-file {dir}/pid {id}"))?
        .lines(&["state {id}", "delete -f {id}"])?;
    twins
        .done("create -b . {id} in the bundle", from("create -b . --pid-file {dir}/pid {id}"))?
        .lines(&["state {id}", "delete -f {id}"])?;
    twins
        .done("create -b ./rootfs/../ {id} in the bundle", from("create -b ./rootfs/../ --pid-file {dir}/pid {id}"))?
        .line("state {id}")?;
    twins.equal()
}
