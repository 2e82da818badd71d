//! Statistics, in the JSON shape of runc's `events --stats`: the object under `data`.
//!
//! A controller that is not there leaves its part empty; numbers that are zero are left out where runc leaves them out.

mod legacy;
mod parse;
mod unified;

use std::collections::BTreeMap;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::Serialize;

use super::dir::Dir;
use crate::error::{Context, Result};

fn zero(number: &u64) -> bool {
    *number == 0
}

fn default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Everything that is known of a container's consumption.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: Cpu,
    /// CPUs and memory nodes (v1).
    pub cpuset: CpuSet,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages, by page size (`2MB`).
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Filled in by who knows the container's resctrl group.
    pub intel_rdt: IntelRdt,
    /// Always null, as runc prints it.
    pub network_interfaces: Option<Vec<()>>,
    /// RDMA devices. runc prints none of it.
    #[serde(skip)]
    pub rdma: Rdma,
    /// All numbers are cgroup2's: there is no v1 hierarchy.
    #[serde(skip)]
    pub unified: bool,
}

/// What is used of RDMA devices, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// Now.
    pub current: BTreeMap<String, RdmaEntry>,
    /// At most; 2^32-1 without a limit.
    pub limit: BTreeMap<String, RdmaEntry>,
}

/// Numbers of one RDMA device (Documentation/admin-guide/cgroup-v2.rst, RDMA).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Handles.
    pub hca_handles: u32,
    /// Objects.
    pub hca_objects: u32,
}

/// See [`Stats::intel_rdt`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IntelRdt {}

/// CPU time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Time used.
    #[serde(skip_serializing_if = "default")]
    pub usage: CpuUsage,
    /// Time denied.
    #[serde(skip_serializing_if = "default")]
    pub throttling: Throttling,
    /// Time stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// All of it.
    #[serde(skip_serializing_if = "zero")]
    pub total: u64,
    /// By CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// By CPU in kernel mode (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// By CPU in user mode (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In kernel mode.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// What the quota has denied.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods with something to run.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// Periods in which the quota ran out.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Nanoseconds.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
    /// Periods that took from what earlier ones had left (cgroup2, Linux 5.18). runc prints no bursts.
    #[serde(skip)]
    pub bursts: u64,
    /// Nanoseconds that were taken so.
    #[serde(skip)]
    pub burst_time: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some task waited.
    #[serde(skip_serializing_if = "default")]
    pub some: PressureLine,
    /// All tasks waited.
    #[serde(skip_serializing_if = "default")]
    pub full: PressureLine,
}

/// Percentages over 10, 60 and 300 seconds, and microseconds in all.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names of the file's own keys")]
pub struct PressureLine {
    #[serde(serialize_with = "short_float")]
    pub avg10: f64,
    #[serde(serialize_with = "short_float")]
    pub avg60: f64,
    #[serde(serialize_with = "short_float")]
    pub avg300: f64,
    pub total: u64,
}

/// A whole number without a fraction, as Go prints floats.
fn short_float<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// The files of the v1 cpuset controller, under their own names.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names of the controller's own files")]
pub struct CpuSet {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Page cache.
    #[serde(skip_serializing_if = "zero")]
    pub cache: u64,
    /// Memory without swap.
    #[serde(skip_serializing_if = "default")]
    pub usage: MemoryEntry,
    /// Memory and swap together, as v1 counts.
    #[serde(skip_serializing_if = "default")]
    pub swap: MemoryEntry,
    /// Kernel memory (v1).
    #[serde(skip_serializing_if = "default")]
    pub kernel: MemoryEntry,
    /// TCP buffers (v1).
    #[serde(rename = "kernelTCP", skip_serializing_if = "default")]
    pub kernel_tcp: MemoryEntry,
    /// memory.stat as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Swap alone, as cgroup2 counts. runc prints the sum only.
    #[serde(skip)]
    pub swap_alone: MemoryEntry,
    /// memory.events as it is (cgroup2).
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
    /// memory.oom_control as it is (v1).
    #[serde(skip)]
    pub oom_control: BTreeMap<String, u64>,
    /// Time stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One kind of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// The limit; 2^64-1 without one on v2, the highest multiple of a page on v1.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// Most ever in use.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was reached (v1).
    pub failcnt: u64,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pids {
    /// Now.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// At most; 0 without a limit.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Block devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Requests that wait (v1).
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    /// Nanoseconds of service (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Nanoseconds of waiting (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Requests merged (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Milliseconds of disk time (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Time stalled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One number of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    /// Major number.
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    /// Minor number.
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    /// `Read`, `Write`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The number.
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Huge pages, in bytes: reserved ones where the kernel counts those (Linux 5.7), as runc prints them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// Most ever in use (v1).
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// How often the limit was reached.
    pub failcnt: u64,
    /// The limit; 2^64-1 without one. runc does not print it.
    #[serde(skip)]
    pub limit: u64,
    /// Pages that were touched, which containerd counts.
    #[serde(skip)]
    pub touched: TouchedPages,
}

/// Huge pages that processes have touched, in bytes, as for [`Hugetlb`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the same as in Hugetlb")]
pub struct TouchedPages {
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
    pub limit: u64,
}

/// Reads what the directories of `paths`, by controller, have to say. On a hybrid host v1's numbers count, and cgroup2's where a
/// controller is there.
pub fn read(paths: &BTreeMap<String, PathBuf>) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(path) = paths.get("") {
        stats.unified = paths.len() == 1;
        if let Some(dir) = open(path)? {
            unified::read(&dir, stats.unified, &mut stats)?;
        }
    }
    for (controller, path) in paths.iter().filter(|(controller, _)| !controller.is_empty()) {
        if let Some(dir) = open(path)? {
            legacy::read(controller, &dir, &mut stats)?;
        }
    }
    Ok(stats)
}

/// `None` for a cgroup that is gone: its container has ended.
fn open(path: &std::path::Path) -> Result<Option<Dir>> {
    match Dir::open(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.errno() == Errno::ENOENT => Ok(None),
        Err(error) => Err(error).context("cannot read statistics"),
    }
}
