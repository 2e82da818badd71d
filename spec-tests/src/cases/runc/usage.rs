//! The command line itself: global flags, help, versions, wrong flags and wrong numbers of arguments.

use super::RUNC;
use crate::harness::{Case, Ground, Level};

const fn case(name: &'static str, run: fn(&Ground) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: command line", Level::Runc, run).on(RUNC)
}

/// From the global flags to the verbs' own.
pub const CASES: &[Case] = &[
    case("the version is told as runc tells it", version),
    case("help ends well on stdout", help),
    case("unknown flags and verbs end as runc's", unknown),
    case("a wrong number of arguments ends as runc's", counts),
    case("flags without their value end as runc's", values),
    case("verbs without their container end as runc's", nobody),
    case("one dash and two are the same", dashes),
    case("the log goes to a file in both formats", log),
    case("a log that cannot be is an error", bad_log),
    case("debug lines go to the log only when asked for", debug),
    case("the disk's root is no place for records", root),
];

fn version(ground: &Ground) -> anyhow::Result<()> {
    ground.twins()?.lines(&["--version", "-v", "-version", "--version state", "--debug -v"])?.equal()
}

fn help(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    twins.lines(&["", "--help", "-h", "help", "h", "help state", "-h state"])?;
    for verb in VERBS {
        twins.lines(&[&format!("{verb} --help"), &format!("{verb} -h"), &format!("{verb} x y z --help")])?;
    }
    twins.equal()
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

fn unknown(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    twins.lines(&["bogus", "help bogus", "--bogus", "-x state", "--bogus=1 list", "State"])?;
    for verb in VERBS {
        twins.lines(&[&format!("{verb} --bogus"), &format!("{verb} --bogus=1 x")])?;
    }
    // Where the arguments are the program's own, they are left alone.
    twins.lines(&["exec x ls --bogus", "ps x --bogus"])?.equal()
}

fn counts(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    for verb in
        ["create", "run", "start", "state", "delete", "pause", "resume", "events", "update", "checkpoint", "restore"]
    {
        twins.lines(&[verb, &format!("{verb} x y")])?;
    }
    twins.lines(&["kill", "kill x TERM y", "exec", "exec x", "ps", "list x", "spec x", "features x"])?.equal()
}

fn values(ground: &Ground) -> anyhow::Result<()> {
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
    ground.twins()?.lines(&lines)?.equal()
}

fn nobody(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    for id in ["..", ".", "%", "ü", "a:b"] {
        twins.lines(&[&format!("state {id}"), &format!("delete -f {id}")])?;
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
            twins.line(&format!("{verb} {id}"))?;
        }
        twins.lines(&[&format!("exec {id} ls"), &format!("kill {id} FOO"), &format!("update --memory 1x {id}")])?;
    }
    twins.call(&["state", ""])?.call(&["delete", "-f", ""])?.call(&["kill", "", "KILL"])?.equal()
}

fn dashes(ground: &Ground) -> anyhow::Result<()> {
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
    let twins = ground.twins()?;
    // runc 1.1 makes the root that list is given, and 1.5 says that it is not there.
    twins.each(|twin| Ok(std::fs::create_dir(twin.directory().join("a"))?))?;
    twins.lines(&lines)?.equal()
}

fn log(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    for (name, flags) in
        [("text", ""), ("text", "--log-format text"), ("json", "--log-format json"), ("json", "--log-format=json")]
    {
        twins.each(|twin| Ok(std::fs::remove_file(twin.directory().join("log")).or_else(absent)?))?;
        twins.lines(&[
            &format!("--log {{dir}}/log {flags} state x"),
            &format!("--log {{dir}}/log {flags} kill x FOO"),
        ])?;
        twins.see(&format!("the log as {name} {flags}"), |twin| {
            Ok(std::fs::read_to_string(twin.directory().join("log"))?)
        })?;
    }
    // Without a file the format holds for stderr.
    twins.lines(&["--log-format json state x", "--log-format json exec x ls", "--log /dev/stderr state x"])?.equal()
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn bad_log(ground: &Ground) -> anyhow::Result<()> {
    let lines = [
        "--log {dir}/no/such/log list",
        "--log {dir} list",
        "--log-format xml list",
        "--log-format= list -q",
        "--log-format xml --log {dir}/log list",
    ];
    ground.twins()?.lines(&lines)?.equal()
}

fn debug(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    twins.lines(&["--log {dir}/log list -q", "--debug --log {dir}/debug --log-format json state x"])?;
    twins.see("a quiet log", |twin| Ok(std::fs::read_to_string(twin.directory().join("log"))?))?;
    twins.see("the last error of a debug log", |twin| {
        let text = std::fs::read_to_string(twin.directory().join("debug"))?;
        let errors = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        Ok(errors
            .filter(|line| line["level"] == "error")
            .map(|line| line["msg"].to_string())
            .next_back()
            .unwrap_or_default())
    })?;
    twins.equal()
}

fn root(ground: &Ground) -> anyhow::Result<()> {
    let twins = ground.twins()?;
    twins.each(|twin| {
        std::fs::create_dir_all(twin.directory().join("new/below"))?;
        Ok(std::fs::create_dir(twin.directory().join("relative"))?)
    })?;
    twins.lines(&["--root / state x", "--root // state x", "--root /.. state x", "--root {dir}/new/below list -q"])?;
    twins.lines(&["--root relative list -q", "--root= list -q", "--root {dir}/new list -f json"])?.equal()
}
