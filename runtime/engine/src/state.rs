//! The record of a container, and its status, which is derived from facts on each request and never stored.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::resctrl::Group;
use brig_plan::cgroup::record::CgroupRecord;

/// The record of a created container, in the names of runc's state.json, which other tools read. The status is not in
/// it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Id of the container.
    pub id: String,
    /// Init's pid; 0 until init is set up.
    pub init_process_pid: i32,
    /// Init's start time in clock ticks since boot (proc(5), stat, field 22), which distinguishes it from a later
    /// process with the same pid.
    pub init_process_start: u64,
    /// Time of the create, RFC 3339, UTC.
    pub created: String,
    /// The bundle, absolute.
    pub bundle: PathBuf,
    /// The configuration's ociVersion.
    pub oci_version: String,
    /// The caller's user id.
    pub owner: u32,
    /// The configuration's annotations.
    pub annotations: BTreeMap<String, String>,
    /// Whether the container has its own pid namespace, whose processes exit with init.
    pub own_pids: bool,
    /// Hooks that are called after create.
    #[serde(flatten)]
    pub hooks: RecordHooks,
    /// Parts of the configuration that other tools read.
    pub config: RecordConfig,
    /// The cgroup's directory by controller; the empty name is the v2 hierarchy's.
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// A file in /proc by namespace, in runc's names: NEWNET, NEWNS ...
    pub namespace_paths: BTreeMap<String, PathBuf>,
    /// The cgroup manager's record.
    pub cgroup: CgroupRecord,
    /// The container's resctrl group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<Group>,
}

/// Which hooks there are of those that are called after create; see [`Record::hooks`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordHooks {
    /// Whether there are startContainer hooks, whose failure is an error of start.
    #[serde(default)]
    pub start_container: bool,
    /// Whether there are poststart hooks.
    pub poststart: bool,
    /// Whether there are poststop hooks.
    pub poststop: bool,
}

/// Parts of the configuration; see [`Record::config`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordConfig {
    /// The root file system, absolute.
    pub rootfs: PathBuf,
    /// Annotations, as `NAME=value`, and the bundle as `bundle=PATH`.
    pub labels: Vec<String>,
}

/// The facts that a status is derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// State of init.
    pub init: InitState,
    /// The gate exists.
    pub gate: bool,
    /// The cgroup is frozen.
    pub frozen: bool,
}

/// Whether init runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitState {
    /// `create` is in progress: it holds the container's lock, and no pid is on record.
    BeingCreated,
    /// Init is running: its pid and start time are those on record, and it is not a zombie.
    Alive,
    /// Init has exited.
    Exited,
}

/// A container's status, derived when it is requested (runtime.md, State; `paused` is an addition).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// `create` is in progress.
    Creating,
    /// Set up, and waiting for `start`.
    Created,
    /// The user's program runs.
    Running,
    /// The processes are frozen.
    Paused,
    /// Init has exited.
    Stopped,
}

impl Status {
    /// The name that `state` and `list` print.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        }
    }

    /// Derives the status from the current facts.
    pub fn derive(facts: Facts) -> Status {
        match facts {
            Facts { init: InitState::BeingCreated, .. } => Status::Creating,
            Facts { init: InitState::Exited, .. } => Status::Stopped,
            Facts { frozen: true, .. } => Status::Paused,
            Facts { gate: true, .. } => Status::Created,
            _ => Status::Running,
        }
    }
}

/// A verb whose use depends on the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    /// exec, with the value of `--ignore-paused`.
    Exec {
        /// Allow a paused container.
        ignore_paused: bool,
    },
    Kill,
    Pause,
    Resume,
    /// delete without force
    Delete,
    /// events: the container has processes.
    Events,
    Update,
    Checkpoint,
}

