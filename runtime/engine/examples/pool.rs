//! Runs a pool of containers from a tokio program: `pool ROOTFS SIZE`. Each container runs a short command, and the
//! program collects the exit codes of all.

use std::path::{Path, PathBuf};

use brig_engine::oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
use brig_engine::{Configuration, CreateOptions, Engine, Stdio};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn configuration(rootfs: &Path, number: usize) -> Result<Configuration, Failure> {
    let mut spec = Spec::default();
    let args = ["sh".to_owned(), "-c".to_owned(), format!("exit {number}")];
    spec.set_root(Some(RootBuilder::default().path(rootfs).build()?));
    spec.set_process(Some(ProcessBuilder::default().args(args).cwd("/").build()?));
    Ok(Configuration::Spec(Box::new(spec)))
}

/// Blocks until the container has exited: the caller runs this on tokio's pool for blocking work.
fn run(engine: &Engine, rootfs: &Path, number: usize) -> Result<Option<i32>, Failure> {
    let id = format!("pool-{}-{number}", std::process::id());
    let options =
        CreateOptions { config: configuration(rootfs, number)?, stdio: Stdio::Null, ..CreateOptions::default() };
    let status = engine.run(&id, options)?.wait()?;
    engine.delete(&id, true)?;
    Ok(status.code())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rootfs, size] = arguments.as_slice() else { return Err("usage: pool ROOTFS SIZE".into()) };
    let (rootfs, size) = (PathBuf::from(rootfs).canonicalize()?, size.parse()?);
    // A resident engine keeps the sealed image of this program for the next container.
    let engine = Engine::new("/run/brig-example".into(), Default::default()).resident();
    let mut pool = JoinSet::new();
    for number in 0..size {
        let (engine, rootfs) = (engine.clone(), rootfs.clone());
        pool.spawn_blocking(move || run(&engine, &rootfs, number));
    }
    let mut codes = Vec::new();
    while let Some(code) = pool.join_next().await {
        codes.push(code??);
    }
    codes.sort_unstable();
    println!("{codes:?}");
    Ok(())
}
