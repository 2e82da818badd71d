//! Layer 0: the kernel. The only place with `unsafe` code and raw system calls; it knows nothing of OCI.

mod error;
pub use error::{SysError, SysResult};

pub mod bpf;
pub mod command;
pub mod cred;
pub mod executable;
pub mod file;
pub mod inherited;
pub mod keyring;
pub mod memory;
pub mod loopdev;
pub mod mount;
pub mod netlink;
pub mod ns;
pub mod path;
pub mod pattern;
pub mod process;
pub mod procfs;
pub mod seal;
pub mod seccomp;
pub mod signal;
pub mod socket;
#[cfg(own_start)]
mod start;
pub mod tty;
