//! Settings for the files of cgroup2 (Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::Setting;

/// Microseconds of a period when quota is given alone; the kernel's own default.
const DEFAULT_PERIOD: u64 = 100_000;

/// The files that `resources` ask for. Zero and absent mean "not asked for" wherever the runtime spec has v1's zero.
pub(super) fn settings(resources: &LinuxResources) -> Vec<Setting> {
    let mut list = Vec::new();
    if let Some(pids) = resources.pids() {
        list.push(self::pids(pids.limit()));
    }
    if let Some(memory) = resources.memory() {
        self::memory(memory, &mut list);
    }
    if let Some(block) = resources.block_io() {
        io(block, &mut list);
    }
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu, &mut list);
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        let field = format!("linux.resources.hugepageLimits[{index}]");
        list.push(Setting::new("hugetlb", format!("hugetlb.{size}.max"), limit.limit(), field.clone()));
        // Reservations are counted apart since Linux 5.7; before that there is no such file.
        list.push(Setting::new("hugetlb", format!("hugetlb.{size}.rsvd.max"), limit.limit(), field).or_skip());
    }
    rdma(resources, &mut list);
    raw(resources, &mut list);
    list
}

/// pids.max, which v1 and v2 share. Without the controller nothing is limited.
pub(super) fn pids(limit: i64) -> Setting {
    let setting = Setting::new("pids", "pids.max", pids_max(limit), "linux.resources.pids.limit");
    if limit < 0 { setting.or_skip() } else { setting }
}

/// Negative is no limit. Zero is written as 1, because systemd's TasksMax cannot say zero and both
/// managers are to agree; either way nothing can be forked.
fn pids_max(limit: i64) -> String {
    match limit {
        i64::MIN..0 => "max".to_owned(),
        0 => "1".to_owned(),
        limit => limit.to_string(),
    }
}

fn bytes(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

/// memory.swap.max, from v1's sum of memory and swap; `None` when swap was not asked for.
pub(super) fn swap_max(memory: &LinuxMemory) -> Option<i64> {
    match (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0)) {
        (-1, 0) => Some(-1),
        (_, 0) => None,
        (_, -1) => Some(-1),
        (limit, swap) if limit <= 0 => Some(swap),
        (limit, swap) => Some(swap.saturating_sub(limit)),
    }
}

fn memory(memory: &LinuxMemory, list: &mut Vec<Setting>) {
    if let Some(swap) = swap_max(memory) {
        let setting = Setting::new("memory", "memory.swap.max", bytes(swap), "linux.resources.memory.swap");
        // A kernel without swap accounting has no such file, and no swap to limit either: no limit and no swap are
        // both as good as written.
        list.push(if swap <= 0 { setting.or_skip() } else { setting });
    }
    if let Some(limit) = memory.limit().filter(|&limit| limit != 0) {
        let setting = Setting::new("memory", "memory.max", bytes(limit), "linux.resources.memory.limit");
        list.push(if limit < 0 { setting.or_skip() } else { setting });
    }
    if let Some(low) = memory.reservation().filter(|&low| low != 0) {
        list.push(Setting::new("memory", "memory.low", bytes(low), "linux.resources.memory.reservation"));
    }
}

/// cpu.weight (1 to 10000, 100 by default) for v1's shares (2 to 262144, 1024 by default).
///
/// The curve goes through minimum, default and maximum of both scales: with l = log2(shares), the weight is
/// 10^((l² + 125·l)/612 − 7/34), rounded up. The older linear one gave 39 for the default.
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        3..262_144 => {
            let l = (shares as f64).log2();
            let weight = 10f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0).ceil();
            // Rust has no checked conversion of floats but that of their digits.
            format!("{weight:.0}").parse().unwrap_or(10_000)
        }
        _ => 10_000,
    }
}

