//! Tests with a config.json that is missing, broken or wrong: one error names every fault, the status is 1, nothing is
//! left behind.
#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Stdio;

use brig_plan::container::{self, CreateChoices};
use brig_plan::host::CgroupLayout;
use brig_plan::{Host, config};
use serde_json::{Value, json};
use support::{Bundle, show, wait_until};

const FULL: &str = include_str!("data/full.json");

fn full() -> Value {
    serde_json::from_str(FULL).unwrap()
}

/// The error for this configuration, before anything is created.
fn refusal(config: &Value, cgroup: CgroupLayout) -> Option<String> {
    let bytes = serde_json::to_vec(config).unwrap();
    let (spec, _) = match config::parse(&bytes) {
        Ok(parsed) => parsed,
        Err(error) => return Some(error.to_string()),
    };
    let choices = CreateChoices::default();
    container::build(&spec, "box", Path::new("/bundle"), choices, &Host::of_root(cgroup))
        .err()
        .map(|error| error.to_string())
}

/// Collects every position in a value: its JSON pointer, and its path as messages spell it.
fn places(value: &Value, pointer: &str, path: &str, found: &mut Vec<(String, String)>) {
    if !pointer.is_empty() {
        found.push((pointer.to_owned(), path.to_owned()));
    }
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{pointer}/{index}"), &format!("{path}[{index}]"), found);
            }
        }
        Value::Object(fields) => {
            let is_map = [
                "annotations",
                "linux.netDevices",
                "linux.sysctl",
                "linux.resources.rdma",
                "linux.resources.unified",
                "linux.timeOffsets",
            ]
            .contains(&path);
            for (key, item) in fields {
                let dot = if path.is_empty() { "" } else { "." };
                let path = if is_map { format!("{path}[{key:?}]") } else { format!("{path}{dot}{key}") };
                places(item, &format!("{pointer}/{}", escaped(key)), &path, found);
            }
        }
        _ => {}
    }
}

