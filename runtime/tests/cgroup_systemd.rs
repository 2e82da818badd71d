//! Systemd scopes. The tests need root, a systemd and pure cgroup v2, and are skipped without them, except in the
//! environment `uml-systemd`.

mod bed;

use std::process::Command;
use std::time::Duration;

use bed::Gated;
use bed::scope::{plan_of, resources, show};
use brig_engine::cgroup::{Cgroup, CgroupKind, CgroupRecord};
use brig_plan::host::CgroupLayout;
use serde_json::{Value, json};

fn here() -> bool {
    let here = bed::has_systemd() && bed::layout() == CgroupLayout::V2;
    assert!(here || bed::name() != "uml-systemd", "this bed promises a systemd");
    here
}

#[test]
fn features_names_systemd_where_its_manager_works() {
    let output = Command::new(env!("CARGO_BIN_EXE_brig")).arg("features").output().expect("brig");
    let features: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let cgroup = &features["linux"]["cgroup"];
    // A user's systemd is delegated nothing on v1.
    assert_eq!((&cgroup["systemd"], &cgroup["systemdUser"]), (&json!(bed::has_systemd()), &json!(here())));
}

#[test]
fn another_scope_with_the_containers_name_is_left() {
    if !here() {
        return;
    }
    let process = Gated::idle();
    let mut cgroup = Cgroup::create(&plan_of("twice", &json!({}), &json!({}))).expect("systemd answers");
    cgroup.attach(process.pid()).expect("the scope starts");
    let gone = Cgroup::from_record(&cgroup.record());
    drop(process);
    assert!(cgroup.wait_empty(Duration::from_secs(20)).expect("an end"));
    gone.remove().expect("it is gone");
    let process = Gated::idle();
    let mut later = Cgroup::create(&plan_of("twice", &json!({}), &json!({}))).expect("systemd answers");
    later.attach(process.pid()).expect("the scope starts");
    gone.kill_all(libc::SIGKILL).expect("nothing is killed");
    gone.remove().expect("nothing is stopped");
    assert_eq!(later.pids().expect("pids"), vec![process.pid()]);
    later.kill_all(libc::SIGKILL).expect("killed");
    later.remove().expect("it goes");
}

#[test]
fn a_scope_has_its_limits_before_the_process_continues_and_is_removed_afterwards() {
    if !here() {
        return;
    }
    let limits = json!({
        "memory": {"limit": 67_108_864, "swap": 67_108_864},
        "pids": {"limit": 20},
        "cpu": {"shares": 512, "quota": 50_500, "period": 100_000},
        "unified": {"memory.high": "50331648"},
        "devices": [{"allow": false, "access": "rwm"}],
    });
    let annotations = json!({
        "org.systemd.property.TimeoutStopSec": "7",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.Description": "'a test of scopes'",
    });
    let plan = plan_of("one", &limits, &annotations);
    let mut cgroup = Cgroup::create(&plan).expect("a cgroup");
    assert!(cgroup.clone_target().is_none());
    let mut process = Gated::new("exec 3</dev/kmsg");
    let idle = Gated::idle();
    cgroup.attach(process.pid()).expect("the scope starts");

    let record: CgroupRecord =
        serde_json::from_str(&serde_json::to_string(&cgroup.record()).expect("JSON")).expect("a record");
    assert_eq!((record.kind, record.unit.is_some()), (CgroupKind::V2, true));
    let path = record.paths[""].clone();
    assert!(path.ends_with("brigtest.slice/brig-one.scope"), "{}", path.display());
    let read = |file: &str| std::fs::read_to_string(path.join(file)).expect(file).trim().to_owned();
    assert_eq!(read("cgroup.procs"), process.pid().to_string());
    assert_eq!(read("memory.max"), "67108864");
    assert_eq!(read("memory.high"), "50331648");
    assert_eq!(read("pids.max"), "20");
    assert_eq!(read("cpu.weight"), "59");
    assert_eq!(read("cpu.max"), "50500 100000");
    let unit = "brig-one.scope";
    assert_eq!(show(unit, "MemoryMax"), "67108864");
    assert_eq!(show(unit, "TasksMax"), "20");
    assert_eq!(show(unit, "Delegate"), "yes");
    assert_eq!(show(unit, "TimeoutStopUSec"), "7s");
    assert_eq!(show(unit, "CollectMode"), "inactive-or-failed");
    assert_eq!(show(unit, "Description"), "a test of scopes");
    assert_eq!(show(unit, "DevicePolicy"), "strict");
    assert_eq!(show(unit, "CPUQuotaPerSecUSec"), "510ms");

    let again = Cgroup::from_record(&record);
    let target = again.exec_target(&[], process.pid()).expect("a target");
    std::fs::write(path.join("cgroup.procs"), idle.pid().to_string()).expect("it joins");
    assert!(target.clone_target().is_some());
    again.freeze().expect("frozen");
    assert!(again.is_frozen().expect("a state"));
    again.thaw().expect("thawed");
    process.open();
    assert!(!process.wait().success(), "the device is denied");

    again.kill_all(libc::SIGKILL).expect("killed");
    idle.wait();
    assert!(again.wait_empty(Duration::from_secs(20)).expect("an end"));
    again.destroy().expect("it goes");
    assert!(!path.exists());
    assert_ne!(show(unit, "ActiveState"), "active");
    again.destroy().expect("it is gone already");
}

