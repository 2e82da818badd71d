//! Scopes of systemd on cgroup v1, alone or beside cgroup2. Needs root and a systemd that keeps its units there;
//! without it (the bed is neither `uml-systemd-v1` nor `uml-systemd-hybrid`) there is nothing to test.

mod bed;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bed::Gated;
use bed::scope::{plan_of, resources, show};
use brig_engine::cgroup::{Cgroup, CgroupKind, CgroupRecord};
use brig_plan::host::CgroupLayout;
use serde_json::{Value, json};

fn here() -> bool {
    let layout = match bed::name().as_str() {
        "uml-systemd-v1" => Some(CgroupLayout::V1),
        "uml-systemd-hybrid" => Some(CgroupLayout::Hybrid),
        _ => None,
    };
    let found = bed::has_systemd() && bed::layout().has_v1();
    assert!(layout.is_none_or(|layout| found && bed::layout() == layout), "this bed promises {layout:?} with systemd");
    found
}

/// A scope that is gone at the end of the test, with its process.
struct Scope {
    cgroup: Cgroup,
    process: Gated,
    unit: String,
}

impl Scope {
    fn start(name: &str, limits: &Value, script: &str) -> Scope {
        let mut cgroup = Cgroup::create(&plan_of(name, limits, &json!({}))).expect("systemd answers");
        let process = Gated::new(script);
        cgroup.attach(process.pid()).expect("the scope starts");
        Scope { cgroup, process, unit: format!("brig-{name}.scope") }
    }

    fn record(&self) -> CgroupRecord {
        self.cgroup.record()
    }

    fn read(&self, controller: &str, file: &str) -> String {
        let path = self.record().paths[controller].join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    fn devices(&self) -> BTreeSet<String> {
        self.read("devices", "devices.list").lines().map(str::to_owned).collect()
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let _ = self.cgroup.kill_all(libc::SIGKILL);
        let _ = self.process.child.wait();
        let _ = self.cgroup.destroy();
    }
}

/// The process's cgroup in every hierarchy.
fn cgroups_of(pid: i32) -> BTreeSet<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    text.lines().map(|line| line.splitn(3, ':').nth(2).expect("a path").to_owned()).collect()
}

/// Every cgroup of the name, in whatever hierarchy.
fn left(name: &str) -> Vec<PathBuf> {
    let below = |root: &Path| root.join("brigtest.slice").join(name);
    let mounts = fs::read_dir("/sys/fs/cgroup").expect("hierarchies").flatten();
    mounts.map(|mount| below(&mount.path())).filter(|path| path.exists()).collect()
}

const DENY_ALL: &str = r#"{"allow": false, "access": "rwm"}"#;

fn rules(more: Value) -> Value {
    let mut rules = vec![serde_json::from_str(DENY_ALL).expect("JSON")];
    rules.extend(more.as_array().expect("a list").clone());
    Value::Array(rules)
}

