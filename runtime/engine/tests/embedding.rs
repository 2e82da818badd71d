//! A program that embeds the engine: the main of this file is all that it has, and it prepares nothing.
//!
//! Eight threads run containers at once. Each container's init is a further execution of this program, whose main must
//! not run there.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_engine::oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
use brig_engine::{Configuration, CreateOptions, Engine, Stdio};

const THREADS: usize = 8;
const CONTAINERS: usize = 5;

fn run(engine: &Engine, rootfs: &Path, id: &str) -> String {
    let mut spec = Spec::default();
    let args = ["/bin/busybox", "echo", id].map(String::from);
    spec.set_root(Some(RootBuilder::default().path(rootfs).build().unwrap()));
    spec.set_process(Some(ProcessBuilder::default().args(args).cwd("/").build().unwrap()));
    let (mut output, stdout) = std::io::pipe().unwrap();
    let null: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().unwrap();
    let options = CreateOptions {
        config: Configuration::Spec(Box::new(spec)),
        stdio: Stdio::Fds([null, stdout.into(), stderr]),
        ..CreateOptions::default()
    };
    let launched = engine.run(id, options).unwrap_or_else(|error| panic!("{id}: {error}"));
    assert!(launched.wait().unwrap().success());
    engine.delete(id, false).unwrap();
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    text
}

fn main() {
    let name = std::env::args().next().unwrap_or_default();
    assert!(name != "brig:init" && std::process::id() != 1, "main runs in a container");
    let place = tempfile::Builder::new().prefix("brig-test-").tempdir().unwrap();
    let (rootfs, root) = (place.path().join("rootfs"), place.path().join("state"));
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
    let engine = Engine::new(root, Default::default());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (engine, rootfs) = (&engine, &rootfs);
            scope.spawn(move || {
                for container in 0..CONTAINERS {
                    let id = format!("embedded-{}-{thread}-{container}", std::process::id());
                    assert_eq!(run(engine, rootfs, &id), format!("{id}\n"));
                }
            });
        }
    });
    println!("test result: ok. 1 passed; 0 failed; {THREADS} threads ran {CONTAINERS} containers each");
}
