//! Starts a container whose first process sleeps, executes a second process in it, and deletes it:
//! `exec ROOTFS COMMAND [ARGUMENT...]`.

use std::path::PathBuf;

use brig_engine::oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
use brig_engine::{Configuration, CreateOptions, Engine, ExecOptions, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rootfs: PathBuf = arguments.next().ok_or("usage: exec ROOTFS COMMAND [ARGUMENT...]")?.into();
    let sleep = ["sleep", "1000"].map(String::from);

    let mut spec = Spec::default();
    spec.set_root(Some(RootBuilder::default().path(rootfs.canonicalize()?).build()?));
    spec.set_process(Some(ProcessBuilder::default().args(sleep).cwd("/").build()?));

    let engine = Engine::new("/run/brig-example".into(), Default::default());
    let id = format!("exec-{}", std::process::id());
    let config = Configuration::Spec(Box::new(spec));
    let init = engine.create(&id, CreateOptions { config, stdio: Stdio::Null, ..CreateOptions::default() })?;
    engine.start(&id)?;

    let options = ExecOptions { args: arguments.collect(), ..ExecOptions::default() };
    let process = engine.exec(&id, options)?;
    println!("process {} of the container: {}", process.pid, process.wait()?);

    // A container that runs is killed first.
    engine.delete(&id, true)?;
    println!("process {}: {}", init.pid, init.wait()?);
    Ok(())
}
