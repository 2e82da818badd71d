//! exec: each flag, and its exit statuses.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::{RUNC, facts};
use crate::facts::Facts;
use crate::harness::{Case, Fixture, Level, wait_until};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: exec", Level::Runc, run).on(RUNC)
}

/// Another process in a container.
pub const CASES: &[Case] = &[
    case("exec exits with its program's status", statuses),
    case("exec shows its program what runc shows it", sight),
    case("exec takes the environment from its flags", environment),
    case("exec takes a user and groups", users),
    case("exec takes a working directory", directories),
    case("exec takes capabilities and no_new_privs", privileges),
    case("exec takes a whole process from a file", process_file),
    case("exec takes the fields that a process file omits from the container", partial_process_file),
    case("a process file that is wrong is refused", bad_process_file),
    case("exec of a program that cannot be run has the same outcome as runc's", no_program),
    case("exec in each state has the same outcome as runc's", states),
    case("exec leaves its program's own flags alone", order),
    case("exec --detach returns at once and writes the pid file", detach),
    case("exec's cgroup flag is checked", cgroups),
    case("exec takes labels only where the host has them", labels),
];

fn statuses(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for code in ["0", "1", "3", "126", "127", "128", "254", "255"] {
        both.line(&format!("exec {{id}} /probe exit {code}"))?;
    }
    for signal in ["1", "6", "9", "15"] {
        both.line(&format!("exec {{id}} /probe raise {signal}"))?;
    }
    both.equal()
}

fn sight(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.set("/process/rlimits", json!([{ "type": "RLIMIT_NOFILE", "soft": 200, "hard": 200 }]));
        bundle.set("/process/user", json!({ "uid": 5, "gid": 6, "umask": 63, "additionalGids": [7, 8] }));
        bundle.set("/process/cwd", json!("/tmp")).push("/process/env", json!("MORE=1"));
    })?;
    both.started()?;
    facts(&both, "exec {id} /probe facts")?;
    both.equal()
}

fn environment(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for flags in [
        "-e A=1",
        "--env A=1 --env A=2",
        "-e TERM=dumb",
        "-e PATH=/nowhere",
        "-e A=1=2",
        "-e A=",
        "-e =x",
        "-e A",
        "-e HOME=/x",
    ] {
        facts(&both, &format!("exec {flags} {{id}} /probe facts"))?;
    }
    both.call(&["exec", "-e", "A=a b\nc", "{id}", "/probe", "env", "A"])?.equal()
}

fn users(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for flags in
        ["-u 1", "--user 1:2", "--user=65534:65534", "-u 0", "-u 0:5", "-g 7 -g 8", "-u 1:2 --additional-gids 9"]
    {
        facts(&both, &format!("exec {flags} {{id}} /probe facts"))?;
    }
    for flags in ["-u x", "-u 1:x", "-u :1", "-u 1:", "-u -1", "-u 1:2:3", "-u 99999999999", "-g x"] {
        both.line(&format!("exec {flags} {{id}} /probe exit 3"))?;
    }
    both.equal()
}

fn directories(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for flags in ["--cwd /tmp", "--cwd /made/on/the/way", "--cwd="] {
        facts(&both, &format!("exec {flags} {{id}} /probe facts"))?;
    }
    both.lines(&["exec --cwd relative {id} /probe exit 3", "exec --cwd /probe {id} /probe exit 3"])?.equal()
}

fn privileges(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.set("/process/noNewPrivileges", json!(false));
    })?;
    both.started()?;
    for flags in [
        "--cap CAP_NET_RAW",
        "-c CAP_NET_RAW -c CAP_CHOWN",
        "--no-new-privs",
        "--no-new-privs=false",
        "-u 1 -c CAP_NET_RAW",
        "-c CAP_KILL",
        "-c CAP_BOGUS",
        "-c net_raw",
    ] {
        facts(&both, &format!("exec {flags} {{id}} /probe facts"))?;
    }
    both.equal()
}

fn process() -> Value {
    json!({
        "user": { "uid": 3, "gid": 4, "additionalGids": [5] }, "args": ["/probe", "facts"],
        "env": ["PATH=/", "FROM=file"], "cwd": "/tmp", "noNewPrivileges": true,
        "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"] },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 60, "hard": 60 }]
    })
}

fn process_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.each(|side| Ok(fs::write(side.directory().join("process.json"), process().to_string())?))?;
    for line in [
        "exec -p {dir}/process.json {id}",
        "exec --process={dir}/process.json {id}",
        "exec -p process.json {id}",
        "exec -p {dir}/process.json {id} /probe exit 9",
        "exec -p {dir}/process.json -e MORE=1 -u 9 --cwd / {id}",
    ] {
        facts(&both, line)?;
    }
    both.equal()
}