/// Checks that a container of this status allows the verb.
///
/// # Errors
/// The texts are runc's: callers match on them.
pub fn allow(verb: Verb, status: Status, id: &str) -> Result<()> {
    let state = |message: String| Err(Error::new(ErrorKind::InvalidState, message));
    let not_running = || Err(Error::new(ErrorKind::NotRunning, "container not running"));
    match (verb, status) {
        (Verb::Start, Status::Created) => Ok(()),
        (Verb::Start, Status::Stopped) => state("cannot start a container that has stopped".into()),
        (Verb::Start, Status::Running) => state("cannot start an already running container".into()),
        (Verb::Start, _) => state(format!("cannot start a container in the {} state", status.as_str())),
        (Verb::Exec { .. }, Status::Created | Status::Running) => Ok(()),
        (Verb::Exec { ignore_paused: true }, Status::Paused) => Ok(()),
        (Verb::Exec { .. }, Status::Paused) => {
            state("cannot exec in a paused container (use --ignore-paused to override)".into())
        }
        (Verb::Exec { .. }, _) => state("cannot exec in a stopped container".into()),
        (Verb::Kill, Status::Stopped | Status::Creating) => not_running(),
        (Verb::Pause, Status::Running | Status::Created) => Ok(()),
        (Verb::Pause, Status::Paused) => {
            Err(Error::new(ErrorKind::NotRunning, "container not running: it is paused already"))
        }
        (Verb::Pause, _) => not_running(),
        (Verb::Resume, Status::Paused) => Ok(()),
        (Verb::Resume, _) => state("container not paused".into()),
        // As with runc, a container that was created and never started is killed and deleted.
        (Verb::Delete, Status::Stopped | Status::Created) => Ok(()),
        (Verb::Delete, _) => state(format!("cannot delete container {id} that is not stopped: {}", status.as_str())),
        (Verb::Events, Status::Stopped | Status::Creating) => {
            Err(Error::new(ErrorKind::NotRunning, format!("container with id {id} is not running")))
        }
        (Verb::Update, Status::Stopped | Status::Creating) => not_running(),
        (Verb::Checkpoint, Status::Running | Status::Paused) => Ok(()),
        (Verb::Checkpoint, _) => state(format!("Container cannot be checkpointed in {} state", status.as_str())),
        (Verb::Kill | Verb::Events | Verb::Update, _) => Ok(()),
    }
}

/// Checks a container id: one path component of letters, digits, `_`, `+`, `-` and `.`, at most 1024 long.
///
/// # Errors
/// [`ErrorKind::InvalidId`], with runc's text.
pub fn check_id(id: &str) -> Result<()> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.bytes().all(word) {
        return Err(Error::new(ErrorKind::InvalidId, "invalid container ID format"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_derived_from_the_facts() {
        let stopped = Facts { init: InitState::Exited, gate: true, frozen: false };
        let alive = Facts { init: InitState::Alive, ..stopped };
        assert_eq!(Status::derive(stopped), Status::Stopped);
        assert_eq!(Status::derive(Facts { init: InitState::BeingCreated, ..stopped }), Status::Creating);
        assert_eq!(Status::derive(alive), Status::Created);
        assert_eq!(Status::derive(Facts { gate: false, ..alive }), Status::Running);
        assert_eq!(Status::derive(Facts { frozen: true, gate: false, ..alive }), Status::Paused);
    }

    #[test]
    fn a_record_keeps_the_names_that_are_on_disk() {
        let written = json!({
            "id": "a", "init_process_pid": 7, "init_process_start": 8, "created": "2026-01-01T00:00:00Z", "bundle": "/b",
            "oci_version": "1.2.0", "owner": 0, "annotations": {}, "own_pids": true, "start_container": true,
            "poststart": false, "poststop": true, "config": {"rootfs": "/b/rootfs", "labels": []}, "cgroup_paths": {},
            "namespace_paths": {}, "cgroup": CgroupRecord::default(),
        });
        let record: Record = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(record.hooks, RecordHooks { start_container: true, poststart: false, poststop: true });
        assert_eq!(serde_json::to_value(&record).unwrap(), written);
        // Written before there was start_container.
        let mut old = written;
        old.as_object_mut().unwrap().remove("start_container");
        let record: Record = serde_json::from_value(old).unwrap();
        assert!(!record.hooks.start_container && record.hooks.poststop);
    }

    #[test]
    fn ids_are_one_path_component() {
        for good in ["a", "A-b_c+d.e", "1", "..."] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert_eq!(check_id(bad).unwrap_err().kind(), ErrorKind::InvalidId, "{bad:?}");
        }
    }

    #[test]
    fn refusals_have_the_texts_that_callers_match() {
        let text = |verb, status| allow(verb, status, "x").unwrap_err().to_string();
        assert_eq!(text(Verb::Start, Status::Running), "cannot start an already running container");
        assert_eq!(text(Verb::Start, Status::Stopped), "cannot start a container that has stopped");
        assert_eq!(text(Verb::Kill, Status::Stopped), "container not running");
        assert_eq!(text(Verb::Resume, Status::Running), "container not paused");
        assert_eq!(text(Verb::Pause, Status::Stopped), "container not running");
        assert_eq!(text(Verb::Pause, Status::Paused), "container not running: it is paused already");
        assert_eq!(text(Verb::Delete, Status::Running), "cannot delete container x that is not stopped: running");
        assert_eq!(text(Verb::Events, Status::Stopped), "container with id x is not running");
        assert!(text(Verb::Exec { ignore_paused: false }, Status::Paused).contains("--ignore-paused"));
        assert!(allow(Verb::Exec { ignore_paused: true }, Status::Paused, "x").is_ok());
        assert_eq!(text(Verb::Exec { ignore_paused: true }, Status::Stopped), "cannot exec in a stopped container");
    }
}