/// Values of other types than this one.
fn wrong_kinds(value: &Value) -> Vec<Value> {
    let all = [json!(true), json!(-7.5), json!("words"), json!([[["deep"]]]), json!({"x": {"y": []}}), json!(1e300)];
    let kind = |value: &Value| match value {
        // 7.5 is a number, but no integer.
        Value::Number(number) => {
            if number.is_f64() {
                6
            } else {
                1
            }
        }
        Value::Null => 0,
        Value::Bool(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    all.into_iter().filter(|other| kind(other) != kind(value)).collect()
}

/// Every position in the full example, with every wrong type of value there.
fn cases() -> Vec<(String, String, Value)> {
    let full = full();
    let mut found = Vec::new();
    places(&full, "", "", &mut found);
    let cases = found.into_iter().flat_map(|(pointer, path)| {
        let wrong = wrong_kinds(full.pointer(&pointer).unwrap());
        wrong.into_iter().map(move |value| (pointer.clone(), path.clone(), value))
    });
    cases.collect()
}

#[test]
fn a_wrong_type_of_any_field_is_refused_by_its_path() {
    let cases = cases();
    assert!(cases.len() > 1000, "only {} cases", cases.len());
    for (pointer, path, value) in cases {
        let mut config = full();
        *config.pointer_mut(&pointer).unwrap() = value.clone();
        let text = refusal(&config, CgroupLayout::V2).unwrap_or_else(|| panic!("{path} = {value} is accepted"));
        assert!(text.contains(&format!("{path}: ")) || text.contains(&format!("{path}[")), "{path} = {value}: {text}");
    }
}

#[test]
fn wrong_types_are_refused_by_the_command_and_leave_nothing() {
    let cases = cases();
    let bundle = Bundle::new(&["true"]);
    // The step is a prime, so that every type of value and every part of the file is covered.
    for (pointer, path, value) in cases.iter().step_by(cases.len() / 60) {
        let mut config = full();
        *config.pointer_mut(pointer).unwrap() = value.clone();
        config["linux"]["cgroupsPath"] =
            if pointer == "/linux/cgroupsPath" { value.clone() } else { json!(format!("/{}", bundle.id)) };
        fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
        for verb in ["create", "run"] {
            let text = bundle.fails(&[verb, "-b", bundle.path().to_str().unwrap(), &bundle.id]).replace("\\\"", "\"");
            assert!(text.contains(path.as_str()), "{path} = {value}: {text}");
            assert_eq!(text.lines().filter(|line| line.contains("level=error")).count(), 1, "{text}");
        }
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_file_that_is_missing_or_no_json_is_refused() {
    let bundle = Bundle::new(&["true"]);
    let path = bundle.path().join("config.json");
    let whole = serde_json::to_vec(&bundle.config).unwrap();
    let refused = |expected: &str| {
        for verb in ["create", "run"] {
            let text = bundle.fails(&[verb, "-b", bundle.path().to_str().unwrap(), &bundle.id]);
            assert!(text.contains(expected), "{expected:?} is not in {text}");
            bundle.assert_nothing_left();
        }
    };
    fs::remove_file(&path).unwrap();
    refused("config.json not found");
    fs::create_dir(&path).unwrap();
    refused("Is a directory");
    fs::remove_dir(&path).unwrap();
    for text in ["", " ", "nonsense", "{", "{}{}", "\u{feff}{}", "{\"a\":1,}", "'a'", "\0"] {
        fs::write(&path, text).unwrap();
        refused("config.json is not JSON");
    }
    for text in ["null", "[]", "3", "\"text\"", "true"] {
        fs::write(&path, text).unwrap();
        refused("the document: expected an object");
    }
    fs::write(&path, b"{\"ociVersion\": \"\xff\xfe\"}").unwrap();
    refused("config.json");
    fs::write(&path, "[".repeat(100_000)).unwrap();
    refused("recursion limit");
    for part in [1, 2, 3, 5, 10, 100] {
        fs::write(&path, &whole[..whole.len() - whole.len() / part.max(2) - 1]).unwrap();
        refused("config.json is not JSON");
    }
    fs::write(&path, "{}").unwrap();
    for field in ["ociVersion: missing", "root: root must be specified", "process: missing"] {
        refused(field);
    }
}

/// The error of a command that has to exit by itself.
fn refused_at_once(bundle: &Bundle, args: &[&str]) -> String {
    let mut errors = tempfile::tempfile().unwrap();
    let mut command = bundle.command(args);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    wait_until(&format!("end of brig {args:?}"), || child.try_wait().unwrap().is_some());
    assert!(!child.wait().unwrap().success(), "{args:?}");
    let mut text = String::new();
    errors.rewind().and_then(|()| errors.read_to_string(&mut text)).unwrap();
    text
}

#[test]
fn a_file_of_the_callers_that_would_wait_is_refused_by_its_path() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.create();
    let fifo = bundle.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let other = Bundle::new(&["true"]);
    for (file, kind) in [(fifo.to_str().unwrap(), "a FIFO"), ("/dev/zero", "a character device")] {
        let said = |text: &str, name: &str| {
            let expected = format!("{name}: expected a regular file, found {kind}");
            assert!(text.contains(&expected), "{expected:?} is not in {text}");
        };
        said(&refused_at_once(&bundle, &["exec", "-p", file, &bundle.id]), file);
        said(&refused_at_once(&bundle, &["update", "-r", file, &bundle.id]), file);
        said(
            &refused_at_once(&other, &["create", "-b", other.path().to_str().unwrap(), "--config", file, &other.id]),
            file,
        );
        let config = other.path().join("config.json");
        fs::remove_file(&config).unwrap();
        std::os::unix::fs::symlink(file, &config).unwrap();
        for verb in ["create", "run", "restore"] {
            let text = refused_at_once(&other, &[verb, "-b", other.path().to_str().unwrap(), &other.id]);
            said(&text, config.to_str().unwrap());
        }
        other.assert_nothing_left();
    }
}

#[test]
fn a_missing_bundle_reads_as_with_runc() {
    let bundle = Bundle::new(&["true"]);
    for verb in ["create", "run"] {
        let text = bundle.fails(&[verb, "-b", "/nonexistent", &bundle.id]);
        assert!(text.contains(&format!("brig {verb} failed: chdir /nonexistent: no such file or directory")), "{text}");
        let text = bundle.fails(&[verb, "-b", "/bin/busybox", &bundle.id]);
        assert!(text.contains("chdir /bin/busybox: not a directory"), "{text}");
    }
}

/// A configuration that violates as many rules as possible at once, and the paths of the violations.
fn violations() -> (Value, Vec<&'static str>) {
    (violating_config(), VIOLATED.to_vec())
}

fn violating_config() -> Value {
    json!({
        "ociVersion": "2.0",
        "root": {"path": ""},
        "hostname": "box",
        "domainname": "example.org",
        "mounts": [{"destination": ""}, {"destination": "/a", "type": "tmpfs", "options": ["idmap"]}],
        "process": {
            "user": {}, "args": [""], "cwd": "relative", "env": ["A", "=b", "C=\u{0}"],
            "rlimits": [
                {"type": "RLIMIT_CPU", "soft": 2, "hard": 1}, {"type": "RLIMIT_CPU", "soft": 1, "hard": 1}
            ],
            "oomScoreAdj": 1001,
            "scheduler": {"policy": "SCHED_OTHER", "nice": 30, "priority": 5, "runtime": 1},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8},
            "execCPUAffinity": {"initial": "3-1"},
            "capabilities": {"effective": ["CAP_CHOWN"]},
            "apparmorProfile": "profile",
            "selinuxLabel": "label"
        },
        "hooks": {"poststop": [{"path": "relative", "timeout": 0, "env": ["A\u{0}"]}]},
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "pid"}, {"type": "network", "path": "relative"}],
            "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}],
            "timeOffsets": {"realtime": {"nanosecs": 1_000_000_000}},
            "maskedPaths": ["relative"],
            "readonlyPaths": ["relative"],
            "devices": [{"path": "relative", "type": "c", "major": -1, "minor": 0}],
            "resources": {
                "devices": [{"allow": true, "access": "x"}],
                "hugepageLimits": [{"pageSize": "2MB", "limit": -1}],
                "memory": {"limit": 1000, "swap": 10}
            },
            "sysctl": {"kernel.panic": "1", "kernel.msgmax": "1"},
            "rootfsPropagation": "sideways",
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "value": 0, "op": "SCMP_CMP_EQ"}]}
            ]},
            "intelRdt": {"closID": "a/b"},
            "memoryPolicy": {"mode": "MPOL_BIND"},
            "netDevices": {"a b": {"name": "x"}}
        }
    })
}

