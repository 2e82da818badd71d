//! The verbs. Each file holds one or a few: flags, help, and the calls into the engine.

mod checkpoint;
mod create;
mod events;
mod exec;
mod features;
mod lifecycle;
mod spec;
mod state;
mod update;

use crate::args::{Args, Flag, Order};
use crate::cli::Global;
use brig_engine::error::{Error, ErrorKind, Result};

/// A verb of the command line.
pub struct Verb {
    pub name: &'static str,
    /// Arguments, as the usage line shows them.
    pub usage: &'static str,
    /// Summary in a few words.
    pub about: &'static str,
    /// Further help; may be empty.
    pub details: &'static str,
    /// A working command line.
    pub example: &'static str,
    pub flags: &'static [Flag],
    /// Positions in which the flags are accepted.
    pub order: Order,
    /// Number of arguments.
    pub count: Count,
    /// Runs the verb and returns the exit code.
    pub run: fn(&Global, &Args) -> Result<i32>,
}

/// Number of arguments of a verb.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// Exactly this number.
    Exactly(usize),
    /// This number or more.
    AtLeast(usize),
    /// From the first number to the second, inclusive.
    Between(usize, usize),
}

impl Verb {
    /// Refuses a wrong number of arguments, with runc's text.
    pub fn check_count(&self, given: usize) -> Result<()> {
        let (right, wanted) = match self.count {
            Count::Exactly(count) => (given == count, format!("exactly {count}")),
            Count::AtLeast(count) => (given >= count, format!("a minimum of {count}")),
            Count::Between(low, _) if given < low => (false, format!("a minimum of {low}")),
            Count::Between(_, high) => (given <= high, format!("a maximum of {high}")),
        };
        if right {
            return Ok(());
        }
        let name = self.name;
        let message = format!("brig: \"{name}\" requires {wanted} argument(s); see 'brig {name} --help'");
        Err(Error::new(ErrorKind::InvalidConfig, message))
    }
}

/// Every verb, in the order of the help text.
pub static VERBS: &[Verb] = &[
    create::CREATE,
    lifecycle::START,
    create::RUN,
    exec::VERB,
    lifecycle::KILL,
    lifecycle::DELETE,
    state::STATE,
    state::LIST,
    state::PS,
    lifecycle::PAUSE,
    lifecycle::RESUME,
    update::VERB,
    events::VERB,
    spec::VERB,
    features::VERB,
    checkpoint::CHECKPOINT,
    checkpoint::RESTORE,
];
