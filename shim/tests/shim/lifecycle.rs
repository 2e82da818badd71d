//! Tests of init's life cycle: the order of events, exit codes, and errors.

use std::path::Path;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, PauseRequest, PidsRequest, ResumeRequest, StatsRequest, Status, UpdateTaskRequest,
};
use protobuf::MessageField;
use protobuf::well_known_types::any::Any;
use serde_json::json;
use ttrpc::Code;

use crate::environment::{Environment, Shim, call_limit, code, count, wait};

fn status(shim: &Shim, exec_id: &str) -> Status {
    shim.state(exec_id).unwrap().status.enum_value().unwrap()
}

#[test]
fn a_container_s_whole_life_is_told_in_order() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sh", "-c", "exit 7"]);
    let shim = env.start(&bundle);
    assert_eq!(code(shim.state("")), Code::NOT_FOUND);
    let pid = shim.create(&bundle, |_| {}).unwrap();
    assert_eq!(status(&shim, ""), Status::CREATED);
    assert_eq!(code(shim.create(&bundle, |_| {})), Code::ALREADY_EXISTS);
    assert_eq!(std::fs::read_to_string(bundle.path.join("init.pid")).unwrap(), pid.to_string());
    assert_eq!(shim.start("").unwrap(), pid);
    assert_eq!(shim.wait("").unwrap(), 7);
    let state = shim.state("").unwrap();
    assert_eq!((state.status.enum_value().unwrap(), state.exit_status, state.pid), (Status::STOPPED, 7, pid));
    assert_eq!(code(shim.start("")), Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.kill("", libc::SIGKILL, false)), Code::NOT_FOUND);
    let deleted = shim.delete("").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 7));
    assert_eq!(code(shim.delete("")), Code::NOT_FOUND);
    env.expect(&["create", "start", &format!("exit {} 7", bundle.id), "delete 7"]);
    shim.shutdown();
    wait(|| shim.is_gone());
}

#[test]
fn what_was_never_started_can_be_killed_or_deleted() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/true"]);
    let shim = env.start(&bundle);
    shim.create(&bundle, |_| {}).unwrap();
    let deleted = shim.delete("").unwrap();
    assert_eq!(deleted.exit_status, 137);
    shim.create(&bundle, |_| {}).unwrap();
    shim.kill("", libc::SIGKILL, false).unwrap();
    assert_eq!(shim.wait("").unwrap(), 137);
    assert_eq!(code(shim.start("")), Code::FAILED_PRECONDITION);
    shim.delete("").unwrap();
    let exit = format!("exit {} 137", bundle.id);
    env.expect(&["create", &exit, "delete 137", "create", &exit, "delete 137"]);
}

#[test]
fn a_running_task_is_not_deleted_and_its_waiter_survives_the_delete() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    assert_eq!(code(shim.delete("")), Code::FAILED_PRECONDITION);
    assert_eq!(status(&shim, ""), Status::RUNNING);
    let waiter = shim.waiter("");
    shim.kill("", libc::SIGTERM, true).unwrap();
    // The first process of a pid namespace ignores signals without a handler.
    shim.kill("", libc::SIGKILL, false).unwrap();
    wait(|| status(&shim, "") == Status::STOPPED);
    shim.delete("").unwrap();
    assert_eq!(waiter.join().unwrap(), 137);
}

#[test]
fn a_create_that_fails_leaves_nothing_and_says_why() {
    let env = Environment::new();
    let mut bundle = env.bundle(&["/bin/nope"]);
    let shim = env.start(&bundle);
    let error = shim.create(&bundle, |_| {}).unwrap_err();
    let ttrpc::Error::RpcStatus(status) = &error else { panic!("{error}") };
    assert_eq!(status.code(), Code::INVALID_ARGUMENT);
    assert!(status.message().starts_with("OCI runtime create failed: "), "{}", status.message());
    assert!(!Path::new("/run/containerd/brig").join(crate::environment::NAMESPACE).join(&bundle.id).exists());
    let nowhere = shim.create(&bundle, |request| request.checkpoint = "/nowhere".into());
    assert_eq!(code(nowhere), Code::INVALID_ARGUMENT);
    assert_eq!(code(shim.create(&bundle, |request| request.bundle = "relative".into())), Code::INVALID_ARGUMENT);
    // The id is free again.
    bundle.config["process"]["args"] = json!(["/bin/true"]);
    std::fs::write(bundle.path.join("config.json"), bundle.config.to_string()).unwrap();
    shim.create(&bundle, |_| {}).unwrap();
    shim.delete("").unwrap();
}

