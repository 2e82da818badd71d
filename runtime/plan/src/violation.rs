//! Violations and warnings: every fault of a configuration at once, each with its path, reason and remedy.

use std::fmt;

/// Error for a refused configuration: one message with every violation of the file.
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

/// A fault of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// JSON path, such as `linux.seccomp.syscalls[3].names[0]`.
    pub path: String,
    /// Found value and expected value.
    pub reason: String,
    /// Remedy; empty when the reason implies it.
    pub remedy: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)?;
        if !self.remedy.is_empty() {
            write!(f, " ({})", self.remedy)?;
        }
        Ok(())
    }
}

/// Collects violations, which refuse the configuration, and warnings, which do not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Violations in the order found; any of them refuses the configuration.
    pub violations: Vec<Violation>,
    /// Messages for the log at level warning.
    pub warnings: Vec<String>,
    /// Number of violations and of warnings beyond the limit.
    omitted: [usize; 2],
}

/// Limit of each list: a document may have a million faults, and the first ones are enough to act on.
const MAX_KEPT: usize = 256;

impl Findings {
    /// Adds a violation: the JSON path of the field, the reason, and the remedy. One beyond the limit is counted.
    pub fn deny(&mut self, path: impl Into<String>, reason: impl Into<String>, remedy: impl Into<String>) {
        if self.violations.len() < MAX_KEPT {
            self.violations.push(Violation { path: path.into(), reason: reason.into(), remedy: remedy.into() });
        } else {
            self.omitted[0] += 1;
        }
    }

    /// Adds a warning, unless the same one was added before.
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

    /// Returns the warnings, or one error that lists all violations.
    ///
    /// # Errors
    /// [`Refused`] when there is a violation.
    pub fn into_result(self) -> Result<Vec<String>, Refused> {
        self.into_result_of("config.json")
    }

    /// Like [`Findings::into_result`], for a document of another name.
    pub(crate) fn into_result_of(mut self, file: &str) -> Result<Vec<String>, Refused> {
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
    fn violations_and_warnings_beyond_the_limit_are_counted() {
        let mut findings = Findings::default();
        (0..1000).for_each(|index| findings.warn(index.to_string()));
        let warnings = findings.clone().into_result().unwrap();
        assert_eq!((warnings.len(), warnings[256].as_str()), (257, "config.json: 744 more warnings"));
        (0..1000).for_each(|index| findings.deny(index.to_string(), "x", ""));
        let text = findings.into_result().unwrap_err().to_string();
        assert!(text.starts_with("invalid config.json: 0: x; 1: x; ") && text.ends_with("; 255: x; 744 more faults"));
    }
}
