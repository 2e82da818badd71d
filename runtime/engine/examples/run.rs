//! Runs a command in a container: `run ROOTFS COMMAND [ARGUMENT...]`. Exits with the command's status.

use std::path::PathBuf;
use std::process::ExitCode;

use brig_engine::oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
use brig_engine::{Configuration, CreateOptions, Engine};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rootfs: PathBuf = arguments.next().ok_or("usage: run ROOTFS COMMAND [ARGUMENT...]")?.into();

    // The default has its own namespaces, and the mounts and masked paths of `runc spec`.
    let mut spec = Spec::default();
    spec.set_root(Some(RootBuilder::default().path(rootfs.canonicalize()?).build()?));
    spec.set_process(Some(ProcessBuilder::default().args(arguments.collect::<Vec<_>>()).cwd("/").build()?));

    let engine = Engine::new("/run/brig-example".into(), Default::default());
    let id = format!("run-{}", std::process::id());
    let options = CreateOptions { config: Configuration::Spec(Box::new(spec)), ..CreateOptions::default() };
    let status = engine.run(&id, options)?.wait()?;
    engine.delete(&id, true)?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(128))?))
}
