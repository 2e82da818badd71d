//! The `brig` command: argv goes to the command line, or to the sealed init stage; nothing else happens here.
#![forbid(unsafe_code)]

fn main() {}
