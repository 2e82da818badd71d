//! Cgroups of the host: created, filled, measured and removed. Needs root.

mod bed;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bed::{Gated, Scratch, plan_of, plan_of_config};
use brig_engine::cgroup::{Cgroup, CgroupRecord, OomEvent};
use brig_plan::host::CgroupLayout;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

const TIMEOUT: Duration = Duration::from_secs(20);

fn is_v2() -> bool {
    bed::layout() == CgroupLayout::V2
}

fn limits() -> Value {
    let mut limits = json!({
        "devices": [{"allow": false, "access": "rwm"}],
    });
    if bed::has_controller("memory") {
        limits["memory"] = json!({"limit": 67_108_864, "reservation": 33_554_432});
    }
    if bed::has_controller("cpu") {
        limits["cpu"] = json!({"shares": 512, "quota": 50_000, "period": 100_000});
    }
    if bed::has_controller("pids") {
        limits["pids"] = json!({"limit": 20});
    }
    limits
}

#[test]
fn limits_are_in_force_before_a_process_is_there_and_gone_with_the_cgroup() {
    let scratch = Scratch::new("limits", &limits());
    if bed::has_controller("memory") {
        let (file, low) = if is_v2() {
            ("memory.max", "memory.low")
        } else {
            ("memory.limit_in_bytes", "memory.soft_limit_in_bytes")
        };
        assert_eq!(scratch.read("memory", file), "67108864");
        assert_eq!(scratch.read("memory", low), "33554432");
    }
    if bed::has_controller("cpu") {
        if is_v2() {
            assert_eq!(scratch.read("cpu", "cpu.max"), "50000 100000");
            assert_eq!(scratch.read("cpu", "cpu.weight"), "59");
        } else {
            assert_eq!(scratch.read("cpu", "cpu.cfs_quota_us"), "50000");
            assert_eq!(scratch.read("cpu", "cpu.shares"), "512");
        }
    }
    if bed::has_controller("pids") {
        assert_eq!(scratch.read("pids", "pids.max"), "20");
    }
    assert_eq!(scratch.0.pids().expect("pids"), Vec::<i32>::new());
    scratch.0.destroy().expect("it goes");
    assert!(scratch.gone());
    scratch.0.destroy().expect("it is gone already");
}

#[test]
fn a_record_finds_the_cgroup_again() {
    let mut scratch = Scratch::new("record", &limits());
    let process = Gated::idle();
    scratch.enter(&process);
    let text = serde_json::to_string(&scratch.0.record()).expect("JSON");
    let record: CgroupRecord = serde_json::from_str(&text).expect("the same record");
    assert_eq!(record, scratch.0.record());
    let again = Cgroup::from_record(&record);
    assert_eq!(again.pids().expect("pids"), vec![process.pid()]);
    for path in record.paths.values() {
        let procs = std::fs::read_to_string(path.join("cgroup.procs")).expect("procs");
        assert_eq!(procs.trim(), process.pid().to_string(), "{}", path.display());
    }
}

#[test]
fn a_frozen_cgroup_does_not_run_and_can_be_killed() {
    let mut scratch = Scratch::new("freeze", &json!({}));
    let process = Gated::idle();
    scratch.enter(&process);
    assert!(!scratch.0.is_frozen().expect("state"));
    scratch.0.freeze().expect("it freezes");
    assert!(scratch.0.is_frozen().expect("state"));
    scratch.0.thaw().expect("it thaws");
    assert!(!scratch.0.is_frozen().expect("state"));
    scratch.0.freeze().expect("it freezes again");
    scratch.0.kill_all(libc::SIGKILL).expect("it is killed");
    assert!(scratch.0.wait_empty(TIMEOUT).expect("an end"));
    process.wait();
    scratch.0.destroy().expect("it goes");
    assert!(scratch.gone());
}

