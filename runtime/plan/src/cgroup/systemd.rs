//! A scope of systemd: its name, its slice, and its properties (org.freedesktop.systemd1(5)).

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, Spec};
use serde::Serialize;

use super::devices::{DeviceKind, DeviceRule, EVERYTHING, Mode, simplify};
use super::variant::Value;
use super::{CgroupLayout, Findings, Host, v2};
use crate::annotations::{SUBGROUP, SYSTEMD_PROPERTY};

/// Properties by which a unit starts, stops or reloads other units of the host (systemd.unit(5)), takes in processes of
/// the host, or leaves the slice that linux.cgroupsPath names. Annotations may come from the creator of a pod
/// (CVE-2024-3154), so these are refused there, as is each property whose name ends in `Action`, which can power the
/// machine off.
const REACHES_OUT: &[&str] = &[
    "BindsTo",
    "BoundBy",
    "ConflictedBy",
    "Conflicts",
    "OnFailure",
    "OnFailureOf",
    "OnSuccess",
    "OnSuccessOf",
    "PIDFDs",
    "PIDs",
    "PropagatesReloadTo",
    "PropagatesStopTo",
    "RebootArgument",
    "ReloadPropagatedFrom",
    "RequiredBy",
    "Requires",
    "RequiresOverridable",
    "Requisite",
    "RequisiteOf",
    "Slice",
    "StopPropagatedFrom",
    "TriggeredBy",
    "Triggers",
    "UpheldBy",
    "Upholds",
    "WantedBy",
    "Wants",
];

/// The systemd version that first knew cgroup v2's cpuset; older ones are not spoken to in detail.
const CPUSET: u32 = 244;
/// `CPUWeight=idle`.
const CPU_IDLE: u32 = 252;
/// `OOMPolicy` of a scope.
const OOM_POLICY: u32 = 253;

/// A property of a unit.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Property {
    /// A name of systemd.resource-control(5), such as `TasksMax`.
    pub name: String,
    /// The value in the type that D-Bus expects.
    pub value: Value,
    /// The first systemd version that has it; 0 when no version needs to be asked for. An older one goes without it:
    /// the same limit is also written to the cgroup's file.
    pub since: u32,
}

impl Property {
    fn new(name: &str, value: Value) -> Property {
        Property { name: name.to_owned(), value, since: 0 }
    }

    fn since(name: &str, value: Value, since: u32) -> Property {
        Property { name: name.to_owned(), value, since }
    }
}

/// A transient scope to start.
#[derive(Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct UnitPlan {
    /// Its name, ending in `.scope`.
    pub unit: String,
    /// The slice that it is in.
    pub slice: String,
    /// The caller's own systemd serves it (`systemd --user`), not the system's.
    pub user: bool,
    /// A cgroup below the scope's own, for the container; empty for none.
    pub subgroup: String,
    /// The hierarchies of the host, which decide what the limits are called.
    pub layout: CgroupLayout,
    /// The unit's properties but for PIDs, devices and limits.
    pub properties: Vec<Property>,
}

impl UnitPlan {
    /// The container's cgroup below that of the systemd that serves it: a slice `a-b.slice` is one in `a.slice`, and
    /// `-.slice` is the top (systemd.slice(5)).
    pub fn cgroup_path(&self) -> PathBuf {
        let stem = self.slice.strip_suffix(".slice").unwrap_or(&self.slice);
        let mut place = PathBuf::new();
        if stem != "-" {
            let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
            place.extend(ends.map(|end| format!("{}.slice", &stem[..end])));
        }
        place.push(&self.unit);
        if !self.subgroup.is_empty() {
            place.push(&self.subgroup);
        }
        place
    }
}