fn partial_process_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let capabilities = json!(["CAP_KILL", "CAP_CHOWN"]);
    for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
        bundle.set(&format!("/process/capabilities/{set}"), capabilities.clone());
    }
    bundle.set("/process/oomScoreAdj", json!(321)).set("/process/user/umask", json!(0o77));
    let container = fixture.start(&mut bundle)?;
    let file = fixture.directory().join("process.json");
    let path = file.to_string_lossy().into_owned();
    let seen = |process: &Value| {
        fs::write(&file, process.to_string())?;
        let done = fixture.call(&["exec", "--process", &path, container.id()])?.ok()?;
        Facts::parse(&done.stdout)
    };
    let mut process = json!({ "args": ["/probe", "facts"], "cwd": "/", "user": { "uid": 0, "gid": 0 } });
    for absent in [json!({}), json!({ "capabilities": null, "oomScoreAdj": null })] {
        process.as_object_mut().context("an object")?.extend(absent.as_object().cloned().unwrap_or_default());
        let found = seen(&process)?;
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(
                found.capabilities(name)? == 0x21,
                "{name}: expected the container's 21, found {}",
                found.status(name)?
            );
        }
        ensure!(
            found.status("Umask")? == "0077",
            "Umask: expected the container's 0077, found {}",
            found.status("Umask")?
        );
        ensure!(found.status("NoNewPrivs")? == "0", "noNewPrivileges is false in a file that has none");
        let score = found.files.get("/proc/self/oom_score_adj");
        let score = score.map(|text| text.trim());
        ensure!(score == Some("321"), "oom_score_adj: expected the container's 321, found {score:?}");
    }
    process["capabilities"] = json!({});
    let found = seen(&process)?;
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        ensure!(
            found.capabilities(name)? == 0,
            "{name} of empty capabilities: expected none, found {}",
            found.status(name)?
        );
    }
    Ok(())
}

fn bad_process_file(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.line("exec -p {dir}/none {id}")?;
    let with = |pointer: &str, value: Value| {
        let mut process = process();
        process[pointer] = value;
        process.to_string()
    };
    let texts = [
        ("empty", String::new()),
        ("half", "{".to_owned()),
        ("a list", "[]".to_owned()),
        ("no args", with("args", json!([]))),
        ("null args", with("args", Value::Null)),
        ("relative cwd", with("cwd", json!("tmp"))),
        ("no cwd", with("cwd", json!(""))),
        ("user of the wrong type", with("user", json!("root"))),
        ("env of the wrong type", with("env", json!([1]))),
        ("terminal of the wrong type", with("terminal", json!("yes"))),
        ("no such program", with("args", json!(["/none"]))),
    ];
    for (name, text) in texts {
        both.each(|side| Ok(fs::write(side.directory().join("process.json"), &text)?))?;
        let name = format!("exec -p FILE {{id}} with {name}");
        both.done(&name, |side| side.call(&["exec", "-p", "{dir}/process.json", "{id}"]))?;
    }
    both.line("state {id}")?.equal()
}

fn no_program(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        // Neither program nor script.
        let _ = fs::write(bundle.rootfs("/plain"), "text");
        let _ = fs::write(bundle.rootfs("/noise"), "\x01\x02");
        use std::os::unix::fs::PermissionsExt;
        let _ = fs::set_permissions(bundle.rootfs("/noise"), fs::Permissions::from_mode(0o755));
    })?;
    both.started()?;
    for program in
        ["none", "/none", "/none/below", "/tmp", "./none", "plain", "/plain", "/noise", "/probe/below", "tmp/none"]
    {
        both.line(&format!("exec {{id}} {program}"))?;
    }
    both.lines(&["exec -d {id} none", "exec -d {id} /none", "exec -d {id} /plain"])?;
    both.call(&["exec", "{id}", ""])?.line("exec {id}")?.line("state {id}")?.equal()
}

fn states(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "wait"]);
    })?;
    both.create()?.lines(&["exec {id} /probe exit 3", "state {id}", "start {id}"])?;
    both.stopped()?
        .lines(&["exec {id} /probe exit 3", "exec -d {id} /probe", "exec -p none {id}", "exec {id}"])?
        .equal()
}

fn order(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    facts(&both, "exec {id} /probe facts --tty -e A=1 --help -- -d")?;
    facts(&both, "exec -- {id} /probe facts -d")?;
    facts(&both, "exec {id} -- /probe facts")?;
    both.lines(&["exec -tty=false {id} /probe exit 4", "exec --bogus {id} /probe", "exec -d=false {id} /probe exit 4"])?
        .equal()
}

fn detach(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?.line("exec --detach --pid-file {dir}/pid2 {id} /probe wait")?;
    both.see("the second process", |side| {
        let pid: i32 = fs::read_to_string(side.directory().join("pid2"))?.parse()?;
        // runc does not wait until it runs its program.
        wait_until("the second process", || {
            let words = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            Ok(words.starts_with("/probe").then_some(words))
        })
    })?;
    both.see("how many pids ps lists", |side| {
        let pids: Value = serde_json::from_str(&side.call(&["ps", "-f", "json", "{id}"])?.ok()?.stdout)?;
        Ok(pids.as_array().map_or(0, Vec::len).to_string())
    })?;
    both.lines(&["exec -d --pid-file {dir}/no/such {id} /probe wait", "exec -d {id} /none", "state {id}"])?;
    both.line("kill --all {id} KILL")?;
    both.see("the second process's end", |side| Ok(side.wait_for("pid2")?.to_string()))?.wait()?.equal()
}

fn cgroups(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for flags in ["--cgroup ../x", "--cgroup /", "--cgroup bogus:/", "--cgroup=:", "--cgroup a:b:c"] {
        both.line(&format!("exec {flags} {{id}} /probe exit 3"))?;
    }
    both.equal()
}

fn labels(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    for flags in ["--apparmor bogus-profile", "--process-label bogus:label", "--apparmor=", "--process-label="] {
        both.line(&format!("exec {flags} {{id}} /probe exit 3"))?;
    }
    both.equal()
}
