//! A minimal supervisor: restarts a container's command until it exits with status 0, three times at most:
//! `supervisor ROOTFS COMMAND [ARGUMENT...]`.

use std::path::PathBuf;
use std::process::ExitCode;

use brig_engine::oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
use brig_engine::{Configuration, CreateOptions, Engine, ErrorKind};

const MAX_STARTS: u32 = 3;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let rootfs: PathBuf = arguments.next().ok_or("usage: supervisor ROOTFS COMMAND [ARGUMENT...]")?.into();
    let mut spec = Spec::default();
    spec.set_root(Some(RootBuilder::default().path(rootfs.canonicalize()?).readonly(false).build()?));
    spec.set_process(Some(ProcessBuilder::default().args(arguments.collect::<Vec<_>>()).cwd("/").build()?));

    let engine = Engine::new("/run/brig-example".into(), Default::default());
    let id = format!("supervised-{}", std::process::id());
    for start in 1..=MAX_STARTS {
        let config = Configuration::Spec(Box::new(spec.clone()));
        let launched = match engine.run(&id, CreateOptions { config, ..CreateOptions::default() }) {
            Ok(launched) => launched,
            // Another start would fail as this one did.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::Executable) => {
                return Err(error.into());
            }
            Err(error) => {
                eprintln!("start {start}: {error}");
                continue;
            }
        };
        let status = launched.wait()?;
        engine.delete(&id, true)?;
        println!("start {start}: {status}");
        if status.success() {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::FAILURE)
}
