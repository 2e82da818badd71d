//! Verbs and flags of the real command, beyond the plain lifecycle of a container.
#![forbid(unsafe_code)]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use brig_sys::{socket, tty};
use rustix::net::{Shutdown, shutdown};
use serde_json::{Value, json};
use support::{BRIG, Bundle, output, show, wait_for_program, wait_until};

fn sleeper() -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["linux"]["resources"] = json!({});
    bundle
}

#[test]
fn kill_and_delete_take_a_regular_expression() {
    let bundle = sleeper();
    bundle.write();
    let path = bundle.path().to_str().unwrap();
    // All containers share one configuration, and each gets a cgroup of its own name.
    let mut config = bundle.config.clone();
    let ids = ["one", "two", "three"].map(|name| format!("{}-{name}", bundle.id));
    for id in &ids {
        config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
        fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
        bundle.ok(&["run", "-d", "-b", path, id]);
    }
    let pattern = "(one|two)$";
    assert!(bundle.fails(&["delete", "--regex", pattern]).contains("that is not stopped: running"));
    bundle.ok(&["kill", "--regex", pattern, "KILL"]);
    for id in &ids[..2] {
        wait_until("stopped", || bundle.ok(&["state", id]).contains("\"stopped\""));
    }
    assert!(bundle.ok(&["state", &ids[2]]).contains("\"running\""));
    bundle.ok(&["delete", "-r", pattern]);
    assert_eq!(bundle.ok(&["list", "-q"]), format!("{}\n", ids[2]));
    bundle.ok(&["delete", "-f", "--regex", "."]);
    bundle.ok(&["delete", "--regex", "nothing-matches"]);
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    assert!(bundle.fails(&["delete", "--regex", "a("]).contains("invalid regular expression"));
}

#[test]
fn a_root_below_the_session_directory_is_sticky() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("unshare");
    command
        .args(["-Ur", BRIG, "list", "-q"])
        .env("XDG_RUNTIME_DIR", dir.path())
        .env_remove("USER")
        .stdin(Stdio::null());
    let listed = output(&mut command);
    assert!(listed.status.success(), "{}", show(&listed));
    let mode = fs::metadata(dir.path().join("brig")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o1700);
}

