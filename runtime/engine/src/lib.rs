//! The engine of brig: from an OCI bundle to a running container, and back.
//!
//! ```text
//! config.json ─ spec ─► plan ─► launch (clone, execute the plan) ─► running container
//!                         ▲                                             │
//!                  probe (host facts)          store (one small record) ◄┘ ─► every later verb
//! ```
//!
//! ```no_run
//! # fn main() -> Result<(), brig_engine::error::Error> {
//! use brig_engine::{CreateOptions, Engine};
//! let engine = Engine::new("/run/brig".into(), Default::default());
//! let init = engine.create("web", CreateOptions { bundle: "/srv/web".into(), ..CreateOptions::default() })?;
//! engine.start("web")?;
//! println!("{} {}", init.pid, engine.state("web")?.status.as_str());
//! engine.delete("web", true)?;
//! # Ok(()) }
//! ```
//!
//! | layer | modules | rule |
//! |---|---|---|
//! | 1 facts | [`error`], [`trace`], [`handshake`], [`state`], [`options`] | plain data, and the one error type |
//! | 2 effects | [`probe`], [`store`], [`channel`], [`hooks`], [`criu`], [`cgroup`], [`resctrl`], [`rootfs`], [`seccomp`] | each executes one part of a plan; they do not know each other |
//! | 3 launch | [`launch`] | parent, child, gate and terminal |
//! | 4 API | [`Engine`] | one function for each verb |
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod cgroup;
pub mod error;
pub mod trace;

mod channel;
mod criu;
mod divert;
mod features;
mod handshake;
mod hooks;
mod launch;
mod options;
mod probe;
mod resctrl;
mod state;
mod store;
mod verbs;

// The integration tests of the layer below the verbs.
#[cfg(not(feature = "internals"))]
mod rootfs;
#[cfg(feature = "internals")]
pub mod rootfs;
#[cfg(not(feature = "internals"))]
mod seccomp;
#[cfg(feature = "internals")]
pub mod seccomp;

pub use error::{Error, ErrorKind, Result};
pub use features::{SPEC_VERSION, features};
#[cfg(feature = "faults")]
pub use launch::faults::init_steps;
pub use oci_spec;
pub use state::check_id;
pub use store::replace;
pub use verbs::*;
