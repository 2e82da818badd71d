//! Statistics of v1's controllers.

use super::parse::{number, rdma, table, text, unreadable};
use super::{BlkioEntry, Hugetlb, MemoryEntry, Stats, TouchedPages};
use crate::cgroup::dir::Dir;
use crate::error::Result;

/// Clock ticks of cpuacct.stat in a second: USER_HZ, fixed at 100 on every architecture that Linux runs containers on.
const TICKS: u64 = 100;

/// Fills the part of `stats` for `controller`.
pub(super) fn read(controller: &str, dir: &Dir, stats: &mut Stats) -> Result<()> {
    match controller {
        "cpu" => cpu(dir, stats),
        "cpuacct" => cpuacct(dir, stats),
        "cpuset" => cpuset(dir, stats),
        "memory" => memory(dir, stats),
        "pids" => {
            stats.pids.current = number(dir, "pids.current")?.unwrap_or(0);
            stats.pids.limit = number(dir, "pids.max")?.filter(|&max| max != u64::MAX).unwrap_or(0);
            Ok(())
        }
        "blkio" => blkio(dir, stats),
        "hugetlb" => hugetlb(dir, stats),
        "rdma" => rdma(dir, &mut stats.rdma),
        _ => Ok(()),
    }
}

fn cpu(dir: &Dir, stats: &mut Stats) -> Result<()> {
    let table = table(dir, "cpu.stat")?.unwrap_or_default();
    let get = |key: &str| table.get(key).copied().unwrap_or(0);
    stats.cpu.throttling.periods = get("nr_periods");
    stats.cpu.throttling.throttled_periods = get("nr_throttled");
    stats.cpu.throttling.throttled_time = get("throttled_time");
    Ok(())
}

fn cpuacct(dir: &Dir, stats: &mut Stats) -> Result<()> {
    let usage = &mut stats.cpu.usage;
    if let Some(table) = table(dir, "cpuacct.stat")? {
        let nanoseconds = |key: &str| table.get(key).map_or(0, |ticks| ticks * (1_000_000_000 / TICKS));
        usage.user = nanoseconds("user");
        usage.kernel = nanoseconds("system");
    }
    usage.total = number(dir, "cpuacct.usage")?.unwrap_or(0);
    if let Some(text) = text(dir, "cpuacct.usage_percpu")? {
        let numbers = text.split_whitespace().map(str::parse).collect::<Result<_, _>>();
        usage.percpu = numbers.map_err(|_| unreadable(dir, "cpuacct.usage_percpu", &text))?;
    }
    // The file has a line `cpu user system`, then a line for each CPU.
    for line in text(dir, "cpuacct.usage_all")?.unwrap_or_default().lines().skip(1) {
        let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        if let [_, user, kernel, ..] = fields[..] {
            usage.percpu_user.push(user);
            usage.percpu_kernel.push(kernel);
        }
    }
    Ok(())
}

/// Parses a list of numbers such as `0-2,7`.
fn list(dir: &Dir, file: &str) -> Result<Vec<u16>> {
    let Some(text) = text(dir, file)? else { return Ok(Vec::new()) };
    let mut numbers = Vec::new();
    for range in text.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => numbers.extend(first..=last),
            _ => return Err(unreadable(dir, file, &text)),
        }
    }
    Ok(numbers)
}

fn cpuset(dir: &Dir, stats: &mut Stats) -> Result<()> {
    let get = |file: &str| number(dir, file).map(|number| number.unwrap_or(0));
    let set = &mut stats.cpuset;
    set.cpus = list(dir, "cpuset.cpus")?;
    set.mems = list(dir, "cpuset.mems")?;
    set.cpu_exclusive = get("cpuset.cpu_exclusive")?;
    set.mem_hardwall = get("cpuset.mem_hardwall")?;
    set.mem_exclusive = get("cpuset.mem_exclusive")?;
    set.memory_migrate = get("cpuset.memory_migrate")?;
    set.memory_spread_page = get("cpuset.memory_spread_page")?;
    set.memory_spread_slab = get("cpuset.memory_spread_slab")?;
    set.memory_pressure = get("cpuset.memory_pressure")?;
    set.sched_load_balance = get("cpuset.sched_load_balance")?;
    let level = text(dir, "cpuset.sched_relax_domain_level")?;
    set.sched_relax_domain_level = level.and_then(|level| level.trim().parse().ok()).unwrap_or(0);
    Ok(())
}