#[test]
fn events_report_statistics_and_oom_kills_until_the_exit() {
    let mut bundle = sleeper();
    bundle.config["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
    bundle.start();
    let mut command = bundle.command(&["events", "--interval", "50ms", &bundle.id]);
    let mut events = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut next = |kind: &str| loop {
        let line: Value = serde_json::from_str(&lines.next().expect("no end yet").unwrap()).unwrap();
        assert_eq!(line["id"], bundle.id.as_str());
        if line["type"] == kind {
            return line;
        }
    };
    let stats = next("stats");
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 16 << 20, "{stats}");
    assert!(stats["data"]["pids"]["current"].as_u64() >= Some(1), "{stats}");
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64() > Some(0), "{stats}");
    let hog = bundle.brig(&["exec", &bundle.id, "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    assert_eq!(hog.status.code(), Some(137), "{}", show(&hog));
    let oom = next("oom");
    assert!(oom.get("data").is_none_or(Value::is_null), "{oom}");
    next("stats");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    assert!(lines.all(|line| line.is_ok()));
    assert_eq!(events.wait().unwrap().code(), Some(0));
    assert!(
        bundle
            .fails(&["events", "--stats", &bundle.id])
            .contains(&format!("container with id {} is not running", bundle.id))
    );
}

#[test]
fn sockets_of_a_service_manager_come_before_preserved_descriptors() {
    let mut bundle =
        Bundle::new(&["sh", "-c", "echo ${LISTEN_FDS-none} ${LISTEN_PID-none}; cat <&3; cat <&4; ls /proc/self/fd"]);
    bundle.config["linux"]["resources"] = json!({});
    bundle.write();
    for name in ["a", "b"] {
        fs::write(bundle.path().join(name), format!("file {name}\n")).unwrap();
    }
    let run = |variables: &str, flags: &str| {
        let script = format!(
            "cd {}; {variables} exec {BRIG} --root state run {flags} {} 3<a 4<b",
            bundle.path().display(),
            bundle.id
        );
        let run = output(Command::new("sh").args(["-c", &script]).stdin(Stdio::null()));
        (String::from_utf8_lossy(&run.stdout).replace('\n', " "), show(&run))
    };
    let (found, all) = run("LISTEN_PID=$$ LISTEN_FDS=1", "--preserve-fds 1");
    assert!(found.starts_with("1 1 file a file b 0 1 2 3 4"), "{all}");
    let (found, all) = run("LISTEN_PID=$$ LISTEN_FDS=2", "");
    assert!(found.starts_with("2 1 file a file b"), "{all}");
    // The descriptors are for another process: none is passed on, and they are closed.
    let (found, all) = run("LISTEN_PID=1 LISTEN_FDS=2", "");
    assert!(found.starts_with("none none ") && !found.contains("file"), "{all}");
    let (_, all) = run("LISTEN_PID=$$ LISTEN_FDS=3", "");
    assert!(all.contains("$LISTEN_FDS says 3, but descriptor 5 is not open"), "{all}");
    let (_, all) = run("", "--preserve-fds 3");
    assert!(all.contains("please check that preserved-fd-2 (of 3) is present"), "{all}");
}

#[test]
fn an_exec_takes_its_process_from_a_file() {
    let bundle = sleeper();
    bundle.start();
    let file = bundle.path().join("process.json");
    let exec = |process: Value| {
        fs::write(&file, process.to_string()).unwrap();
        bundle.brig(&["exec", "--process", file.to_str().unwrap(), &bundle.id])
    };
    let process = json!({
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [7], "umask": 0o77},
        "args": ["sh", "-c", "id -u; id -g; id -G; pwd; echo $NAME; umask; ulimit -n; exit 3"],
        "env": ["PATH=/bin", "NAME=value"],
        "cwd": "/bin",
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 64}],
    });
    let done = exec(process.clone());
    assert_eq!(done.status.code(), Some(3), "{}", show(&done));
    let words: Vec<String> = String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect();
    assert_eq!(words, ["1000", "1001", "1001 7", "/bin", "value", "0077", "64"]);
    for (field, value, expected) in [
        ("args", json!([]), "args must not be empty"),
        ("cwd", json!("relative"), "Cwd must be an absolute path"),
        ("env", json!([1]), "env[0]: expected a string"),
        ("user", json!("root"), "user: expected an object"),
        ("terminal", json!(1), "terminal: expected true or false"),
        ("args", json!(["nonesuch"]), "executable file not found in $PATH"),
    ] {
        let mut wrong = process.clone();
        wrong[field] = value;
        let done = exec(wrong);
        assert_eq!(done.status.code(), Some(255), "{field}: {}", show(&done));
        assert!(show(&done).contains("exec failed: ") && show(&done).contains(expected), "{field}: {}", show(&done));
    }
    for text in ["", "[]", "{"] {
        fs::write(&file, text).unwrap();
        let done = bundle.brig(&["exec", "-p", file.to_str().unwrap(), &bundle.id]);
        assert_eq!(done.status.code(), Some(255), "{text}");
    }
    fs::remove_file(&file).unwrap();
    let done = bundle.brig(&["exec", "-p", file.to_str().unwrap(), &bundle.id]);
    assert!(done.status.code() == Some(255) && show(&done).contains("process.json"), "{}", show(&done));
    assert_eq!(bundle.state()["status"], "running");
}

/// A console socket that returns the terminal it receives.
struct Desk {
    listener: UnixListener,
    path: PathBuf,
}

impl Desk {
    fn new(bundle: &Bundle, name: &str) -> Desk {
        let path = bundle.path().join(name);
        Desk { listener: UnixListener::bind(&path).unwrap(), path }
    }

    fn terminal(&self) -> File {
        let (stream, _) = self.listener.accept().unwrap();
        let (name, mut fds) = socket::receive(stream.as_fd(), 4096).unwrap();
        assert!(!name.is_empty(), "the terminal comes with a name");
        assert_eq!(fds.len(), 1);
        File::from(fds.remove(0))
    }
}