/// Reads `slice:prefix:name` and the annotations.
pub(super) fn unit(
    spec: &Spec,
    id: &str,
    asked: Option<&Path>,
    host: &Host,
    findings: &mut Findings,
) -> Option<UnitPlan> {
    const PATH: &str = "linux.cgroupsPath";
    let user = host.euid != 0 || host.in_user_namespace;
    let text = asked.map_or_else(|| format!(":brig:{id}"), |path| path.to_string_lossy().into_owned());
    let parts: Vec<&str> = text.split(':').collect();
    let [slice, prefix, name] = parts[..] else {
        findings.deny(
            PATH,
            format!(
                "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {text:?} instead"
            ),
            "use that format, or the cgroupfs manager",
        );
        return None;
    };
    let slice = match slice {
        "" if user => "user.slice",
        "" => "system.slice",
        slice => slice,
    };
    let known = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c));
    let stem = slice.strip_suffix(".slice").unwrap_or_default();
    let nested = stem == "-" || !stem.split('-').any(str::is_empty);
    let before = findings.violations.len();
    if user && host.cgroup.has_v1() {
        findings.deny(
            PATH,
            "the systemd cgroup manager serves only root on a host with cgroup v1, which delegates nothing to users",
            "use the cgroupfs manager, or boot with systemd.unified_cgroup_hierarchy=1",
        );
    }
    if stem.is_empty() || !nested || !known(slice) {
        findings.deny(PATH, format!("invalid slice name: {slice}"), "a slice is called like machine-web.slice");
    }
    let unit = format!("{prefix}-{name}.scope");
    if !known(&unit) || unit.len() > 255 {
        findings.deny(PATH, format!("invalid unit name: {unit}"), "letters, digits and :-_.\\@ are allowed");
    }
    if name.ends_with(".slice") {
        findings.deny(PATH, format!("{name} is a slice, which holds no processes"), "name a scope: drop .slice");
    }
    let mut properties = vec![
        Property::new("Description", Value::text(format!("brig container {id}"))),
        Property::new("Slice", Value::text(slice)),
        Property::new("Delegate", Value::Bool(true)),
        Property::new("DefaultDependencies", Value::Bool(false)),
    ];
    let block = if host.cgroup.has_v1() { "BlockIOAccounting" } else { "IOAccounting" };
    for accounting in ["MemoryAccounting", "CPUAccounting", block, "TasksAccounting"] {
        properties.push(Property::new(accounting, Value::Bool(true)));
    }
    annotations(spec, &mut properties, findings);
    let subgroup = subgroup(spec, findings);
    (findings.violations.len() == before).then(|| UnitPlan {
        unit,
        slice: slice.to_owned(),
        user,
        subgroup,
        layout: host.cgroup,
        properties,
    })
}

fn subgroup(spec: &Spec, findings: &mut Findings) -> String {
    let value = SUBGROUP.get(spec).unwrap_or_default().to_owned();
    if value == "." || value == ".." || value.contains('/') {
        findings.deny(format!("annotations[{:?}]", SUBGROUP.name()), format!("{value:?} is no name of a cgroup"), "");
    }
    value
}

/// Every `org.systemd.property.NAME`, in the order of the names.
fn annotations(spec: &Spec, properties: &mut Vec<Property>, findings: &mut Findings) {
    for (name, text) in SYSTEMD_PROPERTY.all_of(spec) {
        let path = format!("annotations[\"{}{name}\"]", SYSTEMD_PROPERTY.name());
        if name.len() < 3 || !name.chars().all(|c| c.is_ascii_alphabetic()) {
            findings.deny(path, format!("{name:?} is no property name"), "it consists of letters only");
            continue;
        }
        if name.ends_with("Action") || REACHES_OUT.contains(&name) {
            let problem = format!("the property {name} reaches beyond the container's own unit");
            findings.deny(
                path,
                problem,
                "give the property to a unit of the host's own, and order the container After it",
            );
            continue;
        }
        let seconds = name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
        let value = Value::parse(text).and_then(|value| match seconds {
            Some(_) => value.seconds_to_microseconds(),
            None => Ok(value),
        });
        match value {
            Err(reason) => findings.deny(path, reason, "write it as busctl and GVariant do: 'text', true, uint64 5"),
            Ok(value) => {
                let name = seconds.map_or_else(|| name.to_owned(), |stem| format!("{stem}USec"));
                // The annotation has the last word over what the manager sets by itself.
                properties.retain(|property| property.name != name);
                properties.push(Property { name, value, since: 0 });
            }
        }
    }
}

