//! Tests of the commands that each generation of containerd executes, and of the answers that it reads.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use containerd_shim_protos::api::{ConnectRequest, ConnectResponse, DeleteResponse};
use containerd_shim_protos::bootstrap_api::BootstrapResult;
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};

use crate::environment::{Environment, SHIM, Shim, wait};

#[test]
fn version_and_information_are_told() {
    let output = Command::new(SHIM).arg("-v").output().unwrap();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("containerd-shim-brig-v2:\n  Version:"));
    let output = Command::new(SHIM).arg("-info").output().unwrap();
    let info = RuntimeInfo::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(info.name, "io.containerd.brig.v2");
    let features: Value = serde_json::from_slice(&info.features.value).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
}

#[test]
fn a_person_gets_a_hint_and_the_answer_of_a_failure_is_one_line() {
    let output = Command::new(SHIM).args(["-namespace", "a", "-id", "b"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("try -v"), "{output:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn old_containerd_gets_the_plain_address_and_its_file() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/true"]);
    fs::write(bundle.path.join("config.json"), bundle.config.to_string()).unwrap();
    let options = Any { type_url: "containerd.runc.v1.Options".into(), ..Any::default() };
    let output = env.shim(&bundle, "start", &options.write_to_bytes().unwrap());
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let address = String::from_utf8(output.stdout).unwrap();
    let path = address.strip_prefix("unix:///run/containerd/s/").unwrap();
    assert_eq!(path.len(), 64, "{address:?}");
    assert_eq!(fs::read_to_string(bundle.path.join("address")).unwrap(), address);
    let socket = Path::new(address.strip_prefix("unix://").unwrap());
    assert_eq!(fs::metadata(socket).unwrap().permissions().mode() & 0o777, 0o600);
    let shim = Shim::connect(&address, &bundle.id);
    // Both versions of the service are present, and no other.
    for version in ["v2", "v3"] {
        let payload = ConnectRequest::new().write_to_bytes().unwrap();
        let answer = shim.call(&format!("containerd.task.{version}.Task"), "Connect", payload).unwrap();
        assert_eq!(ConnectResponse::parse_from_bytes(&answer).unwrap().shim_pid, shim.pid);
    }
    assert!(shim.call("containerd.task.v4.Task", "Connect", Vec::new()).is_err());
    shim.shutdown();
    wait(|| shim.is_gone() && !socket.exists());
}

#[test]
fn a_server_without_a_container_ends_by_shutdown_and_by_sigterm() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/true"]);
    fs::write(bundle.path.join("config.json"), bundle.config.to_string()).unwrap();
    let output = env.shim(&bundle, "start", &env.params(&bundle));
    let address = BootstrapResult::parse_from_bytes(&output.stdout).unwrap().address;
    let socket = Path::new(address.strip_prefix("unix://").unwrap());
    // As soon as the server is visible: it may not have installed its signal handlers yet.
    wait(|| server_of(&bundle.id).is_some());
    let server = server_of(&bundle.id).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::TERM).unwrap();
    wait(|| !socket.exists());
    let shim = env.start(&bundle);
    shim.shutdown();
    wait(|| shim.is_gone() && !socket.exists());
}

/// The server whose command line names this group.
fn server_of(group: &str) -> Option<rustix::process::Pid> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    let named = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.contains(&group.as_bytes()) && !words.contains(&b"start".as_slice())
    };
    pids.into_iter().find(named).and_then(rustix::process::Pid::from_raw)
}

#[test]
fn a_group_shares_one_server() {
    let env = Environment::new();
    let mut pod = env.bundle(&["/bin/sleep", "1000"]);
    pod.config["annotations"] = json!({"io.kubernetes.cri.sandbox-id": pod.id});
    let first = env.run(&pod);
    let mut member = env.bundle(&["/bin/true"]);
    member.config["annotations"] = json!({"io.kubernetes.cri.sandbox-id": pod.id});
    let second = env.start(&member);
    assert_eq!((first.pid, first.address.as_str()), (second.pid, second.address.as_str()));
    second.create(&member, |_| {}).unwrap();
    second.start("").unwrap();
    assert_eq!(second.wait("").unwrap(), 0);
    second.delete("").unwrap();
    // The other container keeps the server running.
    second.shutdown();
    assert_eq!(first.state("").unwrap().id, pod.id);
    first.kill("", libc::SIGKILL, false).unwrap();
    assert_eq!(first.wait("").unwrap(), 137);
    first.delete("").unwrap();
    first.shutdown();
    wait(|| first.is_gone());
}

#[test]
fn a_dead_server_is_replaced_and_its_container_deleted() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.start(&bundle);
    let init = shim.create(&bundle, |_| {}).unwrap();
    shim.start("").unwrap();
    let server = rustix::process::Pid::from_raw(i32::try_from(shim.pid).unwrap()).unwrap();
    rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
    wait(|| shim.is_gone());
    for _ in 0..2 {
        let output = env.shim(&bundle, "delete", b"");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let deleted = DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!((deleted.pid, deleted.exit_status), (init, 137));
    }
    wait(|| !Path::new(&format!("/proc/{init}")).exists());
    assert!(!Path::new(shim.address.strip_prefix("unix://").unwrap()).exists());
    assert!(!Path::new("/run/containerd/brig").join(crate::environment::NAMESPACE).join(&bundle.id).exists());
    let output = env.shim(&bundle, "start", &env.params(&bundle));
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(result.address, shim.address);
    let again = Shim::connect(&result.address, &bundle.id);
    assert_ne!(again.pid, shim.pid);
    again.shutdown();
    wait(|| again.is_gone());
}
