//! Conformance tests: check any OCI runtime against the runtime specification, by its behaviour as seen from outside.
//!
//! ```text
//!  case ─► Fixture ──► bundle (config.json, rootfs with the probe) ──► RUNTIME create, start, ... ──► verdict
//!                                                                        │                             ▲
//!                                                                        └─► probe prints Facts ───────┘
//! ```
//!
//! | module | content |
//! |---|---|
//! | [`facts`] | the probe's report from inside a container; shared by both programs |
//! | [`record`] | the probe's report as a hook |
//! | `harness` | the runtime under test as a path, bundles, containers, deadlines, leaks, verdicts |
//! | `cases` | the cases, by chapter of the specification; each names the section that has its rule |
//!
//! No case depends on the code of a runtime: it asserts behaviour that a user of the specification can observe.
#![forbid(unsafe_code)]

mod cases;
pub mod facts;
mod harness;
pub mod record;

pub use cases::ALL;
pub use harness::{Host, Options, Report, Verdict, delay_exit, run, set_deadline, supervise, write_as_json};