fn limit(value: i64) -> Value {
    Value::U64(u64::try_from(value).unwrap_or(u64::MAX))
}

/// The limits that systemd knows, as properties, so that it keeps them when it writes the cgroup anew.
///
/// A value that systemd cannot hold is left out; the file has it all the same.
pub fn limits(resources: &LinuxResources, layout: CgroupLayout) -> Vec<Property> {
    if layout.has_v1() { v1_limits(resources) } else { v2_limits(resources) }
}

fn v2_limits(resources: &LinuxResources) -> Vec<Property> {
    let mut list = Vec::new();
    if let Some(memory) = resources.memory() {
        let asked = |value: Option<i64>| value.filter(|&value| value != 0);
        list.extend(asked(memory.limit()).map(|value| Property::new("MemoryMax", limit(value))));
        list.extend(asked(memory.reservation()).map(|value| Property::new("MemoryLow", limit(value))));
        list.extend(v2::swap_max(memory).map(|value| Property::new("MemorySwapMax", limit(value))));
    }
    if let Some(cpu) = resources.cpu() {
        let idle = cpu.idle() == Some(1);
        if idle {
            list.push(Property::since("CPUWeight", Value::U64(0), CPU_IDLE));
        } else if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
            list.push(Property::new("CPUWeight", Value::U64(v2::weight(shares))));
        }
        quota_and_cpuset(cpu, &mut list);
    }
    tasks(resources, &mut list);
    for (file, text) in resources.unified().iter().flatten() {
        raw(file, text.trim(), &mut list);
    }
    list
}

/// With the names that systemd has for v1's files. The cpuset of v1 is none of systemd's (systemd.resource-control(5)):
/// its properties only show what the file holds.
fn v1_limits(resources: &LinuxResources) -> Vec<Property> {
    let mut list = Vec::new();
    if let Some(bytes) = resources.memory().as_ref().and_then(LinuxMemory::limit).filter(|&bytes| bytes != 0) {
        list.push(Property::new("MemoryLimit", limit(bytes)));
    }
    if let Some(cpu) = resources.cpu() {
        // An idle group has no shares (kernel/sched/core.c, cpu_idle_write_s64).
        if let Some(shares) = cpu.shares().filter(|&shares| shares != 0 && cpu.idle() != Some(1)) {
            list.push(Property::new("CPUShares", Value::U64(shares)));
        }
        quota_and_cpuset(cpu, &mut list);
    }
    if let Some(weight) = resources.block_io().as_ref().and_then(LinuxBlockIo::weight).filter(|&weight| weight != 0) {
        list.push(Property::new("BlockIOWeight", Value::U64(weight.into())));
    }
    tasks(resources, &mut list);
    list
}

fn quota_and_cpuset(cpu: &LinuxCpu, list: &mut Vec<Property>) {
    quota(cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0), list);
    for (name, text) in [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())] {
        if let Some(mask) = text.as_deref().filter(|text| !text.is_empty()).and_then(mask) {
            list.push(Property::since(name, mask, CPUSET));
        }
    }
}

fn tasks(resources: &LinuxResources, list: &mut Vec<Property>) {
    if let Some(pids) = resources.pids() {
        // TasksMax=0 is refused.
        let tasks = if pids.limit() == 0 { 1 } else { pids.limit() };
        list.push(Property::new("TasksMax", limit(tasks)));
    }
}

