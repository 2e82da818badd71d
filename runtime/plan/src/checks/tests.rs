use std::path::Path;

use super::*;
use crate::config;
use crate::container::{self, CreateChoices};
use crate::host::CgroupLayout;
use serde_json::{Value, json};

fn host() -> Host {
    Host::of_root(CgroupLayout::V2)
}

/// A valid configuration with every namespace, changed at one place (a JSON pointer).
fn findings_with(host: &Host, changes: &[(&str, Value)]) -> Findings {
    let kinds = ["pid", "network", "ipc", "uts", "mount", "cgroup", "time"];
    let mut spec = json!({
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {"user": {}, "args": ["sh"], "cwd": "/", "env": ["PATH=/bin"], "capabilities": {}},
        "hooks": {},
        "mounts": [{"destination": "/proc", "type": "proc"}],
        "linux": {"namespaces": kinds.map(|kind| json!({"type": kind})), "resources": {}},
    });
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = spec.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
        match key.parse::<usize>() {
            Ok(index) => parent[index] = value.clone(),
            Err(_) => parent[key] = value.clone(),
        }
    }
    let (spec, _) = config::parse(&serde_json::to_vec(&spec).unwrap()).unwrap();
    container::plan(&spec, "id", Path::new("/bundle"), CreateChoices::default(), host).1
}

fn faults(changes: &[(&str, Value)]) -> Vec<String> {
    findings_with(&host(), changes).violations.iter().map(ToString::to_string).collect()
}

/// One change, and the prefix of the one violation that it must cause.
fn denies(pointer: &str, value: Value, fault: &str) {
    let found = faults(&[(pointer, value.clone())]);
    assert!(found.len() == 1 && found[0].starts_with(fault), "{pointer} = {value}: {found:?}, expected {fault}");
}

fn allows(pointer: &str, value: Value) {
    let found = faults(&[(pointer, value.clone())]);
    assert!(found.is_empty(), "{pointer} = {value}: {found:?}");
}

#[test]
fn a_valid_configuration_has_no_findings() {
    assert_eq!(findings_with(&host(), &[]), Findings::default());
}

#[test]
fn version_root_hooks_and_mounts_are_checked() {
    for version in ["1.0.2", "1.0.2-dev", "1.3.0+dev", "1.0.0-rc5"] {
        allows("/ociVersion", json!(version));
    }
    denies("/ociVersion", json!(""), "ociVersion: missing");
    denies("/ociVersion", json!("1.0"), "ociVersion: \"1.0\" is no version");
    denies("/ociVersion", json!("2.0.0"), "ociVersion: 2.0.0 is not supported");
    denies("/root", json!(null), "root: root must be specified");
    denies("/root/path", json!(""), "root.path: is empty");
    denies("/process", json!(null), "process: missing");
    denies("/hooks/poststop", json!([{"path": "a"}]), "hooks.poststop[0].path: \"a\" is not absolute");
    denies("/hooks/prestart", json!([{"path": "/a", "timeout": 0}]), "hooks.prestart[0].timeout: must be greater");
    denies(
        "/hooks/createRuntime",
        json!([{"path": "/a", "env": ["A\0"]}]),
        "hooks.createRuntime[0].env[0]: contains a NUL",
    );
    allows("/hooks/createRuntime", json!([{"path": "/a", "env": ["X", "=x", ""]}]));
    denies("/mounts/0", json!({"destination": ""}), "mounts[0].destination: is empty");
    denies("/linux/rootfsPropagation", json!("public"), "linux.rootfsPropagation: \"public\" is not supported");
}

#[test]
fn names_need_a_uts_namespace() {
    allows("/hostname", json!("box"));
    let host =
        [("/linux/namespaces", json!([{"type": "mount"}])), ("/hostname", json!("a")), ("/domainname", json!("b"))];
    let found = faults(&host);
    assert!(found[0].starts_with("hostname: unable to set hostname without a private UTS namespace"), "{found:?}");
    assert!(found[1].starts_with("domainname: unable to set domainname without a private UTS"), "{found:?}");
}

#[test]
fn process_fields_are_checked() {
    denies("/process/cwd", json!(""), "process.cwd: Cwd property must not be empty");
    denies("/process/cwd", json!("here"), "process.cwd: Cwd must be an absolute path");
    denies("/process/args", json!([]), "process.args: args must not be empty");
    denies("/process/args", json!(null), "process.args: args must not be empty");
    denies("/process/args", json!(["a", "b\0"]), "process.args[1]: contains a NUL");
    denies("/process/env", json!(["A=1", "B"]), "process.env[1]: \"B\" has no \"=\"");
    denies("/process/env", json!(["=1"]), "process.env[0]: \"=1\" has no name");
    denies("/process/env", json!(["A=\0"]), "process.env[0]: contains a NUL");
    denies("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj: 1001 is out of range");
    let limit = |soft: u64| json!({"type": "RLIMIT_CPU", "soft": soft, "hard": 5});
    denies("/process/rlimits", json!([limit(6)]), "process.rlimits[0]: soft limit 6 is above hard limit 5");
    denies("/process/rlimits", json!([limit(1), limit(2)]), "process.rlimits[1]: RLIMIT_CPU is given twice");
    denies("/process/capabilities/effective", json!(["CAP_KILL"]), "process.capabilities.effective: CAP_KILL not in");
    denies("/process/apparmorProfile", json!("box"), "process.apparmorProfile: apparmor: config provided but");
    allows("/process/apparmorProfile", json!("unconfined"));
    denies("/process/selinuxLabel", json!("a:b:c"), "process.selinuxLabel: selinux label is specified in config");
}

