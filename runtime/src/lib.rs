//! brig's engine: from an OCI bundle to a running container, and back.
//!
//! ```text
//! config.json ─ spec ─► plan ─► launch (clone, execute the plan) ─► running container
//!                         ▲                                             │
//!                  probe (host facts)          store (one small record) ◄┘ ─► every later verb
//! ```
//!
//! The modules below stand in layer order. A module uses modules of its own layer's inside and of the layers
//! above it in this list, never one further down.
//!
//! | layer | modules | rule |
//! |---|---|---|
//! | 0 the kernel | [`sys`] | the only `unsafe` code and raw system calls; knows nothing of OCI |
//! | 0 | [`error`], [`trace`] | the one error type of every layer above; where the time goes |
//! | 1 pure | [`plan`], [`handshake`], [`state`] | no I/O; tested without root |
//! | 2 effects | [`probe`], [`store`], [`channel`], [`hooks`], [`criu`], [`cgroup`], [`resctrl`], [`rootfs`], [`seccomp`] | each executes one part of a plan; they do not know each other |
//! | 3 launch | [`launch`] | who runs where: parent, child, gate, terminal |
//! | 4 API | [`engine`] | one function a verb |
//! | 5 command | [`cli`] | flags in, texts and JSON out |

pub mod error;
pub mod sys;
pub mod trace;

pub mod handshake;
pub mod plan;
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

pub mod engine;

pub mod cli;