fn quota(quota: i64, period: u64, list: &mut Vec<Property>) {
    if period != 0 {
        list.push(Property::new("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    if quota == 0 && period == 0 {
        return;
    }
    let per_second = u64::try_from(quota).ok().filter(|&quota| quota != 0).map(|quota| {
        let period = if period == 0 { 100_000 } else { period };
        // systemd counts in whole percents of a CPU: 10 ms a second. Rounded up, so that nothing becomes zero.
        (quota.saturating_mul(1_000_000) / period).div_ceil(10_000).saturating_mul(10_000)
    });
    list.push(Property::new("CPUQuotaPerSecUSec", Value::U64(per_second.unwrap_or(u64::MAX))));
}

/// `0-3,5` as the bit mask that systemd takes: bit N of byte N/8. `None` for what it cannot hold.
fn mask(list: &str) -> Option<Value> {
    let mut bytes = Vec::new();
    for range in list.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > 8191 {
            return None;
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0u8);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!bytes.is_empty()).then(|| Value::Array("y".into(), bytes.into_iter().map(Value::Byte).collect()))
}

/// The properties behind files of `linux.resources.unified`.
fn raw(file: &str, text: &str, list: &mut Vec<Property>) {
    let number = || if text == "max" { Some(u64::MAX) } else { text.parse().ok() };
    let name = match file {
        "memory.max" => "MemoryMax",
        "memory.high" => "MemoryHigh",
        "memory.low" => "MemoryLow",
        "memory.min" => "MemoryMin",
        "memory.swap.max" => "MemorySwapMax",
        "pids.max" => "TasksMax",
        "cpu.weight" => "CPUWeight",
        "cpu.idle" if text == "1" => {
            list.push(Property::since("CPUWeight", Value::U64(0), CPU_IDLE));
            return;
        }
        "cpu.max" => {
            let mut fields = text.split_whitespace();
            let limit = fields.next().and_then(|field| if field == "max" { Some(0) } else { field.parse().ok() });
            let period = fields.next().map_or(Some(100_000), |field| field.parse().ok());
            if let (Some(limit), Some(period)) = (limit, period) {
                quota(limit, period, list);
            }
            return;
        }
        "cpuset.cpus" | "cpuset.mems" => {
            let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            list.extend(mask(text).map(|mask| Property::since(name, mask, CPUSET)));
            return;
        }
        "memory.oom.group" => {
            let policy = if text == "1" { "kill" } else { "continue" };
            list.push(Property::since("OOMPolicy", Value::text(policy), OOM_POLICY));
            return;
        }
        _ => return,
    };
    if let Some(number) = number() {
        let number = if name == "TasksMax" { number.max(1) } else { number };
        list.push(Property::new(name, Value::U64(number)));
    }
}

/// DevicePolicy and DeviceAllow. The program that is attached beside systemd's own has the exact rules; systemd's must
/// never be narrower, since a device has to pass both.
///
/// On v1 a unit without a list is in no cgroup of the devices controller as far as systemd knows. Once another unit of
/// its slice has a list, systemd moves every process of the slice into the slice's devices cgroup, and out of the
/// container's with its rules (systemd's src/core/cgroup.c, unit_update_cgroup). A list that allows all keeps it there.
pub fn device_properties(rules: &[DeviceRule], layout: CgroupLayout) -> Vec<Property> {
    let empty = Value::Array("(ss)".into(), Vec::new());
    let clear = Property::new("DeviceAllow", empty);
    let exceptions = match simplify(rules) {
        Ok(policy) if policy.mode == Mode::DenyUnlisted => policy.exceptions,
        _ if layout.has_v1() => {
            let all = |kind| DeviceRule { allow: true, kind, major: None, minor: None, access: EVERYTHING };
            [DeviceKind::Char, DeviceKind::Block].map(all).to_vec()
        }
        _ => return vec![clear, Property::new("DevicePolicy", Value::text("auto"))],
    };
    // systemd keeps one entry for a path, the last one: what several rules give it is one set.
    let mut entries: Vec<(String, DeviceRule)> = Vec::new();
    for rule in &exceptions {
        let kind = if rule.kind == DeviceKind::Block { "block" } else { "char" };
        let path = match (rule.major, rule.minor) {
            (None, _) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
        };
        match entries.iter_mut().find(|(known, _)| *known == path) {
            Some((_, entry)) => entry.access |= rule.access,
            None => entries.push((path, *rule)),
        }
    }
    let pair =
        |(path, rule): (String, DeviceRule)| Value::Struct(vec![Value::Str(path), Value::Str(rule.access_text())]);
    vec![
        clear,
        Property::new("DevicePolicy", Value::text("strict")),
        Property::new("DeviceAllow", Value::Array("(ss)".into(), entries.into_iter().map(pair).collect())),
    ]
}

#[cfg(test)]
mod tests;
