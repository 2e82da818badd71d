//! The support of cases: the runtime under test, bundles made in code, containers that are gone after the case.
//!
//! A run of one runtime in one bed is a few worker processes (`worker`), each with a mount namespace, temporary
//! directories (`shelter`) and a parent cgroup of its own. A worker does its cases one after the other and looks after
//! each for what it left (`leaks`). A run that is killed is cleared away by its `keeper`.
#![forbid(unsafe_code)]

mod bundle;
mod case;
mod command;
mod container;
mod differences;
mod ground;
mod hooks;
mod host;
mod keeper;
mod leaks;
mod mount;
mod normal;
mod run;
mod shelter;
mod terminal;
mod twins;
mod watch;

pub use bundle::Bundle;
pub use case::{Case, Level, Need, Report, Verdict};
pub use command::{Done, set_deadline, wait_until};
pub use container::Container;
pub use ground::Ground;
pub use hooks::KINDS;
pub use host::Host;
pub use keeper::{done, keep};
pub use mount::HostMount;
pub use run::{Options, run, tell_as_json};
pub use terminal::{ConsoleSocket, Terminal, receive};
pub use twins::{Twin, Twins};
