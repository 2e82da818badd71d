//! The `brig` command: runc's flags, messages, exit codes and JSON over [`brig_engine`].
//!
//! | module | contents |
//! |---|---|
//! | [`cli`] | global flags, and the dispatch to a verb |
//! | [`args`], [`help`] | the grammar of the arguments, and the help texts |
//! | [`commands`] | one file for each verb, or for a few related ones |
//! | [`foreground`], [`proxy`] | a container in the foreground: signals, standard streams, the terminal |
//! | [`inherited`] | descriptors and sockets that the caller passes on |
//! | [`log`], [`output`] | the log, and standard output |
#![forbid(unsafe_code)]

mod args;
mod cli;
mod commands;
mod foreground;
mod help;
mod inherited;
mod log;
mod output;
mod proxy;

/// musl's own allocator maps and unmaps single pages: 40 system calls of an exec, and a page fault for each mapping.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() {
    std::process::exit(cli::run(std::env::args_os().collect()))
}
