//! Tests of a BinaryName that names another runtime: its command is executed. runc stands for all with its command
//! line.

use std::fs;

use containerd_shim_protos::api::{PauseRequest, PidsRequest, ResumeRequest, StatsRequest, Status};
use containerd_shim_protos::shim::oci::Options;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use ttrpc::Code;

use crate::environment::{Environment, call_limit, code, wait};

#[test]
fn runc_does_what_the_engine_does() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.start(&bundle);
    let options = Options {
        binary_name: "runc".into(),
        root: env.path().join("runc").to_str().unwrap().into(),
        ..Options::default()
    };
    let any = Any {
        type_url: "containerd.runc.v1.Options".into(),
        value: options.write_to_bytes().unwrap(),
        ..Any::default()
    };
    let log = env.path().join("out");
    let create = |request: &mut containerd_shim_protos::api::CreateTaskRequest| {
        request.options = MessageField::some(any.clone());
        request.stdout = format!("file://{}", log.display());
    };
    shim.create(&bundle, create).unwrap();
    shim.start("").unwrap();
    shim.exec("e", &["/bin/sh", "-c", "exit 5"], |_| {}).unwrap();
    shim.start("e").unwrap();
    assert_eq!(shim.wait("e").unwrap(), 5);
    shim.exec("nope", &["/bin/nope"], |_| {}).unwrap();
    let error = shim.start("nope").unwrap_err().to_string();
    assert!(error.contains("/bin/nope"), "{error}");
    shim.exec("tty", &["/bin/sh", "-c", "tty"], |request| request.terminal = true).unwrap();
    shim.start("tty").unwrap();
    shim.wait("tty").unwrap();
    let pause = PauseRequest { id: shim.id.clone(), ..Default::default() };
    shim.client.pause(call_limit(), &pause).unwrap();
    assert_eq!(shim.state("").unwrap().status.enum_value().unwrap(), Status::PAUSED);
    let resume = ResumeRequest { id: shim.id.clone(), ..Default::default() };
    shim.client.resume(call_limit(), &resume).unwrap();
    let pids = PidsRequest { id: shim.id.clone(), ..Default::default() };
    assert_eq!(shim.client.pids(call_limit(), &pids).unwrap().processes.len(), 1);
    let stats = StatsRequest { id: shim.id.clone(), ..Default::default() };
    assert!(shim.client.stats(call_limit(), &stats).unwrap().stats.is_some());
    shim.kill("", libc::SIGKILL, false).unwrap();
    assert_eq!(shim.wait("").unwrap(), 137);
    assert_eq!(code(shim.kill("", libc::SIGKILL, false)), Code::NOT_FOUND);
    shim.delete("").unwrap();
    wait(|| fs::read_dir(env.path().join("runc").join(crate::environment::NAMESPACE)).unwrap().next().is_none());
    // Events follow the answers, in their order.
    wait(|| env.events().last().is_some_and(|last| last == "delete 137"));
}
