//! The planner: an OCI configuration and host facts become a plan, or a list of violations. No I/O; every function is
//! tested without root.
#![forbid(unsafe_code)]

pub mod annotations;
pub mod cgroup;
pub mod checks;
pub mod config;
pub mod container;
pub mod devices;
pub mod external;
mod finished;
mod hidden_paths;
pub mod hooks;
pub mod host;
pub mod idmap;
pub mod ids;
pub mod init;
pub mod intel_rdt;
pub mod memory_policy;
pub mod mounts;
pub mod namespaces;
pub mod nearest;
pub mod network;
pub mod passwd;
pub mod process;
pub mod restore;
pub mod seccomp;
mod violation;

pub use finished::Finished;
pub use host::Host;
pub use violation::{Findings, Refused, Violation};