#[test]
fn a_signal_reaches_every_process_of_every_cgroup_below() {
    let mut scratch = Scratch::new("signal", &json!({}));
    let (one, two) = (Gated::idle(), Gated::idle());
    scratch.enter(&one);
    for path in scratch.0.record().paths.values() {
        let sub = path.join("sub");
        std::fs::create_dir(&sub).expect("a cgroup below");
        if path.ends_with("cpuset") || path.to_string_lossy().contains("/cpuset/") {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                std::fs::write(sub.join(file), std::fs::read(path.join(file)).expect("a set")).expect("a set");
            }
        }
        std::fs::write(sub.join("cgroup.procs"), two.pid().to_string()).expect("it takes a process");
    }
    assert_eq!(scratch.0.pids().expect("pids").len(), 2);
    scratch.0.kill_all(libc::SIGTERM).expect("signalled");
    one.wait();
    two.wait();
    scratch.0.destroy().expect("it goes, with what is below");
    assert!(scratch.gone());
}

#[test]
fn removal_waits_for_processes_that_are_ending() {
    let mut scratch = Scratch::new("busy", &json!({}));
    let process = Gated::idle();
    scratch.enter(&process);
    let waiter = Cgroup::from_record(&scratch.0.record());
    let started = Instant::now();
    let thread = std::thread::spawn(move || waiter.destroy());
    scratch.0.kill_all(libc::SIGKILL).expect("killed");
    thread.join().expect("no panic").expect("it goes");
    assert!(started.elapsed() < TIMEOUT);
    assert!(scratch.gone());
}

#[test]
fn a_cgroup_with_processes_is_refused() {
    let mut scratch = Scratch::new("taken", &json!({}));
    let process = Gated::idle();
    scratch.enter(&process);
    let path = format!("/brig-test-taken-{}", std::process::id());
    let error = Cgroup::create(&plan_of(&path, &json!({})).expect("a plan")).expect_err("it is in use");
    assert!(error.to_string().contains("container's cgroup is not empty: 1 process(es) found"), "{error}");
    assert_eq!(scratch.0.pids().expect("pids"), vec![process.pid()]);
}

#[test]
fn a_cgroup_that_is_frozen_or_below_a_frozen_one_is_not_taken() {
    let scratch = Scratch::new("ice", &json!({}));
    scratch.0.freeze().expect("it is frozen");
    let path = format!("/brig-test-ice-{}", std::process::id());
    for path in [path.clone(), format!("{path}/below")] {
        let error = Cgroup::create(&plan_of(&path, &json!({})).expect("a plan")).expect_err("it is frozen");
        assert!(error.to_string().contains("container's cgroup unexpectedly frozen"), "{error}");
    }
    assert!(!scratch.path("freezer").join("below").exists(), "something is left");
    scratch.0.thaw().expect("it is thawed");
}

#[test]
fn cpus_and_nodes_that_the_host_does_not_have_are_named_with_those_that_it_has() {
    if !bed::has_controller("cpuset") {
        return;
    }
    let cpus = std::fs::read_to_string("/sys/devices/system/cpu/online").expect("the host's CPUs");
    let path = format!("/brig-test-cpuset-{}", std::process::id());
    for (name, list, there) in [
        ("cpus", "0-999", format!("this host has CPUs {}", cpus.trim())),
        ("cpus", "0-99999", "this host has CPUs".to_owned()),
        ("mems", "0-99", "this host has memory nodes 0".to_owned()),
    ] {
        let plan = plan_of(&path, &json!({ "cpu": { name: list } })).expect("a plan");
        let error = Cgroup::create(&plan).expect_err("there are fewer").to_string();
        assert!(
            error.contains(&format!("linux.resources.cpu.{name}: \"{list}\"")) && error.contains(&there),
            "{error}"
        );
    }
}

#[test]
fn the_root_cgroup_is_no_containers() {
    let error = Cgroup::create(&plan_of("/", &json!({})).expect("a plan")).expect_err("it is the host's");
    assert!(error.to_string().contains("a container cannot be in the root cgroup"), "{error}");
    // A record cannot make the root cgroup a container's either: no process is killed, and nothing removed.
    let mut record = Scratch::new("root", &json!({})).0.record();
    for path in record.paths.values_mut() {
        path.pop();
    }
    record.inodes.clear();
    let root = Cgroup::from_record(&record);
    assert_eq!(root.pids().expect("pids"), Vec::<i32>::new());
    assert!(root.freeze().is_err());
    root.remove().expect("nothing to remove");
}

