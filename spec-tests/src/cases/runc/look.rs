//! state, list, ps and events: what they print.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::Context;
use serde_json::{Value, json};

use super::RUNC;
use crate::harness::{Case, Done, Fixture, Level, Need, Side};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Runc, run).on(RUNC)
}

/// Cases of output that callers parse.
pub const CASES: &[Case] = &[
    case("state is runc's JSON in each state", "runc: state", states),
    case("state shows annotations and an absolute root", "runc: state", annotations),
    case("state's created is a time in UTC", "runc: state", times),
    case("list is a table, JSON, or names", "runc: list", list),
    case("list's columns are as wide as runc's", "runc: list", columns),
    case("list ignores directories that are no containers", "runc: list", strangers),
    case("ps is ps's table or JSON", "runc: ps", ps),
    case("ps hands its options to ps", "runc: ps", ps_options),
    case("ps in each state has the same outcome as runc's", "runc: ps", ps_states),
    case("events --stats has runc's shape", "runc: events", stats),
    case("events of a container in the wrong state have the same outcome as runc's", "runc: events", events_states),
    case("events reports the use of resources at each interval, until the container exits", "runc: events", stream)
        .on(&[Need::Program("runc"), Need::Controller("memory")]),
];

fn states(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    both.create()?.lines(&["state {id}", "start {id}", "state {id}", "pause {id}", "state {id}", "resume {id}"])?;
    both.stopped()?.lines(&["state {id}", "delete {id}", "state {id}"])?.equal()
}

fn annotations(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.set("/annotations", json!({ "org.example.b": "two", "a": "", "c": "é<>&\"\\\n\u{2028}" }));
    })?;
    both.create()?;
    for name in ["state {id}", "list -f json"] {
        let words: Vec<&str> = name.split(' ').collect();
        // Parsed, for there is more than one way to write a sign in JSON.
        both.done(name, |side| {
            let done = side.call(&words)?;
            Ok(Done { stdout: format!("{:#}\n", serde_json::from_str::<Value>(&done.stdout)?), ..done })
        })?;
    }
    both.equal()
}

fn times(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?;
    both.see("the form of created", |side| {
        let state: Value = serde_json::from_str(&side.call(&["state", "{id}"])?.ok()?.stdout)?;
        let time = state["created"].as_str().context("no created")?.to_owned();
        let (before, fraction) = time.split_once('.').context("no fraction")?;
        Ok(format!(
            "{} {} {}",
            before.len(),
            &before[10..11],
            fraction.trim_start_matches(|sign: char| sign.is_ascii_digit())
        ))
    })?;
    both.equal()
}

fn list(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    let empty =
        ["list", "list -q", "list -f json", "list --format table", "list -f xml", "list -f JSON", "list -q -f xml"];
    both.lines(&empty)?;
    both.started()?;
    both.bundle(|bundle| {
        let path = format!("{}-2", bundle.config["linux"]["cgroupsPath"].as_str().unwrap_or_default());
        bundle.set("/linux/cgroupsPath", json!(path)).args(&["/probe", "exit", "0"]);
    })?;
    both.lines(&[
        "create -b {bundle} --pid-file {dir}/pid2 {id2}",
        "list -q",
        "list -f json",
        "list -q -f json",
        "list -q -f xml",
    ])?
    .table("list")?;
    both.line("delete -f {id2}")?.stopped()?.lines(&["list -q", "list -f json"])?.table("list")?.equal()
}

/// Up to the column of times, whose length varies.
fn columns(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.see("list up to CREATED", |side| {
        let text = side.call(&["list"])?.ok()?.stdout;
        let at = text.find("CREATED").context("list has no CREATED")?;
        Ok(text.lines().map(|line| line.chars().take(at).collect::<String>() + "\n").collect())
    })?;
    both.equal()
}

fn strangers(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|_| ())?.create()?.each(|side| {
        std::fs::create_dir_all(side.fixture.root().join(side.expand("{id2}")))?;
        Ok(std::fs::write(side.fixture.root().join("file"), "")?)
    })?;
    both.lines(&["list -q", "state {id2}", "delete {id2}", "list -f json"])?.table("list")?;
    both.each(|side| Ok(std::fs::remove_file(side.fixture.root().join("file"))?))?.line("delete -f {id2}")?.equal()
}

