//! Layer 0: the kernel interfaces. The only crate with `unsafe` code and raw system calls, without knowledge of OCI.
//!
//! | modules | interface |
//! |---|---|
//! | [`process`], [`inherited`], [`seal`], [`signal`] | a child from clone to exec, its descriptors and its executable |
//! | [`ns`], [`cred`], [`keyring`], [`seccomp`], [`bpf`] | namespaces and rights |
//! | [`mount`], [`loopdev`], [`path`], [`procfs`], [`mod@file`], [`fd`] | mounts and files |
//! | [`socket`], [`netlink`], [`tty`] | sockets, network devices, terminals |
//! | [`memory`], [`pattern`] | memory of this process, regular expressions |
//!
//! Every safe function is sound for all arguments, in a process of any number of threads. A descriptor is an `OwnedFd`
//! or a borrow of one; a bare number is only ever asked about. Clone and unshare take flags of namespaces and no
//! others.

mod error;
pub use error::{SysError, SysResult, errno_text};

pub mod bpf;
pub mod command;
pub mod cred;
pub mod executable;
pub mod fd;
pub mod file;
pub mod inherited;
pub mod keyring;
pub mod loopdev;
pub mod memory;
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
pub mod tty;
