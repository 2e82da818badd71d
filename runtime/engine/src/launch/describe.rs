//! The description of a launch, for the log of `--debug`.

use serde_json::Value;

use super::init::Init;
use super::parent::Launch;
use crate::error::Result;
use brig_plan::namespaces::NamespaceKind;

/// Logs the plan: a line for the namespaces, one for each mount, one for the rest. Of the environment and of
/// annotations only the names are logged, because their values may be secrets.
pub(super) fn plan(launch: &Launch) {
    if !tracing::event_enabled!(tracing::Level::DEBUG) {
        return;
    }
    let plan = &launch.plan;
    let second =
        plan.sibling.map(|flags| format!("; new for the second-stage init: {}", names(flags))).unwrap_or_default();
    let joined = plan.join.iter().fold(0, |joined, (_, flags)| joined | flags);
    tracing::debug!("plan: new namespaces: {}; joined: {}{second}", names(launch.namespaces), names(joined));
    let entry =
        if launch.cgroup.is_some() { "starts in the cgroup of v2" } else { "is moved to its cgroup of v2, if any" };
    tracing::debug!("cgroup: init {entry}, and enters {} of v1 by itself", launch.enter.len());
    let mut value = match serde_json::to_value(plan) {
        Ok(value) => value,
        Err(error) => return tracing::debug!("plan: unable to encode it for the log: {error}"),
    };
    prune(&mut value);
    if let Some(Value::Array(mounts)) = value.pointer_mut("/rootfs/mounts").map(Value::take) {
        mounts.iter().for_each(|mount| tracing::debug!("plan: mount {mount}"));
    }
    prune(&mut value);
    tracing::debug!("plan: {value}");
}

/// Logs a step of init, as long as the parent reads. The steps after `ready` run without the parent, and may run under
/// a filter that forbids the message.
pub(super) fn step(init: &mut Init, name: &str) -> Result<()> {
    if init.plan.debug {
        init.channel()?.log(false, format!("init: step {name}"))?;
        init.plan.debug = name != "ready";
    }
    Ok(())
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