/// The paths of [`violating_config`]'s violations, as the message begins its lines with them.
const VIOLATED: &[&str] = &[
    "ociVersion: ",
    "root.path: ",
    "hostname: ",
    "domainname: ",
    "mounts[0].destination: ",
    "mounts[1].options: ",
    "process.args[0]: ",
    "process.cwd: ",
    "process.env[0]: ",
    "process.env[1]: ",
    "process.env[2]: ",
    "process.rlimits[0]: ",
    "process.rlimits[1]: ",
    "process.oomScoreAdj: ",
    "process.scheduler.nice: ",
    "process.scheduler.priority: ",
    "process.scheduler.runtime: ",
    "process.ioPriority.priority: ",
    "process.execCPUAffinity.initial: ",
    "process.capabilities.effective: ",
    "process.apparmorProfile: ",
    "process.selinuxLabel: ",
    "hooks.poststop[0].path: ",
    "hooks.poststop[0].timeout: ",
    "hooks.poststop[0].env[0]: ",
    "linux.namespaces[1]: ",
    "linux.namespaces[2].path: ",
    "linux.uidMappings: ",
    "linux.timeOffsets: ",
    "linux.timeOffsets[\"realtime\"]: ",
    "linux.maskedPaths: ",
    "linux.readonlyPaths: ",
    "linux.devices[0].path: ",
    "linux.devices[0].major: ",
    "linux.resources.devices[0].access: ",
    "linux.resources.hugepageLimits[0].limit: ",
    "linux.resources.memory.swap: ",
    "linux.sysctl[\"kernel.panic\"]: ",
    "linux.sysctl[\"kernel.msgmax\"]: ",
    "linux.rootfsPropagation: ",
    "linux.seccomp.syscalls[0].args[0].index: ",
    "linux.intelRdt.closID: ",
    "linux.memoryPolicy.nodes: ",
    "linux.netDevices[\"a b\"]: ",
];

