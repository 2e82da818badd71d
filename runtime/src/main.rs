//! The `brig` command: argv goes to the command line, or to the sealed init stage; nothing else happens here.
#![forbid(unsafe_code)]

fn main() {
    std::process::exit(brig::cli::run(std::env::args_os().collect()));
}
