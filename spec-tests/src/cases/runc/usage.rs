//! The command line itself: global flags, help, versions, wrong flags and wrong numbers of arguments.

use super::RUNC;
use crate::harness::{Case, Fixture, Level};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: command line", Level::Runc, run).on(RUNC)
}

/// From the global flags to the verbs' own.
pub const CASES: &[Case] = &[
    case("the version is printed as by runc", version),
    case("help succeeds, on stdout", help),
    case("unknown flags and verbs have the same outcome as runc's", unknown),
    case("a wrong number of arguments has the same outcome as runc's", counts),
    case("flags without their value have the same outcome as runc's", values),
    case("verbs without their container have the same outcome as runc's", nobody),
    case("flags may have one dash or two", dashes),
    case("the log goes to a file in both formats", log),
    case("a log that cannot be created is an error", bad_log),
    case("debug lines go to the log only when asked for", debug),
    case("the root directory is refused as the state directory", root),
];

fn version(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.differential()?.lines(&["--version", "-v", "-version", "--version state", "--debug -v"])?.equal()
}

fn help(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.lines(&["", "--help", "-h", "help", "h", "help state", "-h state"])?;
    for verb in VERBS {
        both.lines(&[&format!("{verb} --help"), &format!("{verb} -h"), &format!("{verb} x y z --help")])?;
    }
    both.equal()
}

const VERBS: &[&str] = &[
    "create",
    "run",
    "start",
    "state",
    "kill",
    "delete",
    "pause",
    "resume",
    "exec",
    "ps",
    "events",
    "update",
    "list",
    "spec",
    "features",
    "checkpoint",
    "restore",
];

fn unknown(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.lines(&["bogus", "help bogus", "--bogus", "-x state", "--bogus=1 list", "State"])?;
    for verb in VERBS {
        both.lines(&[&format!("{verb} --bogus"), &format!("{verb} --bogus=1 x")])?;
    }
    // Where the arguments are the program's own, they are left alone.
    both.lines(&["exec x ls --bogus", "ps x --bogus"])?.equal()
}

fn counts(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    for verb in
        ["create", "run", "start", "state", "delete", "pause", "resume", "events", "update", "checkpoint", "restore"]
    {
        both.lines(&[verb, &format!("{verb} x y")])?;
    }
    both.lines(&["kill", "kill x TERM y", "exec", "exec x", "ps", "list x", "spec x", "features x"])?.equal()
}

fn values(fixture: &Fixture) -> anyhow::Result<()> {
    let lines = [
        "--log",
        "--root",
        "--log-format",
        "create --bundle",
        "create x -b",
        "run --pid-file",
        "exec --env",
        "exec -u",
        "exec --preserve-fds many x ls",
        "create --preserve-fds many x",
        "update --memory",
        "events --interval",
        "events --interval soon x",
        "list -f",
        "ps --format",
        "create --no-pivot=maybe x",
        "delete --force=maybe x",
        "exec --tty=7 x ls",
        "spec -b",
        "kill --all=no",
        "checkpoint --image-path",
        "exec --additional-gids x y z",
        "create --preserve-fds -1 x",
        "update --cpu-share x y",
    ];
    fixture.differential()?.lines(&lines)?.equal()
}

fn nobody(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    for id in ["..", ".", "%", "ü", "a:b"] {
        both.lines(&[&format!("state {id}"), &format!("delete -f {id}")])?;
    }
    for id in ["x", "a/b", "a,b"] {
        for verb in [
            "state",
            "start",
            "kill",
            "delete",
            "delete -f",
            "pause",
            "resume",
            "ps",
            "events --stats",
            "update",
            "checkpoint",
        ] {
            both.line(&format!("{verb} {id}"))?;
        }
        both.lines(&[&format!("exec {id} ls"), &format!("kill {id} FOO"), &format!("update --memory 1x {id}")])?;
    }
    both.call(&["state", ""])?.call(&["delete", "-f", ""])?.call(&["kill", "", "KILL"])?.equal()
}

fn dashes(fixture: &Fixture) -> anyhow::Result<()> {
    let lines = [
        "-root={dir}/a list -q",
        "-debug=false list -q",
        "--debug=0 list -q",
        "list -format json",
        "list --format=json",
        "list -f=json",
        "list -- -q",
        "list -q -q",
        "list -quiet=false",
        "list --q",
        "delete x -force",
        "delete x --force",
        "-systemd-cgroup=false list -q",
        "--log= list -q",
        "--rootless auto list -q",
        "--rootless=true list -q",
        "--rootless maybe list -q",
        "state x -- ",
        "kill x -- KILL",
        "-- list",
    ];
    let both = fixture.differential()?;
    // runc 1.1 makes the root that list is given, and 1.5 says that it is not there.
    both.each(|side| Ok(std::fs::create_dir(side.directory().join("a"))?))?;
    both.lines(&lines)?.equal()
}

fn log(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    for (name, flags) in
        [("text", ""), ("text", "--log-format text"), ("json", "--log-format json"), ("json", "--log-format=json")]
    {
        both.each(|side| Ok(std::fs::remove_file(side.directory().join("log")).or_else(absent)?))?;
        both.lines(&[&format!("--log {{dir}}/log {flags} state x"), &format!("--log {{dir}}/log {flags} kill x FOO")])?;
        both.see(&format!("the log as {name} {flags}"), |side| {
            Ok(std::fs::read_to_string(side.directory().join("log"))?)
        })?;
    }
    // Without a file the format holds for stderr.
    both.lines(&["--log-format json state x", "--log-format json exec x ls", "--log /dev/stderr state x"])?.equal()
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn bad_log(fixture: &Fixture) -> anyhow::Result<()> {
    let lines = [
        "--log {dir}/no/such/log list",
        "--log {dir} list",
        "--log-format xml list",
        "--log-format= list -q",
        "--log-format xml --log {dir}/log list",
    ];
    fixture.differential()?.lines(&lines)?.equal()
}

fn debug(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.lines(&["--log {dir}/log list -q", "--debug --log {dir}/debug --log-format json state x"])?;
    both.see("a quiet log", |side| Ok(std::fs::read_to_string(side.directory().join("log"))?))?;
    both.see("the last error of a debug log", |side| {
        let text = std::fs::read_to_string(side.directory().join("debug"))?;
        let errors = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(errors
            .filter(|line| line["level"] == "error")
            .map(|line| line["msg"].to_string())
            .next_back()
            .unwrap_or_default())
    })?;
    both.equal()
}

fn root(fixture: &Fixture) -> anyhow::Result<()> {
    let both = fixture.differential()?;
    both.each(|side| {
        std::fs::create_dir_all(side.directory().join("new/below"))?;
        Ok(std::fs::create_dir(side.directory().join("relative"))?)
    })?;
    both.lines(&["--root / state x", "--root // state x", "--root /.. state x", "--root {dir}/new/below list -q"])?;
    both.lines(&["--root relative list -q", "--root= list -q", "--root {dir}/new list -f json"])?.equal()
}
