//! data/differences.json: the output in which a drop-in replacement of runc may differ, with reasons.

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::normal::fits;

/// One difference. In every pattern `*` stands for anything.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Difference {
    /// The command lines, as a case has them: `create *`. One without `*` has to differ, else it is out of date.
    pub commands: Vec<String>,
    /// The part that differs: `stdout`, `stderr`, `code`, or a name that a case gives.
    pub field: String,
    /// Whether `runc` and `here` are parts of the output: each occurrence of `runc` is replaced by `here` (a `*` is a
    /// letter then, and `{verb}` in `here` is the command's verb), and the rest must be equal. Else they are patterns
    /// for the whole output.
    #[serde(default)]
    pub part: bool,
    /// The text of runc, normalised.
    pub runc: String,
    /// The text that is accepted instead.
    pub here: String,
    /// The layout or driver of cgroups with which it applies; any unless given.
    #[serde(default)]
    pub on: Option<Cgroups>,
    /// The reason why the difference is right.
    pub why: String,
}

/// The layout or the driver of cgroups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Cgroups {
    /// v1, alone or beside v2.
    V1,
    /// v2 alone.
    V2,
    /// By systemd, on either.
    Systemd,
}

/// The differences that apply to a host of this kind.
///
/// # Errors
/// When the file is invalid; the error names the entry.
pub(super) fn all(here: &[Cgroups]) -> anyhow::Result<Vec<Difference>> {
    let mut all: Vec<Difference> =
        serde_json::from_str(include_str!("../../data/differences.json")).context("data/differences.json")?;
    for one in &all {
        let reason = !one.why.trim().is_empty() && !one.commands.is_empty();
        ensure!(reason, "data/differences.json: an entry for {:?} gives no reason or no command", one.commands);
        ensure!(!one.part || !one.runc.is_empty(), "data/differences.json: {:?}: a part of nothing", one.commands);
        ensure!(one.runc != "*" || one.here != "*", "data/differences.json: {:?} says nothing", one.commands);
    }
    all.retain(|one| one.on.is_none_or(|on| here.contains(&on)));
    Ok(all)
}

impl Difference {
    /// Whether it covers this field of this command.
    pub fn concerns(&self, command: &str, field: &str) -> bool {
        self.field == field && self.commands.iter().any(|pattern| fits(pattern, command))
    }

    /// The text of runc with the accepted text in the place of its own, for a partial difference.
    pub fn rewrite(&self, command: &str, field: &str, runc: String) -> String {
        if !(self.part && self.concerns(command, field)) {
            return runc;
        }
        let verb = command.split_whitespace().find(|word| !word.starts_with('-')).unwrap_or_default();
        runc.replace(&self.runc, &self.here.replace("{verb}", verb))
    }

    /// Whether it explains the difference between both texts.
    pub fn explains(&self, command: &str, field: &str, runc: &str, here: &str) -> bool {
        !self.part && self.concerns(command, field) && fits(&self.runc, runc) && fits(&self.here, here)
    }

    /// Whether it requires this command to differ on every host.
    pub fn promises(&self, command: &str, field: &str) -> bool {
        !self.part && self.field == field && self.commands.iter().any(|one| one == command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read() {
        for one in all(&[Cgroups::V1, Cgroups::V2, Cgroups::Systemd]).unwrap() {
            assert!(one.why.ends_with('.'), "a reason is a sentence: {:?}", one.why);
        }
    }

    #[test]
    fn a_difference_covers_what_it_names() {
        let one = Difference {
            commands: vec!["--version".into(), "kill *".into()],
            field: "stdout".into(),
            part: false,
            runc: "RUNTIME version 1.*".into(),
            here: "RUNTIME version *".into(),
            on: None,
            why: "Each has its own.".into(),
        };
        assert!(one.explains("--version", "stdout", "RUNTIME version 1.1", "RUNTIME version 0"));
        assert!(!one.explains("--version", "stderr", "RUNTIME version 1.1", "RUNTIME version 0"));
        assert!(!one.explains("--version", "stdout", "RUNTIME version 1.1", ""));
        let part = Difference { part: true, runc: "1.1".into(), here: "0.1".into(), ..one.clone() };
        assert_eq!(part.rewrite("kill x", "stdout", "version 1.1".into()), "version 0.1");
        assert_eq!(part.rewrite("list", "stdout", "version 1.1".into()), "version 1.1");
        assert!(!part.explains("--version", "stdout", "1.1", "0.1"));
        assert!(one.promises("--version", "stdout") && !one.promises("kill a", "stdout"));
    }
}