fn ps(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.lines(&["ps -f json {id}", "ps --format=json {id}", "ps -f xml {id}"])?;
    both.done("ps {id}", |side| titles(side, &["ps", "{id}"]))?;
    both.done("ps --format table {id}", |side| titles(side, &["ps", "--format", "table", "{id}"]))?.equal()
}

/// The title line, and how many lines follow.
fn titles(side: &Side, words: &[&str]) -> anyhow::Result<Done> {
    let done = side.call(words)?;
    let title: Vec<&str> = done.stdout.lines().next().unwrap_or_default().split_whitespace().collect();
    Ok(Done { stdout: format!("{} {}", title.join(" "), done.stdout.lines().count()), ..done })
}

fn ps_options(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.table("ps {id} -eo pid,args")?.table("ps {id} -e -o pid,comm")?;
    both.lines(&["ps {id} -eo args", "ps {id} --bogus", "ps {id} -f json", "ps -f json {id} -eo pid"])?.equal()
}

fn ps_states(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    both.create()?.lines(&["ps -f json {id}", "start {id}", "pause {id}", "ps -f json {id}", "resume {id}"])?;
    both.stopped()?.lines(&["ps -f json {id}", "ps {id}"])?.equal()
}

/// An object without fields, or whose fields are all zero.
fn is_nothing(value: &Value) -> bool {
    value.as_object().is_some_and(|fields| fields.values().all(|value| *value == json!(0)))
}

/// Every key, with the type of its value.
fn shape(value: &Value) -> Value {
    match value {
        // Newer kernels and runtimes report pressure too, and newer ones omit fields that are zero.
        Value::Object(fields) => {
            let shown = fields.iter().filter(|(key, value)| *key != "psi" && !is_nothing(value));
            shown.map(|(key, value)| (key.clone(), shape(value))).collect()
        }
        Value::Array(items) => items.first().map_or(json!("empty list"), |first| json!([shape(first)])),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        Value::Bool(_) => json!("boolean"),
        Value::Null => json!("null"),
    }
}

fn stats(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for name in ["events --stats {id}", "events {id} --stats --interval 1s"] {
        let words: Vec<&str> = name.split(' ').collect();
        both.done(name, |side| {
            let done = side.call(&words)?;
            let event: Value =
                serde_json::from_str(&done.stdout).with_context(|| format!("stats: {:?}", done.stdout))?;
            let top = [&event["type"], &event["id"]].map(Value::to_string).join(" ");
            let known = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"];
            let data = known.iter().map(|name| {
                let shape = match *name {
                    // Their contents are the kernel's, and vary with what the container did.
                    "blkio" | "hugetlb" => shape(&event["data"][name]).is_object().to_string(),
                    _ => shape(&event["data"][name]).to_string(),
                };
                format!("{name}: {shape}\n")
            });
            let stdout = format!("{top}\n{}", data.collect::<String>());
            Ok(Done { stdout, ..done })
        })?;
    }
    both.equal()
}

fn events_states(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.lines(&[
        "events --interval 0s {id}",
        "events --interval -1s {id}",
        "events --stats --interval 0 {id}",
    ])?;
    both.stopped()?.lines(&["events --stats {id}", "events {id}", "events --interval 0s {id}"])?.equal()
}

/// Two looks of the stream, and how it ends when the container does.
fn stream(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.see("events --interval 100ms {id}", |side| {
        let mut command = side.command(&["events", "--interval", "100ms", "{id}"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let mut seen = Vec::new();
        for line in lines {
            let event: Value = serde_json::from_str(&line?)?;
            let current = event["data"]["pids"]["current"].as_u64().unwrap_or_default();
            seen.push(format!("{} {} {current}", event["type"], event["id"]));
            if seen.len() == 2 {
                side.call(&["kill", "{id}", "KILL"])?.ok()?;
                // Init is a child of this process, and a zombie until it is reaped. On v1, runc's stream ends with the cgroup.
                side.wait()?;
                side.call(&["delete", "{id}"])?.ok()?;
            }
        }
        seen.truncate(2);
        Ok(format!("{} then {}", seen.join(", "), child.wait()?))
    })?;
    both.line("state {id}")?.equal()
}
