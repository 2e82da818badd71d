//! What containerd executes: `start`, `delete`, `-info` and `-v`. Synchronous; no runtime, no threads.
//!
//! | containerd | standard input | answer |
//! |---|---|---|
//! | up to 1.6 | runtime options, or nothing | the address |
//! | 1.7, 2.0 to 2.2 | the same | the address: these cannot be told from one another |
//! | 2.3 and later | BootstrapParams | BootstrapResult, version 3 |
//!
//! The server speaks both versions of the task API, so that it survives an upgrade of containerd and a downgrade.

pub mod args;
mod delete;
mod info;
mod socket;
mod start;
mod version;

use std::ffi::OsString;
use std::io::Write;

use brig::error::{Context, Result};

use args::{Action, Args};

/// The binary's main: runs what `arguments` (argv, with the name) ask for. Gives the exit status.
pub fn run(arguments: Vec<OsString>) -> i32 {
    let name = arguments.first().cloned().unwrap_or_default();
    let result = Args::parse(arguments.into_iter().skip(1)).and_then(|args| match args.action {
        Action::Version => print_version(&name.to_string_lossy()),
        Action::Info => info::run(),
        Action::Start => start::run(&args, &name),
        Action::Delete => {
            // Warnings go to containerd's log by standard error; the answer has standard output to itself.
            crate::log::init_stderr(args.debug, &[("ns", &args.namespace), ("id", &args.id)])?;
            delete::run(&args)
        }
        Action::Serve => crate::server::run(&args),
    });
    match result {
        Ok(()) => 0,
        Err(error) => {
            // containerd shows standard error to its user.
            eprint!("{error}");
            1
        }
    }
}

fn print_version(name: &str) -> Result<()> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let text = format!("{name}:\n  Version:  {}\n", env!("CARGO_PKG_VERSION"));
    std::io::stdout().write_all(text.as_bytes()).context("unable to print")
}
