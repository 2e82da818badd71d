//! Exit statuses in the bundle: they survive the server, so that `delete` can report them after the server was killed.
//!
//! ```text
//! BUNDLE/init.exit     init's
//! BUNDLE/exec.ID.exit  an exec's, until it is deleted
//! ```
//!
//! A record is written as soon as the exit is known, and so before its event is published: `delete` reports the same
//! status as the event.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brig_engine::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};

use crate::bundle::{read_stored, remove_if_there};
use crate::reaper::Exit;

/// The prefix and the suffix of an exec's id in the name of its record.
const EXEC: (&str, &str) = ("exec.", ".exit");

/// The exit of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// The pid of the exited process.
    pub pid: u32,
    /// The exit code, or 128 + the signal.
    pub status: u32,
    seconds: u64,
    nanos: u32,
}

impl ExitRecord {
    /// Creates the record of `exit`.
    pub fn new(pid: i32, exit: Exit) -> ExitRecord {
        let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
        ExitRecord { pid: pid.cast_unsigned(), status: exit.status, seconds, nanos }
    }

    /// The time at which the process was reaped.
    pub fn exited_at(&self) -> SystemTime {
        // A time out of the clock's range comes from a damaged record.
        UNIX_EPOCH.checked_add(Duration::new(self.seconds, self.nanos)).unwrap_or(UNIX_EPOCH)
    }

    /// Stores the exit of init (an empty id) or of an exec. A failure is logged: the event reports the exit all the
    /// same.
    pub fn write(bundle: &Path, exec_id: &str, pid: i32, exit: Exit) {
        let write = || {
            let bytes = serde_json::to_vec(&ExitRecord::new(pid, exit)).context("unable to write an exit status")?;
            brig_engine::replace(&path(bundle, exec_id), &bytes, 0o600)
        };
        if let Err(error) = write() {
            tracing::warn!("unable to store the exit status {} of process {pid} in the bundle: {error}", exit.status);
        }
    }

    /// Reads the exit of init (an empty id) or of an exec; `None` where there is no record.
    ///
    /// # Errors
    /// The record is damaged or unreadable.
    pub fn read(bundle: &Path, exec_id: &str) -> Result<Option<ExitRecord>> {
        let path = path(bundle, exec_id);
        let Some(bytes) = read_stored(&path)? else { return Ok(None) };
        let record: ExitRecord = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        if record.pid == 0 || record.pid > i32::MAX.cast_unsigned() || record.nanos >= 1_000_000_000 {
            return Err(Error::other(format!("{}: expected a pid and a time, found {record:?}", path.display())));
        }
        Ok(Some(record))
    }

    /// Removes the record of init (an empty id) or of an exec, which another process of that id may have left.
    ///
    /// # Errors
    /// The record exists and cannot be removed.
    pub fn remove(bundle: &Path, exec_id: &str) -> Result<()> {
        remove_if_there(&path(bundle, exec_id))
    }

    /// The ids of execs whose exit is on record.
    ///
    /// # Errors
    /// The bundle cannot be listed.
    pub fn execs(bundle: &Path) -> Result<Vec<String>> {
        let unable = || format!("unable to list {}", bundle.display());
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(bundle).with_context(unable)? {
            let name = entry.with_context(unable)?.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(EXEC.0)?.strip_suffix(EXEC.1));
            ids.extend(id.map(str::to_owned));
        }
        Ok(ids)
    }
}

/// The path of a record. An exec may be called init: its record has another name than init's.
fn path(bundle: &Path, exec_id: &str) -> PathBuf {
    match exec_id {
        "" => bundle.join("init.exit"),
        id => bundle.join(format!("{}{id}{}", EXEC.0, EXEC.1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_of_init_and_of_an_exec_that_is_called_init_are_kept_apart_until_they_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let bundle = directory.path();
        assert_eq!(ExitRecord::read(bundle, "").unwrap(), None);
        let (init, exec) = (Exit::now(42), Exit::now(7));
        ExitRecord::write(bundle, "", 12, init);
        ExitRecord::write(bundle, "init", 13, exec);
        let record = ExitRecord::read(bundle, "").unwrap().unwrap();
        assert_eq!((record.pid, record.status, record.exited_at()), (12, 42, init.at));
        assert_eq!(ExitRecord::read(bundle, "init").unwrap().unwrap().status, 7);
        assert_eq!(ExitRecord::execs(bundle).unwrap(), ["init"]);
        ExitRecord::remove(bundle, "").unwrap();
        ExitRecord::remove(bundle, "").unwrap();
        assert_eq!(ExitRecord::read(bundle, "").unwrap(), None);
        assert_eq!(ExitRecord::read(bundle, "init").unwrap().unwrap().pid, 13);
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_the_file() {
        let bundle = tempfile::tempdir().unwrap();
        let damaged = [
            "",
            "{}",
            "[1]",
            r#"{"pid": 1, "status": 1, "seconds": 1}"#,
            r#"{"pid": 0, "status": 1, "seconds": 1, "nanos": 1}"#,
            r#"{"pid": 1, "status": -1, "seconds": 1, "nanos": 1}"#,
            r#"{"pid": 1, "status": 1, "seconds": 1, "nanos": 4000000000}"#,
        ];
        for text in damaged {
            std::fs::write(bundle.path().join("init.exit"), text).unwrap();
            let error = ExitRecord::read(bundle.path(), "").unwrap_err().to_string();
            assert!(error.contains("init.exit"), "{text}: {error}");
        }
    }

    #[test]
    fn a_bundle_that_is_gone_keeps_no_exit() {
        let directory = tempfile::tempdir().unwrap();
        let gone = directory.path().join("gone");
        ExitRecord::write(&gone, "", 1, Exit::now(0));
        assert_eq!(ExitRecord::read(&gone, "").unwrap(), None);
        assert!(ExitRecord::execs(&gone).is_err());
    }
}