fn cpu(cpu: &LinuxCpu, list: &mut Vec<Setting>) {
    let idle = cpu.idle().is_some_and(|idle| idle != 0);
    if let Some(value) = cpu.idle() {
        list.push(Setting::new("cpu", "cpu.idle", value, "linux.resources.cpu.idle"));
    }
    // An idle group has a fixed weight, and the kernel refuses another.
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0 && !idle) {
        list.push(Setting::new("cpu", "cpu.weight", weight(shares), "linux.resources.cpu.shares"));
    }
    if let Some(burst) = cpu.burst() {
        list.push(Setting::new("cpu", "cpu.max.burst", burst, "linux.resources.cpu.burst"));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota_text = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { DEFAULT_PERIOD } else { period };
        let field = if quota != 0 { "linux.resources.cpu.quota" } else { "linux.resources.cpu.period" };
        let setting = Setting::new("cpu", "cpu.max", format!("{quota_text} {period}"), field);
        list.push(if quota > 0 { setting } else { setting.or_skip() });
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        list.push(Setting::new("cpuset", "cpuset.cpus", cpus, "linux.resources.cpu.cpus"));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        list.push(Setting::new("cpuset", "cpuset.mems", mems, "linux.resources.cpu.mems"));
    }
}

/// io.weight (1 to 10000) for blkio's weight (10 to 1000), linearly.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990
}

fn io(block: &LinuxBlockIo, list: &mut Vec<Setting>) {
    // BFQ brings its own file, on blkio's scale; io.weight belongs to the iocost controller.
    if let Some(weight) = block.weight().filter(|&weight| weight != 0) {
        let field = "linux.resources.blockIO.weight";
        list.push(Setting::new("io", "io.bfq.weight", weight, field).or_else(Setting::new(
            "io",
            "io.weight",
            io_weight(weight),
            field,
        )));
    }
    for (index, device) in block.weight_device().iter().flatten().enumerate() {
        if let Some(weight) = device.weight().filter(|&weight| weight != 0) {
            let (major, minor) = (device.major(), device.minor());
            let field = format!("linux.resources.blockIO.weightDevice[{index}]");
            list.push(
                Setting::new("io", "io.bfq.weight", format!("{major}:{minor} {weight}"), field.clone())
                    .or_else(Setting::new("io", "io.weight", format!("{major}:{minor} {}", io_weight(weight)), field)),
            );
        }
    }
    let mut max = |name: &str, key: &str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for (index, device) in devices.iter().flatten().enumerate() {
            // v1's way to lift a limit is to write zero.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            list.push(Setting::new(
                "io",
                "io.max",
                format!("{}:{} {key}={rate}", device.major(), device.minor()),
                format!("linux.resources.blockIO.{name}[{index}]"),
            ));
        }
    };
    max("throttleReadBpsDevice", "rbps", block.throttle_read_bps_device());
    max("throttleWriteBpsDevice", "wbps", block.throttle_write_bps_device());
    max("throttleReadIOPSDevice", "riops", block.throttle_read_iops_device());
    max("throttleWriteIOPSDevice", "wiops", block.throttle_write_iops_device());
}

/// rdma.max, which v1 and v2 share: `DEVICE hca_handle=N hca_object=N`.
pub(super) fn rdma(resources: &LinuxResources, list: &mut Vec<Setting>) {
    let Some(devices) = resources.rdma() else { return };
    let mut names: Vec<_> = devices.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    for (name, limits) in names {
        let mut value = name.clone();
        if let Some(handles) = limits.hca_handles() {
            value.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects() {
            value.push_str(&format!(" hca_object={objects}"));
        }
        if value.len() > name.len() {
            list.push(Setting::new("rdma", "rdma.max", value, format!("linux.resources.rdma.{name}")));
        }
    }
}

/// `unified`: any file, line by line, after everything else so that it has the last word.
fn raw(resources: &LinuxResources, list: &mut Vec<Setting>) {
    let Some(files) = resources.unified() else { return };
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    for (file, value) in files {
        let controller = file.split('.').next().unwrap_or(file).to_owned();
        let lines = value.lines().filter(|line| !line.trim().is_empty());
        list.extend(lines.map(|line| Setting {
            controller: controller.clone().into(),
            file: file.clone().into(),
            value: line.to_owned(),
            field: format!("linux.resources.unified[\"{file}\"]").into(),
            absent: super::Absent::Refuse,
        }));
    }
}