#[test]
fn a_failure_leaves_nothing_behind() {
    let path = format!("/brig-test-unwind-{}/deep/er", std::process::id());
    let plan = plan_of(&path, &json!({"rdma": {"mlx5_0": {"hcaHandles": 2}}})).expect("a plan");
    if bed::has_controller("rdma") {
        return;
    }
    let error = Cgroup::create(&plan).expect_err("there is no rdma");
    let text = error.to_string();
    assert!(text.starts_with("linux.resources.rdma.mlx5_0: cannot set rdma limit"), "{text}");
    for mount in std::fs::read_dir("/sys/fs/cgroup").expect("mounts").flatten() {
        let name = format!("brig-test-unwind-{}", std::process::id());
        assert!(!mount.path().join(&name).exists() && mount.file_name() != *name, "{mount:?}");
    }
}

#[test]
fn a_process_can_enter_v1_by_itself() {
    use std::process::{Command, Stdio};
    let scratch = Scratch::new("self", &json!({}));
    let paths = scratch.0.record().paths;
    let files = scratch.0.self_entry().expect("files");
    let hierarchies = paths.keys().filter(|name| !name.is_empty()).count();
    assert_eq!(files.is_empty(), hierarchies == 0);
    for file in files {
        // The shell writes its pid itself, and runs until its standard input closes.
        let mut child = Command::new("/bin/sh")
            .args(["-c", "echo 0; read never"])
            .stdin(Stdio::piped())
            .stdout(file)
            .spawn()
            .expect("a shell");
        let deadline = Instant::now() + TIMEOUT;
        let listed = || {
            let of = |path: &PathBuf| std::fs::read_to_string(path.join("cgroup.procs")).expect("procs");
            paths.values().any(|path| of(path).lines().any(|pid| pid == child.id().to_string()))
        };
        while !listed() {
            assert!(Instant::now() < deadline, "it does not enter");
            std::thread::yield_now();
        }
        drop(child.stdin.take());
        child.wait().expect("its end");
    }
}

#[test]
fn a_limit_without_its_controller_is_an_error_and_no_limit_is_none() {
    for (controller, wishes) in [
        ("memory", json!({"memory": {"limit": 67_108_864}})),
        ("cpuset", json!({"cpu": {"cpus": "0"}})),
        ("io", json!({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}})),
    ] {
        if bed::has_controller(controller) {
            continue;
        }
        let path = format!("/brig-test-none-{controller}-{}", std::process::id());
        let error = Cgroup::create(&plan_of(&path, &wishes).expect("a plan")).expect_err("no controller").to_string();
        assert!(error.contains(&format!("the {controller} controller is not available")), "{error}");
        assert!(error.starts_with("linux.resources."), "{error}");
        let cgroup = Cgroup::create(&plan_of(&path, &json!({})).expect("a plan")).expect("without limits it is made");
        cgroup.destroy().expect("it goes");
    }
}

#[test]
fn a_delegated_cgroup_belongs_to_the_containers_user_but_for_its_limits() {
    use std::os::unix::fs::MetadataExt;
    if !is_v2() {
        return;
    }
    let plan = plan_of_config(json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 12_345, "gid": 0}, "cwd": "/", "args": ["sh"]},
        "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}],
        "linux": {
            "cgroupsPath": format!("/brig-test-owner-{}", std::process::id()),
            "namespaces": [{"type": "cgroup"}, {"type": "mount"}],
        },
    }));
    let plan = plan.expect("a plan");
    assert_eq!(plan.owner, Some(12_345));
    let scratch = Scratch(Cgroup::create(&plan).expect("a cgroup"));
    let owner = |file: &str| std::fs::metadata(scratch.path("").join(file)).expect(file).uid();
    assert_eq!(["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"].map(owner), [12_345; 4]);
    assert_eq!(["cgroup.freeze", "cgroup.max.depth"].map(owner), [0; 2]);
}

#[test]
fn devices_are_denied_but_for_the_default_ones() {
    // /dev/kmsg (1:11) is readable for root everywhere, and no default device. Only a rule for it makes a difference.
    let script = "head -c 1 </dev/zero >/dev/null && exec 3</dev/kmsg";
    let run = |name: &str, rules: Value| {
        let mut scratch = Scratch::new(name, &json!({"devices": rules}));
        let mut process = Gated::new(script);
        scratch.enter(&process);
        process.open();
        process.wait().success()
    };
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
    assert!(!run("deny", json!([deny])));
    assert!(run("allow", json!([deny, allow])));
    assert!(run("all", json!([{"allow": true, "access": "rwm"}])));
}

