//! Tests of execs: registered, started, many at once, and concurrent with init's exit.

use std::sync::Barrier;

use containerd_shim_protos::api::Status;
use ttrpc::Code;

use crate::environment::{Environment, Shim, code, wait};

#[test]
fn an_exec_is_registered_started_and_deleted() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    assert_eq!(code(shim.start("e")), Code::NOT_FOUND);
    shim.exec("e", &["/bin/sh", "-c", "exit 3"], |_| {}).unwrap();
    assert_eq!(code(shim.exec("e", &["/bin/true"], |_| {})), Code::ALREADY_EXISTS);
    assert_eq!(code(shim.exec("../e", &["/bin/true"], |_| {})), Code::INVALID_ARGUMENT);
    assert_eq!(code(shim.kill("e", libc::SIGKILL, false)), Code::FAILED_PRECONDITION);
    let pid = shim.start("e").unwrap();
    assert_eq!(shim.wait("e").unwrap(), 3);
    assert_eq!(code(shim.start("e")), Code::FAILED_PRECONDITION);
    assert_eq!(code(shim.kill("e", libc::SIGKILL, false)), Code::NOT_FOUND);
    let state = shim.state("e").unwrap();
    assert_eq!((state.id.as_str(), state.exec_id.as_str(), state.exit_status), ("e", "e", 3));
    assert!(bundle.path.join("e.pid").exists());
    let deleted = shim.delete("e").unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 3));
    assert!(!bundle.path.join("e.pid").exists());
    assert_eq!(code(shim.delete("e")), Code::NOT_FOUND);
    // An exec that was never started.
    shim.exec("unused", &["/bin/true"], |_| {}).unwrap();
    shim.delete("unused").unwrap();
    env.expect(&["create", "start", "exec-added e", "exec-started e", "exit e 3", "exec-added unused"]);
}

#[test]
fn a_failed_start_ends_the_wait() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    shim.exec("e", &["/bin/nope"], |_| {}).unwrap();
    let waiter = shim.waiter("e");
    let error = shim.start("e").unwrap_err().to_string();
    assert!(error.contains("OCI runtime exec failed: ") && error.contains("/bin/nope"), "{error}");
    assert_eq!(waiter.join().unwrap(), 255);
    assert_eq!(shim.state("e").unwrap().status.enum_value().unwrap(), Status::STOPPED);
    shim.delete("e").unwrap();
}

#[test]
fn every_exit_comes_after_its_start_and_init_s_comes_last() {
    const THREADS: usize = 12;
    const EACH: usize = 10;
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    let barrier = Barrier::new(THREADS + 1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (barrier, shim) = (&barrier, Shim::connect(&shim.address, &shim.id));
            scope.spawn(move || {
                barrier.wait();
                for number in 0..EACH {
                    let id = format!("e{thread}-{number}");
                    // The container is killed meanwhile: some of the execs are refused.
                    if shim.exec(&id, &["/bin/true"], |_| {}).is_err() {
                        return;
                    }
                    if shim.start(&id).is_ok() {
                        shim.wait(&id).unwrap();
                    }
                }
            });
        }
        barrier.wait();
        wait(|| env.events().iter().filter(|line| line.starts_with("exit ")).count() >= THREADS * EACH / 4);
        shim.kill("", libc::SIGKILL, false).unwrap();
        assert_eq!(shim.wait("").unwrap(), 137);
    });
    shim.delete("").unwrap();
    wait(|| env.events().last().is_some_and(|line| line == "delete 137"));
    let events = env.events();
    let exits: Vec<&str> = events.iter().filter_map(|line| line.strip_prefix("exit ")).collect();
    assert_eq!(exits.last().unwrap(), &format!("{} 137", bundle.id));
    for line in events.iter().filter_map(|line| line.strip_prefix("exec-started ")) {
        let started = events.iter().position(|one| *one == format!("exec-started {line}")).unwrap();
        let ended: Vec<usize> =
            (0..events.len()).filter(|at| events[*at].starts_with(&format!("exit {line} "))).collect();
        assert!(ended.len() == 1 && ended[0] > started, "{line}: {events:?}");
    }
}

#[test]
fn an_exec_after_init_s_end_is_refused() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    shim.exec("late", &["/bin/true"], |_| {}).unwrap();
    shim.kill("", libc::SIGKILL, false).unwrap();
    shim.wait("").unwrap();
    assert_eq!(code(shim.start("late")), Code::FAILED_PRECONDITION);
    assert_eq!(shim.wait("late").unwrap(), 255);
    assert_eq!(code(shim.exec("later", &["/bin/true"], |_| {})), Code::FAILED_PRECONDITION);
    shim.delete("").unwrap();
}
