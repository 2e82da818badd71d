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
//! | [`stats`] | statistics in containerd's messages |
//! | [`log`] | the log FIFO |
#![forbid(unsafe_code)]

pub mod bootstrap;
pub mod events;
pub mod log;
pub mod options;
pub mod stats;
