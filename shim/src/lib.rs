//! containerd-shim-brig-v2: containerd's shim, whose every verb is a call into brig's engine.
//!
//! ```text
//! containerd ── start, delete, -info, -v ──► bootstrap        (synchronous, one short process each)
//!            ── ttrpc: Task v2, Task v3 ───► service ─► tasks ─► task ─► process ─► runtime ─► brig_engine
//!            ◄─ events ────────────────────── events ◄── reaper, oom
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`bootstrap`] | containerd's commands, the socket, and the start of the server |
//! | `server` | the server's life cycle: its thread, its signals |
//! | `calls` | the threads of calls, and the limits that they wait for |
//! | `service`, `rpc_error` | ttrpc calls in, answers and status codes out |
//! | `tasks`, `task`, `process` | all containers, one container, one process of it |
//! | `runtime` | the engine, or another runtime's command |
//! | [`reaper`] | the exit of every child |
//! | `io` | standard streams and terminals |
//! | `bundle`, `exit_record` | the files in the bundle that concern the shim |
//! | `file` | reads of regular files of limited size |
//! | `options` | containerd's runtime options, from either message |
//! | `events` | the queue of events, and their publication to containerd |
//! | `stats` | statistics in containerd's messages |
//! | `oom` | the containers in which the OOM killer has killed a process |
//! | `setup` | the server's own attributes: subreaper, OOM score, cgroup, core |
//! | [`sandbox`] | the sandbox API: pods without a pause image |
//! | `trace` | a span for each call, sent to a collector |
//! | `log` | the log FIFO |
#![forbid(unsafe_code)]

mod bundle;
mod calls;
mod events;
mod exit_record;
mod file;
mod io;
mod log;
mod oom;
mod options;
mod process;
mod rpc_error;
mod runtime;
mod server;
mod service;
mod setup;
mod stats;
mod task;
mod tasks;
mod trace;

pub mod bootstrap;
pub mod reaper;
pub mod sandbox;