#[test]
fn every_violation_is_in_the_one_error() {
    let (config, paths) = violations();
    for layout in [CgroupLayout::V2, CgroupLayout::V1] {
        let text = refusal(&config, layout).unwrap();
        let missing: Vec<_> = paths.iter().filter(|path| !text.contains(**path)).collect();
        assert!(missing.is_empty(), "{layout:?}: {missing:?} are not in {text}");
    }
    let bundle = Bundle::new(&["true"]);
    fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
    for verb in ["create", "run"] {
        let output = bundle.brig(&[verb, "-b", bundle.path().to_str().unwrap(), &bundle.id]);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap().replace("\\\"", "\"");
        for path in paths.iter().filter(|path| !path.contains("apparmor") && !path.contains("selinux")) {
            assert!(text.contains(path), "{path} is not in {text}");
        }
        assert_eq!(text.lines().filter(|line| line.contains("level=error")).count(), 1, "{text}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn fields_that_this_build_does_not_honour_are_refused_by_name() {
    let fields: [(&str, Value, &str); 8] = [
        ("/linux/intelRdt", json!({"closID": ".."}), "linux.intelRdt.closID: invalid"),
        // No host of these tests has the hardware.
        ("/linux/intelRdt", json!({"l3CacheSchema": "L3:0=f"}), "linux.intelRdt: no resctrl file system is mounted"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"}), "linux.memoryPolicy.nodes: MPOL_BIND takes at least one"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "1000"}), "unable to set linux.memoryPolicy"),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_SOMETHING"}), "linux.memoryPolicy.mode: unknown value"),
        (
            "/linux/netDevices",
            json!({"brig-none": {}}),
            "linux.netDevices[\\\"brig-none\\\"]: there is no such network device",
        ),
        ("/mounts/0/uidMappings", json!([{"containerID": 0, "hostID": 1, "size": 1}]), "mounts[0].options: id-mapped"),
        ("/mounts/0/options", json!(["ridmap=uids=0-1-10"]), "mounts[0].options: id-mapped"),
    ];
    for (pointer, value, expected) in fields {
        let mut bundle = Bundle::new(&["true"]);
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        bundle.config.pointer_mut(parent).unwrap()[key] = value;
        let text = bundle.run_fails();
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn the_full_example_is_refused_for_nothing_else() {
    // Some resources belong to one version of cgroups alone.
    let of_the_layout: [(CgroupLayout, &[&str]); 2] = [
        (
            CgroupLayout::V2,
            &["linux.resources.cpu.realtimePeriod", "linux.resources.memory.swappiness", "mounts[2].options"],
        ),
        (CgroupLayout::Hybrid, &["linux.resources.unified", "mounts[2].options"]),
    ];
    for (layout, others) in of_the_layout {
        let text = refusal(&full(), layout).unwrap();
        let list = text.trim_start_matches("invalid config.json: ").split("; ");
        let named: BTreeSet<&str> = list.filter_map(|one| one.split(": ").next()).collect();
        let expected: BTreeSet<&str> = others.iter().copied().collect();
        let rest: Vec<_> = named.difference(&expected).collect();
        assert!(rest.is_empty(), "{layout:?}: {rest:?} in {text}");
    }
}

#[test]
fn an_invalid_id_is_refused_before_anything_is_read() {
    let bundle = Bundle::new(&["true"]);
    bundle.write();
    let long = "a".repeat(1025);
    for id in ["", ".", "..", "a/b", "../a", "a b", "a\nb", "ä", &long] {
        for verb in ["create", "run"] {
            let output = bundle.brig(&[verb, "-b", bundle.path().to_str().unwrap(), id]);
            assert_eq!(output.status.code(), Some(1), "{id:?}: {}", show(&output));
            assert!(show(&output).contains("invalid container ID format"), "{id:?}: {}", show(&output));
        }
    }
    assert!(!bundle.state_root().exists());
}

#[test]
fn a_root_that_is_no_directory_is_refused_before_anything_is_made() {
    let bundle = Bundle::new(&["true"]);
    let below = bundle.path().join("state");
    let create = |root: &str| {
        let mut config: Value = bundle.config.clone();
        config["root"]["path"] = json!(root);
        fs::write(bundle.path().join("config.json"), config.to_string()).unwrap();
        let mut command = bundle.command(&["run", "--bundle"]);
        command.arg(bundle.path()).arg("no-root").env_remove("XDG_RUNTIME_DIR");
        support::output(&mut command)
    };
    fs::write(bundle.path().join("file"), "").unwrap();
    for (root, reason) in [("missing", "root.path: stat "), ("file", "file is a file; expected a directory")] {
        let output = create(root);
        let text = show(&output);
        assert!(!output.status.success() && text.contains(reason), "{root}: {text}");
        assert!(!text.contains("container init"), "{root}: init was started: {text}");
    }
    assert!(!below.exists());
}
