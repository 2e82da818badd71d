//! Statistics, in the JSON format of runc's `events --stats`: the object under `data`.
//!
//! The part of a missing controller is empty; zeros are omitted where runc omits them.

mod parse;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::io::Errno;
use serde::Serialize;

use super::dir::Dir;
use crate::error::{Context, Result};

fn zero(number: &u64) -> bool {
    *number == 0
}

fn default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The resource usage of a container.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Stats {
    /// CPU usage, throttling and stalls.
    pub cpu: Cpu,
    /// CPUs and memory nodes (v1).
    pub cpuset: CpuSet,
    /// Memory usage and limits.
    pub memory: Memory,
    /// Number and limit of processes.
    pub pids: Pids,
    /// Usage of block devices.
    pub blkio: Blkio,
    /// Huge pages, by page size (`2MB`).
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// The resctrl statistics, which the caller with the resctrl group fills in.
    pub intel_rdt: IntelRdt,
    /// Always null, as runc prints it.
    pub network_interfaces: Option<Vec<()>>,
    /// Usage of RDMA devices. runc prints none of it.
    #[serde(skip)]
    pub rdma: Rdma,
    /// A flag for hosts without v1 hierarchies: all numbers are cgroup2's.
    #[serde(skip)]
    pub is_v2: bool,
}

/// Usage of RDMA devices, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rdma {
    /// The resources in use.
    pub current: BTreeMap<String, RdmaEntry>,
    /// The limit; 2^32-1 without one.
    pub limit: BTreeMap<String, RdmaEntry>,
}

/// Numbers of one RDMA device (Documentation/admin-guide/cgroup-v2.rst, RDMA).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// Number of HCA handles.
    pub hca_handles: u32,
    /// Number of HCA objects.
    pub hca_objects: u32,
}

/// The type of [`Stats::intel_rdt`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IntelRdt {}

/// Statistics of the CPU controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// Used CPU time.
    #[serde(skip_serializing_if = "default")]
    pub usage: CpuUsage,
    /// Throttling by the quota.
    #[serde(skip_serializing_if = "default")]
    pub throttling: Throttling,
    /// Pressure stall information of the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Times in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CpuUsage {
    /// Total time.
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
    /// Time in kernel mode.
    pub kernel: u64,
    /// Time in user mode.
    pub user: u64,
}

/// Throttling by the quota.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// The number of periods with runnable tasks.
    #[serde(skip_serializing_if = "zero")]
    pub periods: u64,
    /// The number of periods in which the quota was used up.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_periods: u64,
    /// Throttled time in nanoseconds.
    #[serde(skip_serializing_if = "zero")]
    pub throttled_time: u64,
    /// The number of periods that used the unused quota of earlier periods (cgroup2, Linux 5.18). runc prints no
    /// bursts.
    #[serde(skip)]
    pub bursts: u64,
    /// Burst time in nanoseconds.
    #[serde(skip)]
    pub burst_time: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Stalls of some tasks.
    #[serde(skip_serializing_if = "default")]
    pub some: PressureLine,
    /// Stalls of all tasks at once.
    #[serde(skip_serializing_if = "default")]
    pub full: PressureLine,
}

/// Percentages over 10, 60 and 300 seconds, and the total in microseconds.
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
    match format!("{value:.0}").parse() {
        Ok(whole) if value.fract() == 0.0 && value.abs() < 1e15 => serializer.serialize_i64(whole),
        _ => serializer.serialize_f64(*value),
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

/// Memory usage in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes of page cache.
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
    /// The content of memory.stat.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Swap alone, as cgroup2 counts it. runc prints the sum only.
    #[serde(skip)]
    pub swap_alone: MemoryEntry,
    /// The content of memory.events (cgroup2).
    #[serde(skip)]
    pub events: BTreeMap<String, u64>,
    /// The content of memory.oom_control (v1).
    #[serde(skip)]
    pub oom_control: BTreeMap<String, u64>,
    /// Pressure stall information of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// Usage and limit of one kind of memory.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct MemoryEntry {
    /// The limit; 2^64-1 without one on v2, the highest multiple of a page on v1.
    pub limit: u64,
    /// Bytes in use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The maximum usage.
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// The number of times that the limit was reached (v1).
    pub failcnt: u64,
}

/// Number of processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pids {
    /// The number in use.
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    /// The limit; 0 without one.
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// Usage of block devices.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Transferred bytes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Number of requests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Number of queued requests (v1).
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    /// Service time in nanoseconds (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Wait time in nanoseconds (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Number of merged requests (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Disk time in milliseconds (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Number of sectors (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Pressure stall information of block devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// One value of one device.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BlkioEntry {
    /// The major device number.
    #[serde(skip_serializing_if = "zero")]
    pub major: u64,
    /// The minor device number.
    #[serde(skip_serializing_if = "zero")]
    pub minor: u64,
    /// The operation: `Read`, `Write`, ...
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The value for this operation.
    #[serde(skip_serializing_if = "zero")]
    pub value: u64,
}

/// Usage of huge pages in bytes: reserved ones if the kernel counts those (Linux 5.7), as runc prints them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Hugetlb {
    /// Bytes in use.
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    /// The maximum usage (v1).
    #[serde(skip_serializing_if = "zero")]
    pub max: u64,
    /// The number of times that the limit was reached.
    pub failcnt: u64,
    /// The limit; 2^64-1 without one. runc does not print it.
    #[serde(skip)]
    pub limit: u64,
    /// Usage of touched pages, which containerd counts.
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

/// Reads the statistics of the directories in `paths`, by controller. On a hybrid host v1's values have precedence, and
/// cgroup2's are used for its own controllers.
///
/// # Errors
/// A file of a controller cannot be read or parsed.
pub fn read(paths: &BTreeMap<String, PathBuf>) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(path) = paths.get("") {
        stats.is_v2 = paths.len() == 1;
        if let Some(dir) = open(path)? {
            v2::read(&dir, stats.is_v2, &mut stats)?;
        }
    }
    for (controller, path) in paths.iter().filter(|(controller, _)| !controller.is_empty()) {
        if let Some(dir) = open(path)? {
            v1::read(controller, &dir, &mut stats)?;
        }
    }
    Ok(stats)
}

/// Opens a cgroup; `None` if it was removed: its container has exited.
fn open(path: &std::path::Path) -> Result<Option<Dir>> {
    match Dir::open(path) {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.errno() == Errno::NOENT => Ok(None),
        Err(error) => Err(error).context("cannot read statistics"),
    }
}
