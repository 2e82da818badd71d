//! `features`: the features of this build as JSON.

use super::{Args, Count, Global, Order, Verb};
use crate::output;
use brig_engine::error::Result;

pub const VERB: Verb = Verb {
    name: "features",
    usage: "",
    about: "print what this build supports as JSON",
    details: "",
    example: "brig features",
    flags: &[],
    order: Order::Anywhere,
    count: Count::Exactly(0),
    run,
};

fn run(_: &Global, _: &Args) -> Result<i32> {
    let mut text = output::json_indented(&brig_engine::features(), "    ")?;
    text.push('\n');
    output::print(&text)?;
    Ok(0)
}
