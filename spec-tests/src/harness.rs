//! The harness of the cases: the runtime under test, bundles made in code, and containers that are removed after each
//! case.
//!
//! A run of one runtime in one bed has a few worker processes (`run`), each with a mount namespace, temporary
//! directories (`sandbox`) and a parent cgroup of its own. A worker runs its cases one after the other, and searches
//! for leaks after each (`leaks`). The `supervisor` cleans up after a run that is killed.
#![forbid(unsafe_code)]

mod bundle;
mod case;
mod command;
mod container;
mod differences;
mod differential;
mod fixture;
mod hooks;
mod host;
mod leaks;
mod mount;
mod normal;
mod run;
mod sandbox;
mod supervisor;
mod terminal;
mod watch;

pub use bundle::Bundle;
pub use case::{Case, Level, Need, Report, Verdict};
pub use command::{Done, set_deadline, wait_until};
pub use container::Container;
pub use differential::{Differential, Side};
pub use fixture::Fixture;
pub use hooks::KINDS;
pub use host::Host;
pub use mount::HostMount;
pub use run::{Options, run, write_as_json};
pub use supervisor::{delay_exit, supervise};
pub use terminal::{ConsoleSocket, Terminal, receive};