#[test]
fn an_update_reaches_the_unit_and_the_files_or_neither() {
    if !here() {
        return;
    }
    let plan = plan_of("two", &json!({"memory": {"limit": 67_108_864}, "pids": {"limit": 20}}), &json!({}));
    let mut cgroup = Cgroup::create(&plan).expect("a cgroup");
    let process = Gated::idle();
    cgroup.attach(process.pid()).expect("the scope starts");
    let path = cgroup.record().paths[""].clone();
    let read = |file: &str| std::fs::read_to_string(path.join(file)).expect(file).trim().to_owned();
    let unit = "brig-two.scope";

    cgroup.update(&resources(json!({"memory": {"limit": 134_217_728}, "cpu": {"quota": 25_250}}))).expect("an update");
    assert_eq!((read("memory.max"), show(unit, "MemoryMax")), ("134217728".to_owned(), "134217728".to_owned()));
    assert_eq!(read("cpu.max"), "25250 100000");
    assert_eq!((read("pids.max"), show(unit, "TasksMax")), ("20".to_owned(), "20".to_owned()));

    let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"}]);
    cgroup.update(&resources(json!({"devices": rules}))).expect("an update");
    let mut reader = Gated::new("exec 3</dev/kmsg");
    std::fs::write(path.join("cgroup.procs"), reader.pid().to_string()).expect("it joins");
    reader.open();
    assert!(reader.wait().success(), "the device is allowed now");

    let before = cgroup.record();
    let wrong = json!({
        "pids": {"limit": 33},
        "blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 4000, "rate": 1000}]},
    });
    cgroup.update(&resources(wrong)).expect_err("there is no such device");
    assert_eq!((read("pids.max"), show(unit, "TasksMax")), ("20".to_owned(), "20".to_owned()));
    assert_eq!(cgroup.record(), before);

    cgroup.kill_all(libc::SIGKILL).expect("killed");
    process.wait();
    cgroup.destroy().expect("it goes");
    assert!(!path.exists());
}

#[test]
fn a_unit_that_systemd_refuses_leaves_nothing() {
    if !here() {
        return;
    }
    let plan = plan_of("three", &json!({}), &json!({"org.systemd.property.NoSuchThing": "true"}));
    let mut cgroup = Cgroup::create(&plan).expect("nothing is made yet");
    let process = Gated::idle();
    let error = cgroup.attach(process.pid()).expect_err("there is no such property").to_string();
    assert!(error.starts_with("unable to start unit \"brig-three.scope\"") && error.contains("NoSuchThing"), "{error}");
    assert_ne!(show("brig-three.scope", "ActiveState"), "active");
    cgroup.destroy().expect("there is nothing to remove");
}

#[test]
fn a_container_can_have_a_cgroup_below_the_scope() {
    if !here() {
        return;
    }
    let plan =
        plan_of("four", &json!({"memory": {"limit": 67_108_864}}), &json!({"run.oci.systemd.subgroup": "container"}));
    let mut cgroup = Cgroup::create(&plan).expect("a cgroup");
    let process = Gated::idle();
    cgroup.attach(process.pid()).expect("the scope starts");
    let path = cgroup.record().paths[""].clone();
    assert!(path.ends_with("brigtest.slice/brig-four.scope/container"), "{}", path.display());
    assert_eq!(std::fs::read_to_string(path.join("memory.max")).expect("memory.max").trim(), "67108864");
    assert_eq!(cgroup.pids().expect("pids"), vec![process.pid()]);
    cgroup.kill_all(libc::SIGKILL).expect("killed");
    process.wait();
    cgroup.destroy().expect("it goes");
    assert!(!path.exists());
}
