//! config.json and its parts, from bytes to types.
//!
//! One fast typed pass reads every valid file. A file that it refuses is read again against the table in `schema`,
//! which reports every fault at once and accepts what runc accepts:
//!
//! - an unknown capability is dropped with a warning, and so is a known one without its `CAP_`;
//! - a `null` is the same as an absent field, and a `linux.resources.pids` without a limit is no limit at all;
//! - a missing `process.user` is root, a missing `process.cwd` is left to [`super::checks`];
//! - `linux.seccomp` without a default action and without system calls is no seccomp;
//! - a key given twice counts by its last value, and an unknown key is ignored with a warning (config.md, Extensibility).

mod schema;
mod strict;
mod walk;

use oci_spec::runtime::{LinuxResources, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Findings, Refused};
use schema::Type;

/// Limit of a document's size, in bytes. Its content is copied to init, to the record and to hooks; a program's
/// arguments and environment take at most 6 MiB (execve(2)).
pub const MAX_BYTES: usize = 16 << 20;

/// Parses a config.json. The strings are warnings for the log.
///
/// # Errors
/// [`Refused`] lists every place where the document is not JSON of the specification's types.
pub fn parse(bytes: &[u8]) -> Result<(Spec, Vec<String>), Refused> {
    read(bytes, "config.json", &schema::SPEC, |spec: &Spec| {
        !spec.process().as_ref().is_some_and(needs_the_table)
            && spec.linux().as_ref().is_none_or(|linux| {
                linux.seccomp().as_ref().is_none_or(|seccomp| seccomp.syscalls().is_some())
                    && linux.resources().as_ref().is_none_or(has_pids_limit)
            })
    })
}

/// Parses a process.json, which has the form of config.json's `process` (exec --process).
///
/// # Errors
/// As for [`parse`].
pub fn parse_process(bytes: &[u8]) -> Result<(Process, Vec<String>), Refused> {
    read(bytes, "process.json", &schema::PROCESS, |process: &Process| !needs_the_table(process))
}

/// Parses a `linux.resources` object (update --resources). `null` changes nothing.
///
/// # Errors
/// As for [`parse`].
pub fn parse_resources(bytes: &[u8]) -> Result<(LinuxResources, Vec<String>), Refused> {
    if bytes.trim_ascii() == b"null" {
        return Ok((LinuxResources::default(), Vec::new()));
    }
    read(bytes, "resources", &schema::RESOURCES, has_pids_limit)
}

/// Whether `pids` is usable as the model reads it: the model takes an absent limit as zero, and the table
/// distinguishes the two.
fn has_pids_limit(resources: &LinuxResources) -> bool {
    resources.pids().as_ref().is_none_or(|pids| pids.limit() != 0)
}

/// Whether the process has one of the rare fields whose type is laxer in the model than in the specification; the
/// table reads those.
fn needs_the_table(process: &Process) -> bool {
    process.io_priority().is_some() || process.scheduler().is_some()
}

fn read<T: DeserializeOwned>(
    bytes: &[u8],
    file: &str,
    schema: &Type,
    trusted: impl Fn(&T) -> bool,
) -> Result<(T, Vec<String>), Refused> {
    if bytes.len() > MAX_BYTES {
        let text = format!("{file}: expected at most {MAX_BYTES} bytes, found more");
        return Err(Refused::new(text));
    }
    if !may_hold_minus_one(bytes)
        && let Ok(parsed) = strict::from_slice::<T>(bytes)
        && trusted(&parsed)
    {
        return Ok((parsed, Vec::new()));
    }
    let value: Value =
        serde_json::from_slice(bytes).map_err(|error| Refused::new(format!("{file} is not JSON: {error}")))?;
    let mut findings = Findings::default();
    let value = walk::clean(schema, value, &mut findings);
    let warnings = findings.into_result_of(file)?;
    let parsed = serde_json::from_value(value).map_err(|error| Refused::new(format!("invalid {file}: {error}")))?;
    Ok((parsed, warnings))
}

/// Whether the document may contain (uid_t)-1 as an id, which the model accepts as a number like any other and the
/// table refuses. A JSON number of that value has one spelling.
fn may_hold_minus_one(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.contains("4294967295"))
}

#[cfg(test)]
mod tests;