/// Sends a command to a shell over its terminal, and reads the answer.
fn ask(terminal: &mut File, question: &str, marker: &str) -> String {
    terminal.write_all(format!("{question}\n").as_bytes()).unwrap();
    let mut heard = String::new();
    let mut bytes = [0; 256];
    while !heard.contains(marker) {
        let count = terminal.read(&mut bytes).unwrap_or_else(|error| panic!("{error} after {heard:?}"));
        heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    heard
}

#[test]
fn a_terminal_goes_over_the_console_socket_of_run_create_and_exec() {
    let mut bundle = Bundle::new(&["sh"]);
    bundle.config["linux"]["resources"] = json!({});
    bundle.config["process"]["terminal"] = json!(true);
    bundle.config["process"]["consoleSize"] = json!({"height": 31, "width": 97});
    bundle.write();
    let path = bundle.path().to_str().unwrap().to_owned();
    let desk = Desk::new(&bundle, "desk");
    let socket = desk.path.to_str().unwrap();
    bundle.ok(&["run", "-d", "--console-socket", socket, "-b", &path, &bundle.id]);
    let mut terminal = desk.terminal();
    assert_eq!(tty::size(terminal.as_fd()).unwrap(), (31, 97));
    assert!(ask(&mut terminal, "tty; echo $((40+2))", "42").contains("/dev/"));
    // An exec has a terminal of its own.
    let mut exec = bundle.command(&["exec", "-d", "-t", "--console-socket", socket, &bundle.id, "sh"]);
    assert!(output(&mut exec).status.success());
    let mut second = desk.terminal();
    assert!(ask(&mut second, "tty; echo $((50+5))", "55").contains("/dev/pts/"));
    drop(second);
    drop(terminal);
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.ok(&["create", "--console-socket", socket, "-b", &path, &bundle.id]);
    let mut terminal = desk.terminal();
    bundle.ok(&["start", &bundle.id]);
    ask(&mut terminal, "echo $((60+6))", "66");
    bundle.ok(&["delete", "-f", &bundle.id]);
    // No process listens there, or there is no socket at all. A closed listener would still accept for as long as a
    // child that another thread has just forked holds a copy of it.
    shutdown(&desk.listener, Shutdown::Read).unwrap();
    for socket in [socket, "/nonexistent"] {
        let text = bundle.fails(&["create", "--console-socket", socket, "-b", &path, &bundle.id]);
        assert!(text.contains("console socket") && text.contains(socket), "{text}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_terminal_and_a_socket_go_together() {
    let mut bundle = sleeper();
    bundle.write();
    let path = bundle.path().to_str().unwrap().to_owned();
    let no_socket = "cannot allocate tty if brig will detach without setting console socket";
    let no_terminal = "cannot use console socket if brig will not detach or allocate tty";
    for line in [&["create"][..], &["run", "-d"], &["run"]] {
        let text = bundle.fails(&[line, &["--console-socket", "/s", "-b", &path, &bundle.id]].concat());
        assert!(text.contains(no_terminal), "{line:?}: {text}");
    }
    bundle.start();
    for (line, expected) in [(&["-d", "-t"][..], no_socket), (&["-d", "--console-socket", "/s"], no_terminal)] {
        let done = bundle.brig(&[&["exec"], line, &[&bundle.id, "true"]].concat());
        assert!(done.status.code() == Some(255) && show(&done).contains(expected), "{line:?}: {}", show(&done));
    }
    bundle.ok(&["delete", "-f", &bundle.id]);
    bundle.config["process"]["terminal"] = json!(true);
    bundle.write();
    for line in [&["create"][..], &["run", "-d"]] {
        let text = bundle.fails(&[line, &["-b", &path, &bundle.id]].concat());
        assert!(text.contains(no_socket), "{line:?}: {text}");
        bundle.assert_nothing_left();
    }
}

/// The content of a file of the container's cgroup, by its v1 controller and name; `None` if the kernel has no such
/// file.
fn limit(bundle: &Bundle, controller: &str, file: &str) -> Option<String> {
    let v1 = PathBuf::from(format!("/sys/fs/cgroup/{controller}/{}", bundle.id));
    let place = if v1.exists() { v1 } else { PathBuf::from(format!("/sys/fs/cgroup/{}", bundle.id)) };
    fs::read_to_string(place.join(file)).ok().map(|text| text.trim().to_owned())
}

/// A v1 controller, one of its files or of v2's, and the expected content.
type Held = (&'static str, &'static str, &'static str);

/// Each flag of update, its value, and the files that contain it afterwards.
const FLAGS: &[(&str, &str, &[Held])] = &[
    ("--cpu-period", "50000", &[("cpu", "cpu.cfs_period_us", "50000"), ("cpu", "cpu.max", "max 50000")]),
    ("--cpu-quota", "20000", &[("cpu", "cpu.cfs_quota_us", "20000"), ("cpu", "cpu.max", "20000 50000")]),
    ("--cpu-burst", "10000", &[("cpu", "cpu.cfs_burst_us", "10000"), ("cpu", "cpu.max.burst", "10000")]),
    ("--cpu-share", "512", &[("cpu", "cpu.shares", "512"), ("cpu", "cpu.weight", "59")]),
    ("--cpu-rt-period", "500000", &[("cpu", "cpu.rt_period_us", "500000")]),
    ("--cpu-rt-runtime", "1000", &[("cpu", "cpu.rt_runtime_us", "1000")]),
    (
        "--blkio-weight",
        "500",
        &[
            ("blkio", "blkio.bfq.weight", "500"),
            ("blkio", "blkio.weight", "500"),
            ("io", "io.bfq.weight", "default 500"),
            ("io", "io.weight", "default 4950"),
        ],
    ),
    ("--cpuset-cpus", "0", &[("cpuset", "cpuset.cpus", "0")]),
    ("--cpuset-mems", "0", &[("cpuset", "cpuset.mems", "0")]),
    ("--memory", "64m", &[("memory", "memory.limit_in_bytes", "67108864"), ("memory", "memory.max", "67108864")]),
    (
        "--memory-swap",
        "128m",
        &[("memory", "memory.memsw.limit_in_bytes", "134217728"), ("memory", "memory.swap.max", "67108864")],
    ),
    (
        "--memory-reservation",
        "32m",
        &[("memory", "memory.soft_limit_in_bytes", "33554432"), ("memory", "memory.low", "33554432")],
    ),
    ("--pids-limit", "77", &[("pids", "pids.max", "77")]),
];

#[test]
fn every_flag_of_update_reaches_its_file() {
    let bundle = sleeper();
    bundle.start();
    let mut seen = 0;
    for (flag, value, files) in FLAGS {
        let present = files.iter().any(|(controller, file, _)| limit(&bundle, controller, file).is_some());
        let done = bundle.brig(&["update", flag, value, &bundle.id]);
        if !present {
            assert_eq!(done.status.code(), Some(1), "{flag} has no file, and is accepted");
            continue;
        }
        assert!(done.status.success(), "{flag}: {}", show(&done));
        for (controller, file, expected) in *files {
            if let Some(found) = limit(&bundle, controller, file) {
                assert_eq!(found, *expected, "{flag} {value}: {file}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8, "only {seen} flags have files on this host");
    // Values given earlier stay in force.
    for (flag, _, files) in FLAGS.iter().filter(|(flag, ..)| *flag != "--cpu-period") {
        for (controller, file, expected) in *files {
            assert!(limit(&bundle, controller, file).is_none_or(|found| found == *expected), "{flag} is lost");
        }
    }
    // Must come last, because the weight of an idle group is a special one.
    let idle = bundle.brig(&["update", "--cpu-idle", "1", &bundle.id]);
    match limit(&bundle, "cpu", "cpu.idle") {
        Some(found) => assert!(idle.status.success() && found == "1", "{}", show(&idle)),
        None => assert_eq!(idle.status.code(), Some(1), "--cpu-idle has no file, and is accepted"),
    }
}

#[test]
fn update_reads_resources_from_a_file_or_standard_input() {
    let bundle = sleeper();
    bundle.start();
    let update = |from: &str, text: &str| {
        let file = bundle.path().join("resources.json");
        fs::write(&file, text).unwrap();
        let from = if from == "-" { "-" } else { file.to_str().unwrap() };
        // Other flags are ignored then, as the help states.
        output(
            bundle.command(&["update", "-r", from, "--pids-limit", "9", &bundle.id]).stdin(File::open(&file).unwrap()),
        )
    };
    for (from, number) in [("-", "31"), ("file", "32")] {
        let done = update(from, &format!("{{\"pids\": {{\"limit\": {number}}}}}"));
        assert!(done.status.success(), "{}", show(&done));
        assert_eq!(limit(&bundle, "pids", "pids.max").as_deref(), Some(number));
    }
    for (text, expected) in [
        ("", "is not JSON"),
        ("{", "is not JSON"),
        ("[]", "expected an object"),
        ("{\"pids\": {\"limit\": \"3\"}}", "pids.limit: expected a number"),
    ] {
        for from in ["-", "file"] {
            let done = update(from, text);
            assert!(done.status.code() == Some(1) && show(&done).contains(expected), "{text}: {}", show(&done));
        }
    }
    assert_eq!(limit(&bundle, "pids", "pids.max").as_deref(), Some("32"));
}

#[test]
fn a_rejected_update_changes_nothing() {
    let bundle = sleeper();
    bundle.start();
    bundle.ok(&[
        "update",
        "--pids-limit",
        "40",
        "--memory",
        "64m",
        "--cpu-share",
        "512",
        "--cpu-quota",
        "30000",
        &bundle.id,
    ]);
    let all = || -> Vec<Option<String>> {
        FLAGS
            .iter()
            .flat_map(|(_, _, files)| files.iter())
            .map(|(controller, file, _)| limit(&bundle, controller, file))
            .collect()
    };
    let before = all();
    for line in [
        // The kernel, or a check, refuses the last flag of each list.
        &["--pids-limit", "50", "--cpu-share", "600", "--cpuset-cpus", "4000"][..],
        &["--cpu-share", "700", "--memory", "32m", "--cpuset-mems", "900"],
        &["--cpu-quota", "40000", "--cpu-period", "1"],
        &["--memory", "64m", "--memory-swap", "32m"],
        &["--memory", "1x"],
        &["--pids-limit", "many"],
        &["--cpu-share", "-5"],
        &["--l3-cache-schema", "L3:0=f", "--pids-limit", "9"],
    ] {
        let text = bundle.fails(&[&["update"], line, &[&bundle.id]].concat());
        assert_eq!(all(), before, "{line:?}: {text}");
    }
    // The record must not have them either: a later update does not apply the rejected values.
    bundle.ok(&["update", "--pids-limit", "41", &bundle.id]);
    assert_eq!(limit(&bundle, "pids", "pids.max").as_deref(), Some("41"));
    assert_eq!(all().iter().zip(&before).filter(|(now, then)| now != then).count(), 1);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert!(bundle.fails(&["update", "--pids-limit", "41", &bundle.id]).contains("container not running"));
}

#[test]
fn ps_and_list_print_in_their_formats() {
    let bundle = sleeper();
    bundle.start();
    bundle.ok(&["exec", "-d", &bundle.id, "sleep", "2000"]);
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let pids: Vec<i64> = serde_json::from_str(&bundle.ok(&["ps", "-f", "json", &bundle.id])).unwrap();
    assert!(pids.len() == 2 && pids.contains(&pid), "{pids:?}");
    pids.iter().for_each(|pid| wait_for_program(*pid, "sleep"));
    if !Command::new("ps").arg("-ef").output().unwrap().status.success() {
        eprintln!("not tested further: this kernel's /proc is not enough for ps -ef");
        return;
    }
    let table = bundle.ok(&["ps", &bundle.id]);
    assert!(table.starts_with("UID ") && table.contains("sleep 1000") && table.contains("sleep 2000"), "{table}");
    assert_eq!(table.lines().count(), 3, "{table}");
    let table = bundle.ok(&["ps", "--format", "table", &bundle.id, "-e", "-o", "pid,args"]);
    let second: Vec<&str> = table.lines().skip(1).map(str::trim).collect();
    assert!(second.contains(&format!("{pid} sleep 1000").as_str()) && second.len() == 2, "{table}");
    assert!(bundle.fails(&["ps", &bundle.id, "-e", "-o", "args"]).contains("couldn't find PID field in ps output"));
    assert!(bundle.fails(&["ps", &bundle.id, "--nonesuch"]).contains("ps: "));
    assert!(bundle.fails(&["ps", "-f", "xml", &bundle.id]).contains("invalid format option"));

    assert_eq!(bundle.ok(&["list", "-q"]), format!("{}\n", bundle.id));
    let table = bundle.ok(&["list"]);
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_ascii_whitespace().collect();
    assert_eq!(row[..4], [&bundle.id, &pid.to_string(), "running", bundle.path().to_str().unwrap()]);
    let list: Value = serde_json::from_str(&bundle.ok(&["list", "-f", "json"])).unwrap();
    assert_eq!(list, json!([bundle.state()]));
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    assert_eq!(bundle.ok(&["ps", "-f", "json", &bundle.id]), "null\n");
    assert_eq!(bundle.ok(&["ps", &bundle.id]).lines().count(), 1);
    let list: Value = serde_json::from_str(&bundle.ok(&["list", "-f", "json"])).unwrap();
    assert!(list[0]["pid"] == 0 && list[0]["status"] == "stopped", "{list}");
}

#[test]
fn errors_of_the_command_line_name_the_remedy() {
    let bundle = sleeper();
    let kill = bundle.fails(&["kill", "KILL", &bundle.id]);
    let remedy = format!("brig kill {} KILL", bundle.id);
    assert!(kill.contains("container does not exist: KILL (--root ") && kill.contains(&remedy), "{kill}");
    for verb in ["run", "create"] {
        let image = bundle.fails(&[verb, "-it", "alpine", "sh"]);
        assert!(image.contains("flag provided but not defined: -it") && image.contains("not images"), "{image}");
    }
    bundle.create();
    let again = bundle.fails(&["create", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    let place = format!("{} (--root {})", bundle.id, bundle.state_root().display());
    assert!(again.contains(&format!("container with given ID already exists: {place}")), "{again}");
    let missing = bundle.fails(&["state", "nope"]);
    assert!(missing.contains("container does not exist: nope (--root "), "{missing}");
    assert!(![kill, again, missing].iter().any(|said| said.contains("os error") || said.contains("runc")));
}
