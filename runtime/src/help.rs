//! Help texts.

use std::fmt::Write;

use crate::args::Flag;
use crate::cli::GLOBAL_FLAGS;
use crate::commands::{VERBS, Verb};

/// The version text, in the form of `runc --version`.
pub fn version() -> String {
    format!("brig version {}\nspec: {}\n", env!("CARGO_PKG_VERSION"), brig_engine::SPEC_VERSION)
}

/// The text of `brig --help`.
pub fn overview() -> String {
    let mut text = String::from(
        "brig - an OCI container runtime\n\n\
         USAGE\n  brig [flags] COMMAND [flags] ...\n\n\
         COMMANDS\n",
    );
    for verb in VERBS {
        line(&mut text, verb.name, verb.about);
    }
    line(&mut text, "help [COMMAND]", "show this, or a command's own help");
    text.push_str("\nFLAGS\n");
    flags(&mut text, GLOBAL_FLAGS);
    line(&mut text, "--help, -h", "show this help");
    text.push_str(
        "\nEXAMPLE\n  mkdir -p box/rootfs && cd box       # put a root file system into rootfs\n  \
         brig spec                           # write config.json\n  \
         brig run box1                       # run it; 'brig COMMAND --help' shows more\n",
    );
    text
}

/// The text of `brig VERB --help`.
pub fn verb(verb: &Verb) -> String {
    let mut text =
        format!("brig {} - {}\n\nUSAGE\n  brig {} [flags] {}\n", verb.name, verb.about, verb.name, verb.usage);
    if !verb.details.is_empty() {
        let _ = write!(text, "\n{}\n", verb.details);
    }
    text.push_str("\nFLAGS\n");
    flags(&mut text, verb.flags);
    line(&mut text, "--help, -h", "show this help");
    let _ = write!(text, "\nEXAMPLE\n  {}\n", verb.example);
    text
}

fn flags(text: &mut String, flags: &[Flag]) {
    for flag in flags.iter().filter(|flag| !flag.help.is_empty()) {
        let short = if flag.short.is_empty() { String::new() } else { format!(", -{}", flag.short) };
        let value = if flag.value.is_empty() { String::new() } else { format!(" {}", flag.value) };
        line(text, &format!("--{}{short}{value}", flag.name), flag.help);
    }
}

fn line(text: &mut String, left: &str, right: &str) {
    // Writing to a String does not fail.
    let _ = if left.chars().count() > 34 {
        writeln!(text, "  {left}\n  {:34}  {right}", "")
    } else {
        writeln!(text, "  {left:34}  {right}")
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_help_with_its_flags_and_an_example() {
        for one in VERBS {
            let text = verb(one);
            assert!(!one.about.is_empty() && one.example.starts_with("brig "), "{}", one.name);
            for flag in one.flags.iter().filter(|flag| !flag.help.is_empty()) {
                assert!(text.contains(&format!("--{}", flag.name)), "{} --{}", one.name, flag.name);
            }
            assert!(text.lines().all(|line| line.len() <= 120), "{}: a line is too long", one.name);
            assert!(overview().contains(one.about));
        }
    }

    #[test]
    fn flag_names_are_unique_within_a_verb() {
        for one in VERBS {
            for (index, flag) in one.flags.iter().enumerate() {
                let clash = |other: &Flag| {
                    other.name == flag.name
                        || (!flag.short.is_empty() && other.short == flag.short)
                        || other.short == "h"
                };
                assert!(!one.flags[..index].iter().any(clash), "{} --{}", one.name, flag.name);
            }
        }
    }

    #[test]
    fn the_version_names_the_specification() {
        assert!(version().starts_with("brig version ") && version().contains("\nspec: 1."));
    }
}
