//! The commands that containerd executes: `start`, `delete`, `-info` and `-v`. They are synchronous, without an async
//! runtime or threads.
//!
//! | containerd | standard input | answer |
//! |---|---|---|
//! | up to 1.6 | runtime options, or nothing | the address |
//! | 1.7, 2.0 to 2.2 | the same | the address: these versions cannot be distinguished |
//! | 2.3 and later | BootstrapParams | BootstrapResult, version 3 |
//!
//! The server serves both versions of the task API, so that it survives an upgrade of containerd and a downgrade.

pub mod args;
mod delete;
mod info;
mod socket;
mod start;
mod version;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};

use brig_engine::error::{Context, Result};

use args::{Action, Args};

/// Runs the command of `arguments` (argv, with the name), as the binary's main. Returns the exit status.
pub fn run(arguments: Vec<OsString>) -> i32 {
    let name = arguments.first().cloned().unwrap_or_default();
    let args = match Args::parse(arguments.into_iter().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            // A user has started this: containerd knows the flags.
            eprintln!("{error}");
            return 1;
        }
    };
    let result = match args.action {
        Action::Help => print(args::USAGE),
        Action::Version => print_version(&name.to_string_lossy()),
        Action::Info => info::run(),
        Action::Start => start::run(&args, &name),
        Action::Delete => {
            // containerd logs every line of standard error as a warning of the clean-up, so debug lines must not go
            // there.
            crate::log::init_stderr(&[("ns", &args.namespace), ("id", &args.id)]).and_then(|()| delete::run(&args))
        }
        Action::Serve => crate::server::run(&args),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            // containerd shows standard error to its user, within its own message.
            eprint!("{error}{}", if std::io::stderr().is_terminal() { "\n" } else { "" });
            1
        }
    }
}

fn print_version(name: &str) -> Result<()> {
    let name = name.rsplit('/').next().unwrap_or(name);
    print(&format!("{name}:\n  Version:  {}\n", env!("CARGO_PKG_VERSION")))
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("unable to print")
}
