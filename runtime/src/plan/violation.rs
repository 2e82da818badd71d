//! What is wrong with a configuration: every fault at once, each with its place, its reason and the mend.

use std::fmt;

use crate::error::{Error, ErrorKind};

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
}

impl Findings {
    /// Notes a violation.
    pub fn deny(&mut self, path: impl Into<String>, reason: impl Into<String>, mend: impl Into<String>) {
        self.violations.push(Violation { path: path.into(), reason: reason.into(), mend: mend.into() });
    }

    /// Takes back what was denied after the first `checked` violations at a place that one of those names: what plans a
    /// field meets the fault that its check has told already.
    pub fn tell_once(&mut self, checked: usize) {
        let (told, again) = self.violations.split_at(checked.min(self.violations.len()));
        let new = again.iter().filter(|one| !told.iter().any(|other| other.path == one.path)).cloned();
        self.violations = told.iter().cloned().chain(new).collect();
    }

    /// Notes a warning.
    pub fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    /// `Ok` without violations; else one error that lists them all.
    pub fn into_result(self) -> Result<Vec<String>, Error> {
        self.into_result_of("config.json")
    }

    /// Like [`Findings::into_result`], for a file of another name.
    pub fn into_result_of(self, file: &str) -> Result<Vec<String>, Error> {
        if self.violations.is_empty() {
            return Ok(self.warnings);
        }
        let list: Vec<String> = self.violations.iter().map(Violation::to_string).collect();
        Err(Error::new(ErrorKind::InvalidConfig, format!("invalid {file}: {}", list.join("; "))))
    }
}
