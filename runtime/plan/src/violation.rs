//! What is wrong with a configuration: every fault at once, each with its place, its reason and the mend.

use std::fmt;

/// A configuration that was refused: one message with every violation of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl Refused {
    pub(crate) fn new(message: impl Into<String>) -> Refused {
        Refused(message.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// One fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where: a path into config.json such as `linux.seccomp.syscalls[3].names[0]`.
    pub path: String,
    /// What was found, and what was expected.
    pub reason: String,
    /// What to do about it. Empty when the reason says it.
    pub mend: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)?;
        if !self.mend.is_empty() {
            write!(f, " ({})", self.mend)?;
        }
        Ok(())
    }
}

/// Collects violations, which deny, and warnings, which do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Each of them denies the configuration.
    pub violations: Vec<Violation>,
    /// Lines for the log at level warning.
    pub warnings: Vec<String>,
    /// How many more of each there were.
    omitted: [usize; 2],
}

/// As many of each are kept: a document may have a million faults, and a person reads the first ones.
const MAX_KEPT: usize = 256;

impl Findings {
    /// Notes a violation.
    pub fn deny(&mut self, path: impl Into<String>, reason: impl Into<String>, mend: impl Into<String>) {
        if self.violations.len() < MAX_KEPT {
            self.violations.push(Violation { path: path.into(), reason: reason.into(), mend: mend.into() });
        } else {
            self.omitted[0] += 1;
        }
    }

    /// Takes back what was denied after the first `checked` violations at a place that one of those names: what plans a
    /// field meets the fault that its check has told already.
    pub fn tell_once(&mut self, checked: usize) {
        let (told, again) = self.violations.split_at(checked.min(self.violations.len()));
        let new = again.iter().filter(|one| !told.iter().any(|other| other.path == one.path)).cloned();
        self.violations = told.iter().cloned().chain(new).collect();
    }

    /// Notes a warning; one that is noted already counts once.
    pub fn warn(&mut self, message: impl Into<String>) {
        let message = message.into();
        if self.warnings.contains(&message) {
            return;
        }
        if self.warnings.len() < MAX_KEPT {
            self.warnings.push(message);
        } else {
            self.omitted[1] += 1;
        }
    }

    /// `Ok` without violations; else one error that lists them all.
    pub fn into_result(self) -> Result<Vec<String>, Refused> {
        self.into_result_of("config.json")
    }

    /// Like [`Findings::into_result`], for a file of another name.
    pub fn into_result_of(mut self, file: &str) -> Result<Vec<String>, Refused> {
        let [violations, warnings] = self.omitted;
        if self.violations.is_empty() {
            self.warnings.extend((warnings > 0).then(|| format!("{file}: {warnings} more warnings")));
            return Ok(self.warnings);
        }
        let mut list: Vec<String> = self.violations.iter().map(Violation::to_string).collect();
        list.extend((violations > 0).then(|| format!("{violations} more faults")));
        Err(Refused(format!("invalid {file}: {}", list.join("; "))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_faults_is_cut_and_counted() {
        let mut findings = Findings::default();
        (0..1000).for_each(|index| findings.warn(index.to_string()));
        let warnings = findings.clone().into_result().unwrap();
        assert_eq!((warnings.len(), warnings[256].as_str()), (257, "config.json: 744 more warnings"));
        (0..1000).for_each(|index| findings.deny(index.to_string(), "x", ""));
        let text = findings.into_result().unwrap_err().to_string();
        assert!(text.starts_with("invalid config.json: 0: x; 1: x; ") && text.ends_with("; 255: x; 744 more faults"));
    }
}