#[test]
fn an_update_replaces_the_device_rules() {
    let deny = json!({"allow": false, "access": "rwm"});
    let allow = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
    let mut scratch = Scratch::new("devices", &json!({"devices": [deny]}));
    for (rules, opens) in [(json!([deny, allow]), true), (json!([deny]), false)] {
        let new: LinuxResources = serde_json::from_value(json!({"devices": rules})).expect("resources");
        scratch.0.update(&new).expect("an update");
        let mut process = Gated::new("exec 3</dev/kmsg");
        scratch.enter(&process);
        process.open();
        assert_eq!(process.wait().success(), opens, "{rules}");
    }
}

#[test]
fn an_update_keeps_the_settings_that_it_does_not_name() {
    if !bed::has_controller("cpu") || !bed::has_controller("memory") {
        return;
    }
    let mut scratch = Scratch::new("update", &limits());
    let new: LinuxResources =
        serde_json::from_value(json!({"cpu": {"quota": 20_000}, "memory": {"limit": 134_217_728}})).expect("resources");
    let record = scratch.0.update(&new).expect("an update");
    if is_v2() {
        assert_eq!(scratch.read("cpu", "cpu.max"), "20000 100000");
        assert_eq!(scratch.read("cpu", "cpu.weight"), "59");
        assert_eq!(scratch.read("memory", "memory.max"), "134217728");
        assert_eq!(scratch.read("memory", "memory.low"), "33554432");
    } else {
        assert_eq!(scratch.read("cpu", "cpu.cfs_quota_us"), "20000");
        assert_eq!(scratch.read("cpu", "cpu.cfs_period_us"), "100000");
        assert_eq!(scratch.read("memory", "memory.limit_in_bytes"), "134217728");
    }
    let cpu = record.resources.cpu().clone().expect("cpu");
    assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(512), Some(20_000), Some(100_000)));
}

#[test]
fn a_rejected_update_changes_nothing() {
    if !bed::has_controller("cpu") || !bed::has_controller("pids") {
        return;
    }
    let mut scratch = Scratch::new("reject", &limits());
    let before = scratch.0.record();
    let files: [(&str, &str); 3] = if is_v2() {
        [("cpu", "cpu.max"), ("pids", "pids.max"), ("memory", "memory.max")]
    } else {
        [("cpu", "cpu.cfs_quota_us"), ("pids", "pids.max"), ("memory", "memory.limit_in_bytes")]
    };
    let values = files.map(|(controller, file)| scratch.read(controller, file));
    // Only the last value is wrong; a block device 4000:4000 does not exist.
    let new: LinuxResources = serde_json::from_value(json!({
        "cpu": {"quota": 30_000},
        "pids": {"limit": 30},
        "memory": {"limit": 134_217_728},
        "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 4000, "rate": 1000}]},
        "rdma": {"mlx5_0": {"hcaHandles": 2}},
    }))
    .expect("resources");
    let error = scratch.0.update(&new).expect_err("no such device");
    assert!(error.to_string().contains("linux.resources."), "{error}");
    assert_eq!(files.map(|(controller, file)| scratch.read(controller, file)), values);
    assert_eq!(scratch.0.record(), before);
}

#[test]
fn memory_limits_go_up_and_down_with_swap() {
    if !bed::has_controller("memory") {
        return;
    }
    let mib = |count: i64| count * 1024 * 1024;
    let mut scratch = Scratch::new("swap", &json!({"memory": {"limit": mib(64), "swap": mib(64)}}));
    for (limit, swap) in [(mib(256), mib(512)), (mib(32), mib(32)), (mib(64), mib(128)), (-1, -1)] {
        let new = json!({"memory": {"limit": limit, "swap": swap}});
        let new: LinuxResources = serde_json::from_value(new).expect("resources");
        scratch.0.update(&new).unwrap_or_else(|error| panic!("{limit} {swap}: {error}"));
    }
}

