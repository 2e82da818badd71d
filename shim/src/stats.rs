//! A container's statistics in containerd's messages: `io.containerd.cgroups.v2.Metrics` where the host has cgroup2
//! alone, else `io.containerd.cgroups.v1.Metrics` (containerd's cgroups module, cgroup1/stats and cgroup2/stats).
//!
//! Every number that the kernel provides is filled in; a controller that is not enabled leaves its message out. Neither
//! message has the network part filled in: its numbers are those of a network namespace, which CRI reads by itself.

use std::collections::BTreeMap;

use brig_engine::cgroup::stats::{BlkioEntry, MemoryEntry, Pressure, PressureLine, RdmaEntry, Stats};
use brig_engine::error::{Error, Result};
use containerd_shim_protos::cgroups::metrics as v1;
use containerd_shim_protos::cgroups_v2::metrics as v2;
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};

/// Encodes `stats` as containerd's message.
///
/// # Errors
/// The message cannot be encoded.
pub fn metrics(stats: &Stats) -> Result<Any> {
    let (name, bytes) = match stats.is_v2 {
        true => ("io.containerd.cgroups.v2.Metrics", v2_metrics(stats).write_to_bytes()),
        false => ("io.containerd.cgroups.v1.Metrics", v1_metrics(stats).write_to_bytes()),
    };
    let value = bytes.map_err(|error| Error::other(format!("cannot encode {name}: {error}")))?;
    Ok(Any { type_url: name.to_owned(), value, ..Any::default() })
}

/// Wraps a message, or leaves the field out when the message is empty.
fn unless_default<T: Default + PartialEq>(message: T) -> MessageField<T> {
    if message == T::default() { MessageField::none() } else { MessageField::some(message) }
}

fn pressure(pressure: Option<&Pressure>) -> MessageField<v2::PSIStats> {
    let line = |line: &PressureLine| {
        MessageField::some(v2::PSIData {
            avg10: line.avg10,
            avg60: line.avg60,
            avg300: line.avg300,
            total: line.total,
            ..Default::default()
        })
    };
    pressure.map(|both| v2::PSIStats { some: line(&both.some), full: line(&both.full), ..Default::default() }).into()
}

fn v2_metrics(stats: &Stats) -> v2::Metrics {
    let limit = if stats.pids.limit == 0 { u64::MAX } else { stats.pids.limit };
    let pids = v2::PidsStat { current: stats.pids.current, limit, ..Default::default() };
    // The message's unit is microseconds.
    let throttling = &stats.cpu.throttling;
    let cpu = v2::CPUStat {
        usage_usec: stats.cpu.usage.total / 1000,
        user_usec: stats.cpu.usage.user / 1000,
        system_usec: stats.cpu.usage.kernel / 1000,
        nr_periods: throttling.periods,
        nr_throttled: throttling.throttled_periods,
        throttled_usec: throttling.throttled_time / 1000,
        nr_bursts: throttling.bursts,
        burst_usec: throttling.burst_time / 1000,
        psi: pressure(stats.cpu.psi.as_ref()),
        ..Default::default()
    };
    let event = |key: &str| stats.memory.events.get(key).copied().unwrap_or(0);
    let events = (!stats.memory.events.is_empty()).then(|| v2::MemoryEvents {
        low: event("low"),
        high: event("high"),
        max: event("max"),
        oom: event("oom"),
        oom_kill: event("oom_kill"),
        oom_group_kill: event("oom_group_kill"),
        ..Default::default()
    });
    let hugetlb = stats.hugetlb.iter().map(|(size, entry)| v2::HugeTlbStat {
        current: entry.touched.usage,
        max: entry.touched.limit,
        pagesize: size.clone(),
        failcnt: entry.touched.failcnt,
        ..Default::default()
    });
    let rdma = |entries: &BTreeMap<String, RdmaEntry>| {
        let entry = |(device, entry): (&String, &RdmaEntry)| v2::RdmaEntry {
            device: device.clone(),
            hca_handles: entry.hca_handles,
            hca_objects: entry.hca_objects,
            ..Default::default()
        };
        entries.iter().map(entry).collect()
    };
    let rdma =
        v2::RdmaStat { current: rdma(&stats.rdma.current), limit: rdma(&stats.rdma.limit), ..Default::default() };
    v2::Metrics {
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: v2_memory(stats).into(),
        rdma: unless_default(rdma),
        io: unless_default(v2_io(stats)),
        hugetlb: hugetlb.collect(),
        memory_events: events.into(),
        ..Default::default()
    }
}

fn v2_memory(stats: &Stats) -> Option<v2::MemoryStat> {
    let memory = &stats.memory;
    if memory.raw.is_empty() {
        return None;
    }
    let get = |key: &str| memory.raw.get(key).copied().unwrap_or(0);
    Some(v2::MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        // One counter each until Linux 5.9; since then one for anonymous memory and one for files.
        workingset_refault: split(&memory.raw, "workingset_refault"),
        workingset_activate: split(&memory.raw, "workingset_activate"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: memory.usage.usage,
        usage_limit: memory.usage.limit,
        swap_usage: memory.swap_alone.usage,
        swap_limit: memory.swap_alone.limit,
        max_usage: memory.usage.max,
        swap_max_usage: memory.swap_alone.max,
        psi: pressure(memory.psi.as_ref()),
        ..Default::default()
    })
}

fn split(raw: &BTreeMap<String, u64>, key: &str) -> u64 {
    let get = |key: &str| raw.get(key).copied().unwrap_or(0);
    get(key) + get(&format!("{key}_anon")) + get(&format!("{key}_file"))
}