#[test]
fn a_scope_has_its_limits_in_every_hierarchy_and_is_removed_from_all() {
    if !here() {
        return;
    }
    let limits = json!({
        "memory": {"limit": 67_108_864, "reservation": 33_554_432},
        "pids": {"limit": 20},
        "cpu": {"shares": 512, "quota": 50_500, "period": 100_000},
        "network": {"classID": 4097},
        "devices": rules(json!([])),
    });
    let mut scope = Scope::start("one", &limits, "exec 3</dev/kmsg");
    let pid = scope.process.pid();
    assert_eq!(cgroups_of(pid), BTreeSet::from(["/brigtest.slice/brig-one.scope".to_owned()]));
    let record: CgroupRecord =
        serde_json::from_str(&serde_json::to_string(&scope.record()).expect("JSON")).expect("a record");
    let kind = if bed::layout() == CgroupLayout::Hybrid { CgroupKind::Hybrid } else { CgroupKind::V1 };
    assert_eq!((record.kind, record.unit.is_some()), (kind, true));
    let files = [
        ("memory", "memory.limit_in_bytes", "67108864"),
        ("memory", "memory.soft_limit_in_bytes", "33554432"),
        ("pids", "pids.max", "20"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50500"),
        ("net_cls", "net_cls.classid", "4097"),
    ];
    for (controller, file, value) in files {
        assert_eq!(scope.read(controller, file), value, "{file}");
    }
    let properties = [
        ("Slice", "brigtest.slice"),
        ("Delegate", "yes"),
        ("MemoryLimit", "67108864"),
        ("TasksMax", "20"),
        ("CPUShares", "512"),
        ("CPUQuotaPerSecUSec", "510ms"),
        ("BlockIOAccounting", "yes"),
        ("DevicePolicy", "strict"),
    ];
    for (property, value) in properties {
        assert_eq!(show(&scope.unit, property), value, "{property}");
    }
    let again = Cgroup::from_record(&record);
    let idle = Gated::idle();
    let target = again.exec_target(&[], pid).expect("a target");
    target.attach(idle.pid()).expect("it joins");
    if target.clone_target().is_some() {
        fs::write(record.paths[""].join("cgroup.procs"), idle.pid().to_string()).expect("it joins");
    }
    assert_eq!(again.pids().expect("pids").len(), 2);
    again.freeze().expect("frozen");
    assert!(again.is_frozen().expect("a state"));
    again.thaw().expect("thawed");
    assert_eq!(again.stats().expect("numbers").pids.limit, 20);
    scope.process.open();
    assert!(!scope.process.child.wait().expect("an end").success(), "the device is denied");
    again.kill_all(libc::SIGKILL).expect("killed");
    idle.wait();
    assert!(again.wait_empty(Duration::from_secs(20)).expect("an end"));
    again.destroy().expect("it goes");
    assert_eq!(left("brig-one.scope"), Vec::<PathBuf>::new());
    assert_ne!(show(&scope.unit, "ActiveState"), "active");
    again.destroy().expect("it is gone already");
}

#[test]
fn an_update_keeps_settings_that_systemd_would_round_or_rewrite() {
    if !here() {
        return;
    }
    let limits = json!({
        "memory": {"limit": 67_108_864},
        "cpu": {"quota": 50_500, "period": 100_000},
        "devices": rules(json!([{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"},
                                {"allow": true, "type": "c", "minor": 77, "access": "rw"}])),
    });
    let mut scope = Scope::start("two", &limits, "read never");
    let before = scope.devices();
    assert!(before.contains("c 1:11 rm") && before.contains("c *:77 rwm"), "{before:?}");
    scope
        .cgroup
        .update(&resources(json!({"memory": {"limit": 134_217_728}, "pids": {"limit": 30}})))
        .expect("an update");
    assert_eq!(
        (scope.read("memory", "memory.limit_in_bytes").as_str(), scope.read("pids", "pids.max").as_str()),
        ("134217728", "30")
    );
    assert_eq!(
        (show(&scope.unit, "MemoryLimit").as_str(), show(&scope.unit, "TasksMax").as_str()),
        ("134217728", "30")
    );
    assert_eq!(scope.read("cpu", "cpu.cfs_quota_us"), "50500");
    assert_eq!(scope.devices(), before);
    assert!(!scope.cgroup.is_frozen().expect("a state"));

    scope.cgroup.freeze().expect("frozen");
    let new = rules(json!([{"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rw"}]));
    scope.cgroup.update(&resources(json!({"devices": new}))).expect("an update");
    let after = scope.devices();
    assert!(after.contains("c 1:11 rwm") && !after.contains("c *:77 rwm"), "{after:?}");
    assert!(scope.cgroup.is_frozen().expect("a state"), "a paused container stays paused");
    scope.cgroup.thaw().expect("thawed");

    let record = scope.record();
    let wrong = json!({
        "pids": {"limit": 33},
        "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 4000, "rate": 1000}]},
    });
    scope.cgroup.update(&resources(wrong)).expect_err("there is no such device");
    assert_eq!((scope.read("pids", "pids.max"), show(&scope.unit, "TasksMax")), ("30".to_owned(), "30".to_owned()));
    assert_eq!((scope.record(), scope.devices()), (record, after));
}

#[test]
fn a_scope_that_cannot_be_limited_is_gone_at_once_from_every_hierarchy() {
    if !here() {
        return;
    }
    let limits = json!({"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 4000, "rate": 1000}]}});
    let mut cgroup = Cgroup::create(&plan_of("three", &limits, &json!({}))).expect("nothing is made yet");
    // Like the first process of a pid namespace, it does not end by SIGTERM, which is how systemd begins to stop a
    // unit.
    let mut process = Gated::new("trap '' TERM; read never");
    process.open();
    let begin = Instant::now();
    cgroup.attach(process.pid()).expect_err("there is no such device");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    process.wait();
    cgroup.destroy().expect("it goes");
    assert_eq!(left("brig-three.scope"), Vec::<PathBuf>::new());
    assert_ne!(show("brig-three.scope", "ActiveState"), "active");
}

#[test]
fn a_later_scope_of_the_slice_moves_no_process_of_an_earlier_one() {
    if !here() {
        return;
    }
    let denies_one = json!({"devices": [{"allow": true, "access": "rwm"},
                                        {"allow": false, "type": "c", "major": 1, "minor": 11, "access": "rwm"}]});
    let mut first = Scope::start("four", &denies_one, "exec 3</dev/kmsg");
    let second = Scope::start("five", &json!({"devices": rules(json!([]))}), "read never");
    for (scope, name) in [(&first, "four"), (&second, "five")] {
        let expected = BTreeSet::from([format!("/brigtest.slice/brig-{name}.scope")]);
        assert_eq!(cgroups_of(scope.process.pid()), expected);
    }
    first.process.open();
    assert!(!first.process.child.wait().expect("an end").success(), "the device is denied");
}

#[test]
fn a_container_can_have_a_cgroup_below_the_scope() {
    if !here() {
        return;
    }
    let plan =
        plan_of("six", &json!({"memory": {"limit": 67_108_864}}), &json!({"run.oci.systemd.subgroup": "container"}));
    let mut cgroup = Cgroup::create(&plan).expect("systemd answers");
    let process = Gated::idle();
    cgroup.attach(process.pid()).expect("the scope starts");
    assert_eq!(cgroups_of(process.pid()), BTreeSet::from(["/brigtest.slice/brig-six.scope/container".to_owned()]));
    let limit = cgroup.record().paths["memory"].join("memory.limit_in_bytes");
    assert_eq!(fs::read_to_string(limit).expect("a limit").trim(), "67108864");
    cgroup.kill_all(libc::SIGKILL).expect("killed");
    process.wait();
    cgroup.destroy().expect("it goes");
    let path = Path::new("/sys/fs/cgroup/freezer/brigtest.slice/brig-six.scope");
    assert!(!path.exists(), "{} is left", path.display());
}

#[test]
fn another_scope_with_the_containers_name_is_left() {
    if !here() {
        return;
    }
    let first = Scope::start("seven", &json!({}), "read never");
    let gone = Cgroup::from_record(&first.record());
    drop(first);
    let later = Scope::start("seven", &json!({}), "read never");
    gone.kill_all(libc::SIGKILL).expect("nothing is killed");
    gone.remove().expect("nothing is stopped");
    assert_eq!(later.cgroup.pids().expect("pids"), vec![later.process.pid()]);
    assert_eq!(show(&later.unit, "ActiveState"), "active");
}