#[test]
fn the_oom_killer_is_counted_and_noticed() {
    if !bed::has_controller("memory") {
        return;
    }
    let mib = 1024 * 1024;
    let mut scratch = Scratch::new("oom", &json!({"memory": {"limit": 16 * mib, "swap": 16 * mib}}));
    let mut watch = scratch.0.oom_watch().expect("a watch").expect("a memory controller");
    // A second process keeps the cgroup populated.
    let stays = Gated::idle();
    scratch.enter(&stays);
    let mut process = Gated::new("exec tail /dev/zero");
    scratch.enter(&process);
    assert_eq!(scratch.0.oom_kills().expect("a count"), 0);
    process.open();
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no event");
        let timeout = rustix::event::Timespec::try_from(left).expect("a timeout");
        rustix::event::poll(&mut watch.poll_fds(), Some(&timeout)).expect("poll");
        match watch.check().expect("an answer") {
            OomEvent::Oom(count) => {
                assert!(count >= 1);
                break;
            }
            OomEvent::None => {}
            OomEvent::Ended => panic!("the cgroup is still there"),
        }
    }
    assert!(!process.wait().success());
    assert_eq!(scratch.0.oom_kills().expect("a count"), 1);
    scratch.0.kill_all(libc::SIGKILL).expect("killed");
    stays.wait();
    scratch.0.destroy().expect("it goes");
    let timeout = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
    rustix::event::poll(&mut watch.poll_fds(), Some(&timeout)).expect("poll");
    while watch.check().expect("an answer") != OomEvent::Ended {}
}

#[test]
fn statistics_have_the_shape_that_readers_expect() {
    let mut scratch = Scratch::new("stats", &limits());
    let process = Gated::idle();
    scratch.enter(&process);
    let stats = serde_json::to_value(scratch.0.stats().expect("statistics")).expect("JSON");
    for part in ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"] {
        assert!(stats.get(part).is_some(), "{part} is missing: {stats}");
    }
    assert_eq!(stats["pids"]["current"], 1);
    if bed::has_controller("pids") {
        assert_eq!(stats["pids"]["limit"], 20);
    }
    if bed::has_controller("memory") {
        assert_eq!(stats["memory"]["usage"]["limit"], 67_108_864);
        assert!(stats["memory"]["raw"].as_object().is_some_and(|raw| raw.len() > 10));
    }
    scratch.0.kill_all(libc::SIGKILL).expect("killed");
    process.wait();
    scratch.0.destroy().expect("it goes");
    scratch.0.stats().expect("a cgroup that is gone has empty statistics");
}

#[test]
fn a_joining_process_enters_the_requested_cgroup() {
    let mut scratch = Scratch::new("exec", &json!({}));
    let init = Gated::idle();
    scratch.enter(&init);
    let place = |target: &brig_engine::cgroup::ExecTarget, process: &Gated| {
        if let Some(fd) = target.clone_target() {
            let path = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)));
            std::fs::write(path.expect("a path").join("cgroup.procs"), process.pid().to_string()).expect("entered");
        }
        target.attach(process.pid()).expect("attached");
    };
    let plain = Gated::idle();
    place(&scratch.0.exec_target(&[], init.pid()).expect("a target"), &plain);
    assert_eq!(scratch.0.pids().expect("pids").len(), 2);
    drop(plain);
    assert!(scratch.0.exec_target(&["../other".to_owned()], init.pid()).is_err());
    assert!(scratch.0.exec_target(&["missing".to_owned()], init.pid()).and_then(|it| it.attach(1)).is_err());

    let main = scratch.path("devices");
    std::fs::create_dir(main.join("sub")).expect("a cgroup below");
    let argument = if is_v2() { "sub".to_owned() } else { "devices:sub".to_owned() };
    let below = Gated::idle();
    place(&scratch.0.exec_target(&[argument], init.pid()).expect("a target"), &below);
    let procs = std::fs::read_to_string(main.join("sub/cgroup.procs")).expect("procs");
    assert_eq!(procs.trim(), below.pid().to_string());

    if is_v2() && bed::has_controller("memory") {
        // Init creates a cgroup of its own and enables memory for it: its old one takes no process any more.
        std::fs::write(main.join("sub/cgroup.procs"), init.pid().to_string()).expect("init moves");
        std::fs::write(main.join("cgroup.subtree_control"), "+memory").expect("memory is handed down");
        let late = Gated::idle();
        place(&scratch.0.exec_target(&[], init.pid()).expect("a target"), &late);
        let procs = std::fs::read_to_string(main.join("sub/cgroup.procs")).expect("procs");
        assert!(procs.lines().any(|pid| pid == late.pid().to_string()), "{procs}");
    }
}
