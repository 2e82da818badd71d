//! The `brig` command: argv goes to the sealed init stage or to the command line; nothing else happens here.
#![forbid(unsafe_code)]

fn main() {
    let status = if brig::launch::is_init() {
        brig::launch::init::main()
    } else {
        brig::cli::run(std::env::args_os().collect())
    };
    std::process::exit(status)
}
