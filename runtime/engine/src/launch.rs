//! Layer 3: the processes of a launch. The parent clones, init executes the plan, one channel connects them.
//!
//! | file | process | privilege |
//! |---|---|---|
//! | [`parent`] | the caller's, any thread | the caller's |
//! | `sys::process`, between clone and exec | the child, a copy of the caller's memory | in its new namespaces |
//! | `init`, `steps`, `join`, `second_stage` | the child, a fresh image of this binary, single-threaded | the container's root, then its user |

mod cwd;
mod describe;
mod executable;
pub(crate) mod faults;
pub mod gate;
mod guard;
pub mod init;
mod join;
mod network;
pub mod parent;
mod program;
mod second_stage;
pub mod stall;
mod steps;
mod streams;
mod table;
mod terminal;
pub mod unknown_syscalls;

/// The version of the plan's encoding. A plan is read by the very version that wrote it, even while the binary is being
/// replaced.
pub const PLAN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// argv\[0\] of the init, which ps(1) shows. An environment variable selects the init stage ([`crate::divert`]).
const INIT_NAME: &std::ffi::CStr = c"brig:init";
