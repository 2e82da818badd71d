//! The engine of brig: creates, runs and manages OCI containers, from any thread of any program.
//!
//! A container is made of a configuration (an OCI [`oci_spec::runtime::Spec`], from a bundle or from memory) and is known
//! by its id below a root directory. Every verb of the `brig` command is a function of [`Engine`]:
//!
//! ```no_run
//! use brig_engine::oci_spec::runtime::{ProcessBuilder, RootBuilder, Spec};
//! use brig_engine::{Configuration, CreateOptions, Engine};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // The default has its own namespaces, and the mounts and masked paths of `runc spec`.
//! let mut spec = Spec::default();
//! let args = ["echo", "hello"].map(String::from);
//! spec.set_root(Some(RootBuilder::default().path("/srv/web/rootfs").build()?));
//! spec.set_process(Some(ProcessBuilder::default().args(args).cwd("/").build()?));
//!
//! let engine = Engine::new("/run/example".into(), Default::default());
//! let config = Configuration::Spec(Box::new(spec));
//! let init = engine.create("web", CreateOptions { config, ..CreateOptions::default() })?;
//! engine.start("web")?;
//! println!("{} {}", init.pid, engine.state("web")?.status.as_str());
//! println!("{}", init.wait()?);
//! engine.delete("web", true)?;
//! # Ok(()) }
//! ```
//!
//! The init of a container is a further execution of the running program, which the engine diverts before `main`: a program
//! that links the engine needs no call for it. In a shared library the engine refuses to launch.
//!
//! Containers take root, or a user namespace of the caller's. The examples of this crate run a command, execute a second
//! process, keep a pool and supervise.
#![deny(unsafe_code)]

// Layers, each of which uses those above it alone: facts (error, trace, handshake, state, options); effects, which do not
// know each other (probe, store, channel, hooks, criu, cgroup, resctrl, rootfs, seccomp); launch; verbs.
pub mod cgroup;
pub mod config;
pub mod error;
pub mod process;
pub mod root_mounts;
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
pub use launch::table::init_steps;
pub use oci_spec;
pub use state::check_id;
pub use store::replace;
pub use verbs::*;
