//! Tests of standard streams: FIFOs, files, loggers, terminals.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::{CloseIORequest, ResizePtyRequest};
use ttrpc::Code;

use crate::environment::{Environment, call_limit, code, wait, write_program};

fn fifo(env: &Environment, name: &str) -> (PathBuf, String) {
    let path = env.path().join(name);
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = path.to_str().unwrap().to_owned();
    (path, text)
}

/// Opens a FIFO as containerd does, and reads it to its end in the background.
fn reader(path: &Path) -> std::thread::JoinHandle<String> {
    let mut file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut only = fs::File::open(path).unwrap();
    // From here on the FIFO ends with its writers.
    file.flush().unwrap();
    drop(file);
    std::thread::spawn(move || {
        let mut text = String::new();
        only.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn fifos_carry_input_output_and_errors_to_their_ends() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sh", "-c", "cat; echo err >&2"]);
    let shim = env.start(&bundle);
    let (input, stdin) = fifo(&env, "in");
    let (out, stdout) = fifo(&env, "out");
    let (err, stderr) = fifo(&env, "err");
    shim.create(&bundle, |request| (request.stdin, request.stdout, request.stderr) = (stdin, stdout, stderr)).unwrap();
    let (out, err) = (reader(&out), reader(&err));
    shim.start("").unwrap();
    let long = "x".repeat(300_000);
    fs::File::options().write(true).open(&input).unwrap().write_all(long.as_bytes()).unwrap();
    let close = CloseIORequest { id: shim.id.clone(), stdin: true, ..Default::default() };
    shim.client.close_io(call_limit(), &close).unwrap();
    assert_eq!(shim.wait("").unwrap(), 0);
    // Before the delete, because clients wait for that end first.
    assert_eq!(out.join().unwrap().len(), long.len());
    assert_eq!(err.join().unwrap(), "err\n");
    shim.delete("").unwrap();
}

#[test]
fn unread_output_blocks_only_its_container() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sh", "-c", "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"]);
    let shim = env.start(&bundle);
    let (_, stdout) = fifo(&env, "out");
    shim.create(&bundle, |request| request.stdout = stdout).unwrap();
    shim.start("").unwrap();
    shim.exec("e", &["/bin/true"], |_| {}).unwrap();
    shim.start("e").unwrap();
    assert_eq!(shim.wait("e").unwrap(), 0);
    shim.kill("", libc::SIGKILL, false).unwrap();
    assert_eq!(shim.wait("").unwrap(), 137);
    // The drain gives up after its timeout.
    shim.delete("").unwrap();
}

#[test]
fn files_are_made_and_appended_to() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sh", "-c", "echo out; echo err >&2"]);
    let shim = env.start(&bundle);
    let log = env.path().join("deep/log");
    let address = format!("file://{}", log.display());
    shim.create(&bundle, |request| (request.stdout, request.stderr) = (address.clone(), address.clone())).unwrap();
    shim.start("").unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    let text = fs::read_to_string(log).unwrap();
    assert!(text.contains("out\n") && text.contains("err\n"), "{text:?}");
}

#[test]
fn a_logger_reads_both_streams_and_ends_with_them() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sh", "-c", "echo out; echo err >&2"]);
    let shim = env.start(&bundle);
    let program = env.path().join("logger");
    let script =
        "#!/bin/sh\nexec 5>&-\n{ echo \"$CONTAINER_NAMESPACE $CONTAINER_ID $1 $2\"; cat <&3; cat <&4; } > \"$2\"\n";
    write_program(&program, script);
    let log = env.path().join("log");
    let address = format!("binary://{}?to={}", program.display(), log.display());
    shim.create(&bundle, |request| (request.stdout, request.stderr) = (address.clone(), address.clone())).unwrap();
    shim.start("").unwrap();
    shim.wait("").unwrap();
    shim.delete("").unwrap();
    let expected = format!("{} {} to {}\nout\nerr\n", crate::environment::NAMESPACE, bundle.id, log.display());
    assert_eq!(fs::read_to_string(log).unwrap(), expected);
    // Invalid addresses.
    let again = shim.create(&bundle, |request| request.stdout = "http://x/y".into());
    assert_eq!(code(again), Code::INVALID_ARGUMENT);
    let missing = shim.create(&bundle, |request| request.stdout = "binary:///no/logger".into());
    assert!(missing.unwrap_err().to_string().contains("/no/logger"));
}

#[test]
fn a_terminal_has_its_size_and_its_fifo() {
    let env = Environment::new();
    let mut bundle = env.bundle(&["/bin/sh", "-c", "read line; stty size; echo got $line"]);
    bundle.config["process"]["terminal"] = true.into();
    let shim = env.start(&bundle);
    let (input, stdin) = fifo(&env, "in");
    let (out, stdout) = fifo(&env, "out");
    shim.create(&bundle, |request| (request.stdin, request.stdout, request.terminal) = (stdin, stdout, true)).unwrap();
    let out = reader(&out);
    shim.start("").unwrap();
    let resize = ResizePtyRequest { id: shim.id.clone(), width: 91, height: 17, ..Default::default() };
    shim.client.resize_pty(call_limit(), &resize).unwrap();
    fs::File::options().write(true).open(&input).unwrap().write_all(b"word\n").unwrap();
    assert_eq!(shim.wait("").unwrap(), 0);
    let text = out.join().unwrap();
    assert!(text.contains("17 91\r\n") && text.contains("got word\r\n"), "{text:?}");
    shim.delete("").unwrap();
}

#[test]
fn an_orphan_that_keeps_the_output_does_not_keep_an_exec() {
    let env = Environment::new();
    let bundle = env.bundle(&["/bin/sleep", "1000"]);
    let shim = env.run(&bundle);
    let (out, stdout) = fifo(&env, "out");
    shim.exec("e", &["/bin/sh", "-c", "sleep 1000 & echo out"], |request| request.stdout = stdout).unwrap();
    shim.start("e").unwrap();
    // The orphan holds the FIFO's writer, until the delete closes it.
    let out = reader(&out);
    assert_eq!(shim.wait("e").unwrap(), 0);
    shim.delete("e").unwrap();
    assert_eq!(out.join().unwrap(), "out\n");
    shim.kill("", libc::SIGKILL, false).unwrap();
    shim.wait("").unwrap();
    wait(|| shim.delete("").is_ok());
}
