//! What containerd executes: `start`, `delete`, `-info` and `-v`. Synchronous; no runtime, no threads.

pub mod args;

use std::ffi::OsString;

use args::{Action, Args};

/// The binary's main: runs what `arguments` (argv, with the name) ask for. Gives the exit status.
pub fn run(arguments: Vec<OsString>) -> i32 {
    let name = arguments.first().cloned().unwrap_or_default();
    let result = Args::parse(arguments.into_iter().skip(1)).and_then(|args| match args.action {
        Action::Version => {
            print!("{}", version(&name.to_string_lossy()));
            Ok(())
        }
        action => Err(brig::error::Error::other(format!("{action:?} cannot be done"))),
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            // containerd shows standard error to its user.
            eprintln!("{}: {error}", name.to_string_lossy());
            1
        }
    }
}

fn version(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or(name);
    format!("{name}:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"))
}
