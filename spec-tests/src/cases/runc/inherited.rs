//! Inheritance from the caller: descriptors, sockets of a service manager, the socket for a terminal.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};

use serde_json::json;

use super::RUNC;
use crate::harness::{Case, ConsoleSocket, Done, Fixture, Level, Side, receive, wait_until};

const fn case(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, "runc: what a caller hands over", Level::Runc, run).on(RUNC)
}

/// Beyond the command line.
pub const CASES: &[Case] = &[
    case("preserved descriptors reach the program", preserved),
    case("sockets of a service manager come before preserved descriptors", listening),
    case("descriptors that are not open are refused as by runc", closed),
    case("a descriptor that was not requested is not passed on", stray),
    case("a terminal goes over the console socket of create", console),
    case("a terminal goes over the console socket of exec", exec_console),
    case("a service manager is notified that the program is ready", notify),
];

/// The runtime below a shell that opens descriptors 3 to 5 as files a to c, with these variables.
fn shell(side: &Side, variables: &str, line: &str) -> anyhow::Result<Done> {
    for name in ["a", "b", "c"] {
        std::fs::write(side.directory().join(name), format!("file {name}"))?;
    }
    let runtime = side.command(&line.split_whitespace().collect::<Vec<_>>());
    let words: Vec<String> = runtime.get_args().map(|word| format!("'{}'", word.to_string_lossy())).collect();
    let program = runtime.get_program().to_string_lossy().into_owned();
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(format!("{variables} exec {program} {} 3<a 4<b 5<c", words.join(" ")));
    command.current_dir(side.directory());
    side.run(command, None)
}

const LOOK: &[&str] = &[
    "/probe",
    "try",
    "read",
    "/proc/self/fd/3",
    ",",
    "read",
    "/proc/self/fd/4",
    ",",
    "read",
    "/proc/self/fd/5",
    ",",
    "read",
    "/proc/self/environ",
];

fn each(fixture: &Fixture, variants: &[(&str, &str)]) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(LOOK);
    })?;
    for (variables, flags) in variants {
        let line = format!("run {flags} -b {{bundle}} {{id}}");
        both.done(&format!("{variables} {line}"), |side| shell(side, variables, &line))?;
    }
    both.started()?;
    for (variables, flags) in variants {
        let line = format!("exec {flags} {{id}} {}", LOOK.join(" "));
        both.done(&format!("{variables} {line}"), |side| shell(side, variables, &line))?;
    }
    both.equal()
}

fn preserved(fixture: &Fixture) -> anyhow::Result<()> {
    each(
        fixture,
        &[("", "--preserve-fds 1"), ("", "--preserve-fds=2"), ("", "--preserve-fds 3"), ("", "--preserve-fds 0")],
    )
}

fn listening(fixture: &Fixture) -> anyhow::Result<()> {
    each(
        fixture,
        &[
            ("LISTEN_FDS=1", ""),
            ("LISTEN_FDS=1 LISTEN_PID=$$", ""),
            ("LISTEN_FDS=1 LISTEN_PID=$$", "--preserve-fds 1"),
            ("LISTEN_FDS=2 LISTEN_PID=$$", "--preserve-fds 1"),
            ("LISTEN_FDS=x LISTEN_PID=$$", ""),
            ("LISTEN_FDS=0 LISTEN_PID=$$", ""),
        ],
    )
}

fn closed(fixture: &Fixture) -> anyhow::Result<()> {
    each(fixture, &[("", "--preserve-fds 9")])
}

fn stray(fixture: &Fixture) -> anyhow::Result<()> {
    each(fixture, &[("", "")])
}

/// The message that came with the terminal, and what was printed there until its program had gone.
fn told(socket: &ConsoleSocket, act: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<String> {
    let terminal = socket.terminal()?;
    act()?;
    Ok(format!("{:?}, then {:?}", terminal.message(), terminal.read_to_end()?))
}

fn console(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.set("/process/terminal", json!(true)).set("/process/consoleSize", json!({ "height": 31, "width": 97 }));
        bundle.args(&[
            "/probe",
            "try",
            "link",
            "/proc/self/fd/0",
            ",",
            "stat",
            "/dev/console",
            ",",
            "stat",
            "/dev/pts/0",
        ]);
    })?;
    both.see("create --console-socket", |side| {
        let socket = ConsoleSocket::listen(side.fixture)?;
        let path = socket.path().to_string_lossy();
        let words = ["create", "--console-socket", &*path, "--pid-file", "{dir}/pid", "-b", "{bundle}", "{id}"];
        side.call(&words)?.ok()?;
        told(&socket, || side.call(&["start", "{id}"])?.ok().map(drop))
    })?;
    both.wait()?.line("state {id}")?.equal()
}

fn exec_console(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.started()?;
    both.see("exec --console-socket", |side| {
        let socket = ConsoleSocket::listen(side.fixture)?;
        let path = socket.path().to_string_lossy();
        let words = [
            "exec",
            "-d",
            "-t",
            "--console-socket",
            &*path,
            "--pid-file",
            "{dir}/pid2",
            "{id}",
            "/probe",
            "try",
            "link",
            "/proc/self/fd/0",
        ];
        side.call(&words)?.ok()?;
        told(&socket, || Ok(()))
    })?;
    both.equal()
}

fn notify(fixture: &Fixture) -> anyhow::Result<()> {
    let mut both = fixture.differential()?;
    both.bundle(|bundle| {
        bundle.args(&["/probe", "notify", "READY=1", "STATUS=up"]);
    })?;
    both.see("what the service manager hears", |side| {
        let socket = UnixDatagram::bind(side.directory().join("notify"))?;
        let call = |words: &[&str]| {
            let mut command = side.command(words);
            command.env("NOTIFY_SOCKET", side.directory().join("notify"));
            side.run(command, None)?.ok()
        };
        call(&["create", "--pid-file", "{dir}/pid", "-b", "{bundle}", "{id}"])?;
        let mut start = side.command(&["start", "{id}"]);
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut start = start.env("NOTIFY_SOCKET", side.directory().join("notify")).spawn()?;
        socket.set_nonblocking(true)?;
        let mut heard = Vec::new();
        wait_until("the end of start", || {
            let ended = start.try_wait()?;
            // A barrier holds a descriptor, and its sender waits until that is closed.
            while let Ok((message, _)) = receive(&socket) {
                heard.push(message);
            }
            Ok(ended)
        })?;
        Ok(heard.join(" | "))
    })?;
    both.line("state {id}")?.stopped()?.equal()
}