fn memory(dir: &Dir, stats: &mut Stats) -> Result<()> {
    let Some(raw) = table(dir, "memory.stat")? else { return Ok(()) };
    let entry = |prefix: &str| -> Result<MemoryEntry> {
        let get = |name: &str| number(dir, &format!("{prefix}.{name}"));
        // Without swap accounting, or kernel memory limits, the kernel has no such files, and the entry stays empty.
        let Some(usage) = get("usage_in_bytes")? else { return Ok(MemoryEntry::default()) };
        Ok(MemoryEntry {
            usage,
            max: get("max_usage_in_bytes")?.unwrap_or(0),
            failcnt: get("failcnt")?.unwrap_or(0),
            limit: get("limit_in_bytes")?.unwrap_or(0),
        })
    };
    stats.memory.cache = raw.get("cache").copied().unwrap_or(0);
    stats.memory.raw = raw;
    stats.memory.oom_control = table(dir, "memory.oom_control")?.unwrap_or_default();
    stats.memory.usage = entry("memory")?;
    stats.memory.swap = entry("memory.memsw")?;
    stats.memory.kernel = entry("memory.kmem")?;
    stats.memory.kernel_tcp = entry("memory.kmem.tcp")?;
    Ok(())
}

/// Parses lines of `MAJOR:MINOR [OP] NUMBER`; the total at the end belongs to no device.
fn entries(dir: &Dir, file: &str) -> Result<Vec<BlkioEntry>> {
    let mut list = Vec::new();
    for line in text(dir, file)?.unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split([' ', ':']).collect();
        let (major, minor, op, value) = match fields[..] {
            ["Total", _] => continue,
            [major, minor, op, value] => (major, minor, op, value),
            [major, minor, value] => (major, minor, "", value),
            _ => continue,
        };
        match (major.parse(), minor.parse(), value.parse()) {
            (Ok(major), Ok(minor), Ok(value)) => list.push(BlkioEntry { major, minor, op: op.to_owned(), value }),
            _ => return Err(unreadable(dir, file, line)),
        }
    }
    Ok(list)
}

fn blkio(dir: &Dir, stats: &mut Stats) -> Result<()> {
    // The scheduler's own counters have precedence: CFQ's until Linux 5.0, BFQ's where it is used. Else the throttle's,
    // which every kernel has.
    let blkio = &mut stats.blkio;
    for prefix in ["blkio.", "blkio.bfq."] {
        let get = |name: &str| entries(dir, &format!("{prefix}{name}_recursive"));
        blkio.io_serviced_recursive = get("io_serviced")?;
        if blkio.io_serviced_recursive.is_empty() {
            continue;
        }
        blkio.io_service_bytes_recursive = get("io_service_bytes")?;
        blkio.io_queued_recursive = get("io_queued")?;
        blkio.io_service_time_recursive = get("io_service_time")?;
        blkio.io_wait_time_recursive = get("io_wait_time")?;
        blkio.io_merged_recursive = get("io_merged")?;
        blkio.io_time_recursive = get("time")?;
        blkio.sectors_recursive = get("sectors")?;
        return Ok(());
    }
    let throttle = |name: &str| -> Result<Vec<BlkioEntry>> {
        // Newer kernels have a file that includes descendants.
        let recursive = entries(dir, &format!("blkio.throttle.{name}_recursive"))?;
        if recursive.is_empty() { entries(dir, &format!("blkio.throttle.{name}")) } else { Ok(recursive) }
    };
    blkio.io_service_bytes_recursive = throttle("io_service_bytes")?;
    blkio.io_serviced_recursive = throttle("io_serviced")?;
    Ok(())
}

fn hugetlb(dir: &Dir, stats: &mut Stats) -> Result<()> {
    for size in libcgroups::stats::supported_page_sizes().unwrap_or_default() {
        let pages = |middle: &str| -> Result<Option<TouchedPages>> {
            let get = |name: &str| number(dir, &format!("hugetlb.{size}.{middle}{name}"));
            let Some(usage) = get("usage_in_bytes")? else { return Ok(None) };
            Ok(Some(TouchedPages {
                usage,
                max: get("max_usage_in_bytes")?.unwrap_or(0),
                failcnt: get("failcnt")?.unwrap_or(0),
                limit: get("limit_in_bytes")?.unwrap_or(u64::MAX),
            }))
        };
        let Some(touched) = pages("")? else { continue };
        let TouchedPages { usage, max, failcnt, limit } = pages("rsvd.")?.unwrap_or(touched);
        stats.hugetlb.insert(size, Hugetlb { usage, max, failcnt, limit, touched });
    }
    Ok(())
}