#[test]
fn scheduling_fields_are_checked() {
    let priority = |level: i64| json!({"class": "IOPRIO_CLASS_BE", "priority": level});
    allows("/process/ioPriority", priority(7));
    denies("/process/ioPriority", priority(8), "process.ioPriority.priority: 8 is out of range");
    allows("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 10}));
    allows("/process/scheduler", json!({"policy": "SCHED_BATCH", "nice": 19}));
    allows("/process/scheduler", json!({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3}));
    allows(
        "/process/scheduler",
        json!({"policy": "SCHED_DEADLINE", "nice": 5, "runtime": 1, "deadline": 2, "period": 3}),
    );
    allows("/process/scheduler", json!({"policy": "SCHED_RR", "priority": 1, "nice": -5}));
    denies("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), "process.scheduler.nice: 20 is out");
    denies("/process/scheduler", json!({"policy": "SCHED_FIFO"}), "process.scheduler.priority: missing");
    denies(
        "/process/scheduler",
        json!({"policy": "SCHED_OTHER", "priority": 1}),
        "process.scheduler.priority: goes with",
    );
    denies(
        "/process/scheduler",
        json!({"policy": "SCHED_OTHER", "runtime": 1}),
        "process.scheduler.runtime: goes with",
    );
    allows("/process/execCPUAffinity", json!({"initial": "0-3, 7,", "final": ""}));
    denies(
        "/process/execCPUAffinity",
        json!({"initial": "3-1"}),
        "process.execCPUAffinity.initial: the range \"3-1\" desc",
    );
    denies("/process/execCPUAffinity", json!({"final": "8192"}), "process.execCPUAffinity.final: \"8192\" is no cpu");
}

#[test]
fn namespaces_and_mappings_are_checked() {
    let twice = json!([{"type": "pid"}, {"type": "pid"}]);
    denies("/linux/namespaces", twice, "linux.namespaces[1]: malformed spec file: duplicated ns \"pid\"");
    denies("/linux/namespaces/0", json!({"type": "pid", "path": "ns"}), "linux.namespaces[0].path: \"ns\" is not");
    let user = ("/linux/namespaces/0", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
    assert_eq!(faults(std::slice::from_ref(&user)).len(), 2);
    let maps = [("/linux/uidMappings", map.clone()), ("/linux/gidMappings", map.clone())];
    assert!(faults(&[user, maps[0].clone(), maps[1].clone()]).is_empty());
    assert!(faults(&maps)[0].contains("user namespace isn't enabled"));
    let joined = ("/linux/namespaces/0", json!({"type": "user", "path": "/proc/7/ns/user"}));
    assert!(faults(&[joined]).is_empty());
    let rootless = Host { euid: 1000, ..host() };
    assert!(findings_with(&rootless, &[]).violations[0].reason.contains("rootless container requires user"));
}

#[test]
fn clock_offsets_and_hidden_paths_are_checked() {
    allows("/linux/timeOffsets", json!({"boottime": {"secs": -5, "nanosecs": 999_999_999}}));
    denies("/linux/timeOffsets", json!({"realtime": {"secs": 5}}), "linux.timeOffsets[\"realtime\"]: unknown clock");
    denies("/linux/timeOffsets", json!({"boottime": {"nanosecs": 1_000_000_000}}), "linux.timeOffsets[\"boottime\"]: ");
    let offset = ("/linux/timeOffsets", json!({"boottime": {"secs": 5}}));
    assert!(faults(&[offset.clone(), ("/linux/namespaces", json!([]))])[0].contains("isn't enabled"));
    let joined = json!([{"type": "time", "path": "/proc/7/ns/time"}]);
    assert!(faults(&[offset, ("/linux/namespaces", joined)])[0].contains("both namespace path and time offsets"));
    allows("/linux/maskedPaths", json!(["/a", "b"]));
    let hidden = ("/linux/readonlyPaths", json!(["/proc/sys"]));
    assert!(faults(&[hidden, ("/linux/namespaces", json!([]))])[0].contains("without a private MNT namespace"));
}

#[test]
fn devices_and_limits_are_checked() {
    allows(
        "/linux/devices",
        json!([{"path": "/dev/p", "type": "p"}, {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}]),
    );
    denies("/linux/devices", json!([{"path": "dev", "type": "b"}]), "linux.devices[0].path: ");
    denies("/linux/devices", json!([{"path": "/d", "type": "b", "major": -1}]), "linux.devices[0].major: ");
    denies(
        "/linux/resources/devices",
        json!([{"access": "rwx"}]),
        "linux.resources.devices[0].access: unknown letter 'x'",
    );
    let limits = json!([{"pageSize": "2MB", "limit": -1}]);
    denies("/linux/resources/hugepageLimits", limits, "linux.resources.hugepageLimits[0].limit: ");
}

#[test]
fn hidden_paths_are_limited_in_number() {
    for name in ["maskedPaths", "readonlyPaths"] {
        let paths = |count: usize| json!((0..count).map(|index| format!("/{index}")).collect::<Vec<_>>());
        allows(&format!("/linux/{name}"), paths(4096));
        denies(
            &format!("/linux/{name}"),
            paths(4097),
            &format!("linux.{name}: expected at most 4096 paths, found 4097"),
        );
    }
}

#[test]
fn only_namespaced_sysctls_are_allowed() {
    for name in [
        "net.ipv4.ip_forward",
        "net/ipv4/conf/eth0.1/forwarding",
        "kernel.sem",
        "kernel/shmmax",
        "fs.mqueue.msg_max",
        "kernel.domainname",
    ] {
        allows("/linux/sysctl", json!({ name: "1" }));
    }
    denies(
        "/linux/sysctl",
        json!({"kernel.hostname": "a"}),
        "linux.sysctl[\"kernel.hostname\"]: sysctl \"kernel.hostname\" is not allowed as it conflicts",
    );
    denies("/linux/sysctl", json!({"kernel/hostname": "a"}), "linux.sysctl[\"kernel/hostname\"]: sysctl");
    for name in [
        "vm.swappiness",
        "kernel.core_pattern",
        "kernel",
        "net",
        "net..ipv4",
        "net/../kernel/core_pattern",
        "net././/kernel.core_pattern",
        "",
    ] {
        assert_eq!(faults(&[("/linux/sysctl", json!({ name: "1" }))]).len(), 1, "{name}");
    }
    let host = ("/linux/namespaces", json!([]));
    for name in ["net.ipv4.ip_forward", "kernel.sem", "kernel.domainname", "kernel.hostname"] {
        assert_eq!(faults(&[("/linux/sysctl", json!({ name: "1" })), host.clone()]).len(), 1, "{name}");
    }
}

#[test]
fn joining_the_callers_or_the_hosts_namespace_does_not_count_as_private() {
    let path = "/run/spec/namespace";
    let joined = |kind| ("/linux/namespaces", json!([{"type": kind, "path": path}, {"type": "mount"}]));
    let own = |kind| Host { own_namespaces: vec![kind], ..host() };
    let of_pid_one = |kind| Host { host_namespaces: vec![kind], ..host() };
    let cases = [
        ("network", NamespaceKind::Network, "/linux/sysctl", json!({"net.core.somaxconn": "1"})),
        ("ipc", NamespaceKind::Ipc, "/linux/sysctl", json!({"kernel.sem": "1"})),
        ("ipc", NamespaceKind::Ipc, "/linux/sysctl", json!({"fs.mqueue.msg_max": "1"})),
        ("uts", NamespaceKind::Uts, "/linux/sysctl", json!({"kernel.domainname": "a"})),
        ("uts", NamespaceKind::Uts, "/hostname", json!("a")),
        ("uts", NamespaceKind::Uts, "/domainname", json!("a")),
    ];
    for (name, kind, pointer, value) in cases {
        let changes = [joined(name), (pointer, value)];
        assert_eq!(findings_with(&host(), &changes).violations, [], "{name}: of another container");
        for host in [own(kind), of_pid_one(kind)] {
            assert_eq!(findings_with(&host, &changes).violations.len(), 1, "{name} {pointer}");
        }
    }
    let mount = ("/linux/namespaces", json!([{"type": "mount", "path": path}]));
    let found = findings_with(&of_pid_one(NamespaceKind::Mount), &[mount]).violations;
    assert!(found.len() == 1 && found[0].reason.contains("process 1"), "{found:?}");
}

#[test]
fn the_first_separator_of_a_sysctl_decides() {
    assert_eq!(sysctl::dotted("net/ipv4/conf/eth0.1/forwarding"), "net.ipv4.conf.eth0/1.forwarding");
    assert_eq!(sysctl::dotted("net.ipv4.conf.eth0/1.forwarding"), "net.ipv4.conf.eth0/1.forwarding");
}

#[test]
fn ignored_fields_cause_a_warning() {
    let old = Host { last_capability: 37, ..host() };
    let changes = [
        ("/mounts/0", json!({"destination": "data", "type": "tmpfs"})),
        ("/linux/personality", json!({"domain": "LINUX32", "flags": ["X"]})),
        ("/process/capabilities", json!({"bounding": ["CAP_BPF"]})),
    ];
    let found = findings_with(&old, &changes);
    assert!(found.violations.is_empty() && found.warnings.len() == 3, "{found:?}");
}

#[test]
fn faults_of_a_process_json_have_no_prefix() {
    let (process, _) = config::parse_process(br#"{"args":[],"cwd":"/"}"#).unwrap();
    let mut findings = Findings::default();
    check_process(&process, "", &host(), &mut findings);
    assert_eq!(findings.violations[0].path, "args");
}
