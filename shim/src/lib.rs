//! containerd-shim-brig-v2: containerd's shim, whose every verb is a call into brig's engine.
//!
//! ```text
//! containerd ── start, delete, -info, -v ──► bootstrap        (synchronous, one short process each)
//!            ── ttrpc: Task v2, Task v3 ───► service ─► tasks ─► task ─► process ─► runtime ─► brig::engine
//!            ◄─ events ────────────────────── events ◄── reaper, oom
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`bootstrap`] | containerd's commands, the socket, and the start of the server |
//! | [`options`] | what containerd's runtime options say, from either message |
//! | [`events`] | the queue of events, and its way to containerd |
//! | [`rootfs`] | the mounts of a container's root, and their end |
//! | [`stats`] | statistics in containerd's messages |
//! | [`oom`] | which containers the out-of-memory killer has been in |
//! | [`setup`] | what the server is: subreaper, OOM score, cgroup, core |
//! | [`trace`] | a span of each call, to a collector |
//! | [`log`] | the log FIFO |
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod events;
pub mod log;
pub mod oom;
pub mod options;
pub mod rootfs;
pub mod setup;
pub mod stats;
pub mod trace;