#[test]
fn pause_pids_stats_and_update_work_and_a_paused_container_can_be_killed() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sh", "-c", "sleep 1000 & wait"]);
    let shim = env.run(&bundle);
    shim.exec("e", &["/bin/sleep", "1000"], |_| {}).unwrap();
    let exec = shim.start("e").unwrap();
    let pids = PidsRequest { id: shim.id.clone(), ..Default::default() };
    wait(|| shim.client.pids(call_limit(), &pids).unwrap().processes.len() == 3);
    let processes = shim.client.pids(call_limit(), &pids).unwrap().processes;
    let known: Vec<u32> =
        processes.iter().filter(|process| process.info.is_some()).map(|process| process.pid).collect();
    assert_eq!(known, [exec]);
    let stats = StatsRequest { id: shim.id.clone(), ..Default::default() };
    let stats = shim.client.stats(call_limit(), &stats).unwrap().stats.unwrap();
    assert!(stats.type_url.starts_with("io.containerd.cgroups.v") && !stats.value.is_empty(), "{}", stats.type_url);
    let resources = Any { value: br#"{"pids": {"limit": 77}}"#.to_vec(), ..Any::default() };
    let update =
        UpdateTaskRequest { id: shim.id.clone(), resources: MessageField::some(resources), ..Default::default() };
    shim.client.update(call_limit(), &update).unwrap();
    let pause = PauseRequest { id: shim.id.clone(), ..Default::default() };
    shim.client.pause(call_limit(), &pause).unwrap();
    assert_eq!(status(&shim, ""), Status::PAUSED);
    assert_eq!(code(shim.client.pause(call_limit(), &pause)), Code::FAILED_PRECONDITION);
    shim.exec("paused", &["/bin/true"], |_| {}).unwrap();
    assert_eq!(code(shim.start("paused")), Code::FAILED_PRECONDITION);
    let resume = ResumeRequest { id: shim.id.clone(), ..Default::default() };
    shim.client.resume(call_limit(), &resume).unwrap();
    assert_eq!(status(&shim, ""), Status::RUNNING);
    shim.client.pause(call_limit(), &pause).unwrap();
    shim.kill("", libc::SIGKILL, false).unwrap();
    assert_eq!(shim.wait("").unwrap(), 137);
    shim.delete("").unwrap();
    wait(|| env.events().last().is_some_and(|last| last == "delete 137"));
    let events = env.events();
    assert_eq!(count(&events)["paused"], 2);
    assert_eq!(count(&events)["resumed"], 1);
    let checkpoint = CheckpointTaskRequest { id: shim.id.clone(), ..Default::default() };
    assert_eq!(code(shim.client.checkpoint(call_limit(), &checkpoint)), Code::NOT_FOUND);
}

#[test]
fn processes_of_a_shared_pid_namespace_end_with_init() {
    let env = Environment::new();
    let mut bundle = env.bundle(&["/bin/sh", "-c", "sleep 1000 & exec sleep 1000"]);
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "pid");
    let shim = env.run(&bundle);
    shim.exec("e", &["/bin/sleep", "1000"], |_| {}).unwrap();
    shim.start("e").unwrap();
    let pids = PidsRequest { id: shim.id.clone(), ..Default::default() };
    wait(|| shim.client.pids(call_limit(), &pids).unwrap().processes.len() == 3);
    let processes = shim.client.pids(call_limit(), &pids).unwrap().processes;
    shim.kill("", libc::SIGTERM, false).unwrap();
    assert_eq!(shim.wait("").unwrap(), 143);
    wait(|| processes.iter().all(|process| !Path::new(&format!("/proc/{}", process.pid)).exists()));
    shim.delete("").unwrap();
    wait(|| env.events().last().is_some_and(|last| last == "delete 143"));
    let events = env.events();
    let place = |line: &str| events.iter().position(|one| one == line).unwrap();
    assert!(place("exit e 137") < place(&format!("exit {} 143", bundle.id)), "{events:?}");
}

#[test]
fn sigterm_ends_the_containers_and_then_the_server() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    let server = rustix::process::Pid::from_raw(i32::try_from(shim.pid).unwrap()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::USR1).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::TERM).unwrap();
    wait(|| shim.is_gone());
    env.expect(&["create", "start", &format!("exit {} 137", bundle.id), "delete 137"]);
    let socket = Path::new(shim.address.strip_prefix("unix://").unwrap());
    assert!(!socket.exists());
}