fn v2_io(stats: &Stats) -> v2::IOStat {
    let mut devices: BTreeMap<(u64, u64), v2::IOEntry> = BTreeMap::new();
    let bytes = stats.blkio.io_service_bytes_recursive.iter().map(|entry| (entry, true));
    let requests = stats.blkio.io_serviced_recursive.iter().map(|entry| (entry, false));
    for (entry, is_bytes) in bytes.chain(requests) {
        let device = devices.entry((entry.major, entry.minor)).or_insert_with(|| v2::IOEntry {
            major: entry.major,
            minor: entry.minor,
            ..Default::default()
        });
        match (entry.op.as_str(), is_bytes) {
            ("Read", true) => device.rbytes = entry.value,
            ("Write", true) => device.wbytes = entry.value,
            ("Read", false) => device.rios = entry.value,
            ("Write", false) => device.wios = entry.value,
            _ => {}
        }
    }
    v2::IOStat { usage: devices.into_values().collect(), psi: pressure(stats.blkio.psi.as_ref()), ..Default::default() }
}

fn v1_metrics(stats: &Stats) -> v1::Metrics {
    let hugetlb = stats.hugetlb.iter().map(|(size, entry)| v1::HugetlbStat {
        usage: entry.touched.usage,
        max: entry.touched.max,
        failcnt: entry.touched.failcnt,
        pagesize: size.clone(),
        ..Default::default()
    });
    let usage = v1::CPUUsage {
        total: stats.cpu.usage.total,
        kernel: stats.cpu.usage.kernel,
        user: stats.cpu.usage.user,
        per_cpu: stats.cpu.usage.percpu.clone(),
        ..Default::default()
    };
    let throttling = v1::Throttle {
        periods: stats.cpu.throttling.periods,
        throttled_periods: stats.cpu.throttling.throttled_periods,
        throttled_time: stats.cpu.throttling.throttled_time,
        ..Default::default()
    };
    let cpu = v1::CPUStat {
        usage: MessageField::some(usage),
        throttling: MessageField::some(throttling),
        ..Default::default()
    };
    let pids = v1::PidsStat { current: stats.pids.current, limit: stats.pids.limit, ..Default::default() };
    let rdma = |entries: &BTreeMap<String, RdmaEntry>| {
        let entry = |(device, entry): (&String, &RdmaEntry)| v1::RdmaEntry {
            device: device.clone(),
            hca_handles: entry.hca_handles,
            hca_objects: entry.hca_objects,
            ..Default::default()
        };
        entries.iter().map(entry).collect()
    };
    let rdma =
        v1::RdmaStat { current: rdma(&stats.rdma.current), limit: rdma(&stats.rdma.limit), ..Default::default() };
    let control = |key: &str| stats.memory.oom_control.get(key).copied().unwrap_or(0);
    let oom_control = (!stats.memory.oom_control.is_empty()).then(|| v1::MemoryOomControl {
        oom_kill_disable: control("oom_kill_disable"),
        under_oom: control("under_oom"),
        oom_kill: control("oom_kill"),
        ..Default::default()
    });
    v1::Metrics {
        hugetlb: hugetlb.collect(),
        pids: MessageField::some(pids),
        cpu: MessageField::some(cpu),
        memory: v1_memory(stats).into(),
        // Present even when empty: clients such as nerdctl dereference it without a check.
        blkio: MessageField::some(v1_blkio(stats)),
        rdma: unless_default(rdma),
        memory_oom_control: oom_control.into(),
        ..Default::default()
    }
}

fn v1_memory(stats: &Stats) -> Option<v1::MemoryStat> {
    let memory = &stats.memory;
    if memory.raw.is_empty() {
        return None;
    }
    let get = |key: &str| memory.raw.get(key).copied().unwrap_or(0);
    let entry = |entry: &MemoryEntry| {
        MessageField::some(v1::MemoryEntry {
            limit: entry.limit,
            usage: entry.usage,
            max: entry.max,
            failcnt: entry.failcnt,
            ..Default::default()
        })
    };
    Some(v1::MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(&memory.usage),
        swap: entry(&memory.swap),
        kernel: entry(&memory.kernel),
        kernel_tcp: entry(&memory.kernel_tcp),
        ..Default::default()
    })
}

fn v1_blkio(stats: &Stats) -> v1::BlkIOStat {
    let entries = |list: &[BlkioEntry]| {
        let entry = |entry: &BlkioEntry| v1::BlkIOEntry {
            op: entry.op.clone(),
            device: device_name(entry.major, entry.minor),
            major: entry.major,
            minor: entry.minor,
            value: entry.value,
            ..Default::default()
        };
        list.iter().map(entry).collect()
    };
    let blkio = &stats.blkio;
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(&blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(&blkio.io_serviced_recursive),
        io_queued_recursive: entries(&blkio.io_queued_recursive),
        io_service_time_recursive: entries(&blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(&blkio.io_wait_time_recursive),
        io_merged_recursive: entries(&blkio.io_merged_recursive),
        io_time_recursive: entries(&blkio.io_time_recursive),
        sectors_recursive: entries(&blkio.sectors_recursive),
        ..Default::default()
    }
}

/// The device's name, such as `/dev/sda`: the target of its link in sysfs (sysfs(5), /sys/dev/block). Empty for a
/// device that is gone.
fn device_name(major: u64, minor: u64) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = link.ok().and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()));
    name.map_or_else(String::new, |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests;
