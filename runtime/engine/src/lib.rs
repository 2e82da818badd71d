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

pub mod error;
pub mod trace;

pub mod handshake;
pub mod options;
pub mod state;

pub mod cgroup;
pub mod channel;
pub mod criu;
pub mod hooks;
pub mod probe;
pub mod resctrl;
pub mod rootfs;
pub mod seccomp;
pub mod store;

pub mod launch;

mod divert;
mod features;
mod verbs;

pub use features::{SPEC_VERSION, features};
pub use error::{Error, ErrorKind, Result};
pub use oci_spec;
pub use verbs::*;
