//! The proving ground: judges any OCI runtime by the runtime specification, by what is seen from outside.
//!
//! ```text
//!  case ──► Ground ──► bundle (config.json, rootfs with the probe) ──► RUNTIME create, start, ... ──► verdict
//!                                                                        │                             ▲
//!                                                                        └─► probe prints Facts ───────┘
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`facts`] | what the probe tells from inside a container; shared by both programs |
//! | [`record`] | what the probe tells when it is a hook |
//! | `harness` | the runtime under test as a path, bundles, containers, deadlines, leaks, verdicts |
//! | `cases` | the cases, by chapter of the specification; each names the section that it judges by |
//!
//! Nothing here knows the code of any runtime: a case asserts what a user of the specification could see.
#![forbid(unsafe_code)]

mod cases;
pub mod facts;
mod harness;
pub mod record;

pub use cases::ALL;
pub use harness::{Host, Options, Report, Verdict, done, keep, run, set_deadline, tell_as_json};
