//! The verbs. Each file holds one: its flags and help, and how it calls the engine.

mod checkpoint;
mod create;
mod events;
mod exec;
mod features;
mod lifecycle;
mod spec;
mod state;
mod update;

use crate::cli::Global;
use crate::args::{Args, Flag, Order};
use brig_engine::error::{Error, ErrorKind, Result};

/// A verb of the command line.
pub struct Verb {
    /// Its name.
    pub name: &'static str,
    /// Its arguments, as the usage line shows them.
    pub usage: &'static str,
    /// What it does, in a few words.
    pub about: &'static str,
    /// What a person must know beyond that; may be empty.
    pub details: &'static str,
    /// One line that works.
    pub example: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
    /// Where they may stand.
    pub order: Order,
    /// How many arguments it takes.
    pub count: Count,
    /// Runs it, and returns its exit code.
    pub run: fn(&Global, &Args) -> Result<i32>,
}

/// How many arguments a verb takes.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// As many as this.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
    /// From the first number to the second.
    Between(usize, usize),
}

impl Verb {
    /// Refuses a wrong number of arguments in runc's words.
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
