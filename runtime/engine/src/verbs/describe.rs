//! The description of a plan, for the log of `--debug`.

use serde::Serialize;
use serde_json::Value;

use brig_plan::container::{ContainerPlan, ExecPlan};
use brig_plan::namespaces::NamespaceKind;
use brig_plan::restore::RestorePlan;

/// Logs the plan of a container; see [`log`].
pub(super) fn container(plan: &ContainerPlan) {
    log(plan, || namespaces(plan));
}

/// Logs the plan of a restore; see [`log`].
pub(super) fn restore(plan: &RestorePlan) {
    log(plan, || namespaces(&plan.container));
}

fn namespaces(plan: &ContainerPlan) -> (u64, u64, String) {
    let second =
        plan.init.early_second_stage().map(|flags| format!("; new for the second-stage init: {}", names(flags)));
    let joined = plan.namespaces.joined().fold(0, |flags, (kind, _)| flags | kind.clone_flag());
    (plan.clone_flags, joined, second.unwrap_or_default())
}

/// Logs the plan of an additional process; see [`log`].
pub(super) fn exec(plan: &ExecPlan) {
    log(plan, || (0, plan.join, String::new()));
}

/// Logs a plan: a line for the namespaces, one for each mount, one for the rest. Of the environment and of annotations
/// only the names are logged, because their values may be secrets.
fn log(plan: &impl Serialize, namespaces: impl FnOnce() -> (u64, u64, String)) {
    if !tracing::event_enabled!(tracing::Level::DEBUG) {
        return;
    }
    let (new, joined, second) = namespaces();
    tracing::debug!("plan: new namespaces: {}; joined: {}{second}", names(new), names(joined));
    let mut value = match serde_json::to_value(plan) {
        Ok(value) => value,
        Err(error) => return tracing::debug!("plan: unable to encode it for the log: {error}"),
    };
    prune(&mut value);
    for mounts in ["/init/rootfs/mounts", "/container/init/rootfs/mounts"] {
        if let Some(Value::Array(mounts)) = value.pointer_mut(mounts).map(Value::take) {
            mounts.iter().for_each(|mount| tracing::debug!("plan: mount {mount}"));
        }
    }
    prune(&mut value);
    tracing::debug!("plan: {value}");
}

fn names(flags: u64) -> String {
    let names: Vec<&str> =
        NamespaceKind::ALL.iter().filter(|kind| flags & kind.clone_flag() != 0).map(|kind| kind.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// Removes empty values, and the values of variables and annotations.
fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in &mut *fields {
                match (name.as_str(), &mut *field) {
                    ("env", Value::Array(entries)) => entries.iter_mut().for_each(keep_name),
                    ("annotations", Value::Object(entries)) => {
                        *field = entries.keys().map(|name| Value::from(name.as_str())).collect();
                    }
                    (_, field) => prune(field),
                }
            }
            fields.retain(|_, field| !is_empty(field));
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

fn keep_name(entry: &mut Value) {
    if let Value::String(text) = entry
        && let Some(end) = text.find('=')
    {
        text.truncate(end);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_and_empty_values_are_not_logged() {
        let mut value = json!({
            "process": {"env": ["PATH=/bin", "KEY=secret"], "uid": 0, "terminal": false},
            "hook_state": {"annotations": {"token": "secret"}},
            "start_container": [{"env": ["A=secret"], "timeout": null}],
            "sysctl": [],
        });
        prune(&mut value);
        let wanted = json!({
            "process": {"env": ["PATH", "KEY"], "uid": 0},
            "hook_state": {"annotations": ["token"]},
            "start_container": [{"env": ["A"]}],
        });
        assert_eq!(value, wanted);
    }

    #[test]
    fn namespaces_are_named() {
        assert_eq!(names(0), "none");
        assert_eq!(names(libc::CLONE_NEWPID as u64 | libc::CLONE_NEWNS as u64).split(' ').count(), 2);
    }
}
