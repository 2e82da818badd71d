//! Layer 3: the processes of a launch. The parent clones, init executes the plan, one channel connects them.
//!
//! | file | process | privilege |
//! |---|---|---|
//! | [`parent`], `supervisor` | the caller's, any thread | the caller's |
//! | `sys::process`, between clone and exec | the child, a copy of the caller's memory | in its new namespaces |
//! | `init`, `table`, `steps` and the steps' own modules | the child, a fresh image of this binary, single-threaded | the container's root, then its user |
//!
//! Both sides share [`request`], `message` and [`handles`]; the steps share `context`. Nothing below `table` knows the
//! table.

mod context;
mod cwd;
mod executable;
pub(crate) mod faults;
pub mod gate;
mod guard;
pub mod handles;
mod idmap;
pub mod image;
pub mod init;
mod join;
mod message;
mod network;
pub mod parent;
mod program;
pub mod request;
mod second_stage;
pub mod stall;
mod steps;
mod streams;
mod supervisor;
pub(crate) mod table;
mod terminal;
pub mod unknown_syscalls;

/// argv\[0\] of the init, which ps(1) shows. An environment variable selects the init stage ([`crate::divert`]).
const INIT_NAME: &std::ffi::CStr = c"brig:init";
