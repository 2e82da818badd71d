//! Settings for the files of v1 hierarchies (Documentation/admin-guide/cgroup-v1/).

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxResources, LinuxThrottleDevice};

use super::{Setting, v2};

/// The files that `resources` ask for. Zero means "not asked for" where v1's managers have always read it so.
pub(super) fn settings(resources: &LinuxResources) -> Vec<Setting> {
    let mut list = Vec::new();
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu, &mut list);
    }
    if let Some(memory) = resources.memory() {
        self::memory(memory, &mut list);
    }
    if let Some(pids) = resources.pids() {
        list.push(v2::pids(pids.limit()));
    }
    if let Some(block) = resources.block_io() {
        blkio(block, &mut list);
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        let field = format!("linux.resources.hugepageLimits[{index}]");
        let file = |middle: &str| format!("hugetlb.{size}.{middle}limit_in_bytes");
        list.push(Setting::new("hugetlb", file(""), limit.limit(), field.clone()));
        list.push(Setting::new("hugetlb", file("rsvd."), limit.limit(), field).or_skip());
    }
    if let Some(network) = resources.network() {
        self::network(network, &mut list);
    }
    v2::rdma(resources, &mut list);
    list
}

fn cpu(cpu: &LinuxCpu, list: &mut Vec<Setting>) {
    let mut add = |file: &'static str, value: Option<String>, field: &'static str| {
        list.extend(value.map(|value| Setting::new("cpu", file, value, field)));
    };
    let idle = cpu.idle().is_some_and(|idle| idle != 0);
    let unsigned = |value: Option<u64>| value.filter(|&value| value != 0).map(|value| value.to_string());
    let signed = |value: Option<i64>| value.filter(|&value| value != 0).map(|value| value.to_string());
    add("cpu.rt_period_us", unsigned(cpu.realtime_period()), "linux.resources.cpu.realtimePeriod");
    add("cpu.rt_runtime_us", signed(cpu.realtime_runtime()), "linux.resources.cpu.realtimeRuntime");
    add("cpu.idle", cpu.idle().map(|idle| idle.to_string()), "linux.resources.cpu.idle");
    add("cpu.shares", unsigned(cpu.shares()).filter(|_| !idle), "linux.resources.cpu.shares");
    add("cpu.cfs_period_us", unsigned(cpu.period()), "linux.resources.cpu.period");
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        let setting = Setting::new("cpu", "cpu.cfs_quota_us", quota, "linux.resources.cpu.quota");
        list.push(if quota < 0 { setting.or_skip() } else { setting });
    }
    if let Some(burst) = cpu.burst() {
        list.push(Setting::new("cpu", "cpu.cfs_burst_us", burst, "linux.resources.cpu.burst"));
    }
    if let Some(cpus) = cpu.cpus().as_ref().filter(|cpus| !cpus.is_empty()) {
        list.push(Setting::new("cpuset", "cpuset.cpus", cpus, "linux.resources.cpu.cpus"));
    }
    if let Some(mems) = cpu.mems().as_ref().filter(|mems| !mems.is_empty()) {
        list.push(Setting::new("cpuset", "cpuset.mems", mems, "linux.resources.cpu.mems"));
    }
}

fn memory(memory: &LinuxMemory, list: &mut Vec<Setting>) {
    let limit = memory.limit().unwrap_or(0);
    if limit != 0 {
        let setting = Setting::new("memory", "memory.limit_in_bytes", limit, "linux.resources.memory.limit");
        list.push(if limit < 0 { setting.or_skip() } else { setting });
    }
    let swap = match (limit, memory.swap().unwrap_or(0)) {
        // No limit on memory, and none asked for on the sum: lift both, where swap is accounted at all.
        (-1, 0) => Some(-1),
        (_, 0) => None,
        (_, swap) => Some(swap),
    };
    if let Some(swap) = swap {
        let setting = Setting::new("memory", "memory.memsw.limit_in_bytes", swap, "linux.resources.memory.swap");
        list.push(if swap < 0 { setting.or_skip() } else { setting });
    }
    if let Some(low) = memory.reservation().filter(|&low| low != 0) {
        list.push(Setting::new("memory", "memory.soft_limit_in_bytes", low, "linux.resources.memory.reservation"));
    }
    if let Some(tcp) = memory.kernel_tcp().filter(|&tcp| tcp != 0) {
        list.push(Setting::new("memory", "memory.kmem.tcp.limit_in_bytes", tcp, "linux.resources.memory.kernelTCP"));
    }
    if memory.disable_oom_killer() == Some(true) {
        list.push(Setting::new("memory", "memory.oom_control", 1, "linux.resources.memory.disableOOMKiller"));
    }
    if let Some(swappiness) = memory.swappiness().filter(|&swappiness| swappiness <= 100) {
        list.push(Setting::new("memory", "memory.swappiness", swappiness, "linux.resources.memory.swappiness"));
    }
}

fn blkio(block: &LinuxBlockIo, list: &mut Vec<Setting>) {
    // Without CFQ (gone in Linux 5.0) only BFQ has weights, under its own names.
    let weighted = |file: &'static str, bfq: &'static str, value: String, field: String| {
        Setting::new("blkio", bfq, value.clone(), field.clone()).or_else(Setting::new("blkio", file, value, field))
    };
    let asked = |weight: Option<u16>| weight.filter(|&weight| weight != 0);
    if let Some(weight) = asked(block.weight()) {
        let field = "linux.resources.blockIO.weight".to_owned();
        list.push(weighted("blkio.weight", "blkio.bfq.weight", weight.to_string(), field));
    }
    if let Some(weight) = asked(block.leaf_weight()) {
        list.push(Setting::new("blkio", "blkio.leaf_weight", weight, "linux.resources.blockIO.leafWeight"));
    }
    for (index, device) in block.weight_device().iter().flatten().enumerate() {
        let field = format!("linux.resources.blockIO.weightDevice[{index}]");
        let place = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = asked(device.weight()) {
            let value = format!("{place} {weight}");
            list.push(weighted("blkio.weight_device", "blkio.bfq.weight_device", value, field.clone()));
        }
        if let Some(weight) = asked(device.leaf_weight()) {
            list.push(Setting::new("blkio", "blkio.leaf_weight_device", format!("{place} {weight}"), field));
        }
    }
    let mut throttle = |name: &str, file: &'static str, devices: &Option<Vec<LinuxThrottleDevice>>| {
        for (index, device) in devices.iter().flatten().enumerate() {
            list.push(Setting::new(
                "blkio",
                file,
                format!("{}:{} {}", device.major(), device.minor(), device.rate()),
                format!("linux.resources.blockIO.{name}[{index}]"),
            ));
        }
    };
    throttle("throttleReadBpsDevice", "blkio.throttle.read_bps_device", block.throttle_read_bps_device());
    throttle("throttleWriteBpsDevice", "blkio.throttle.write_bps_device", block.throttle_write_bps_device());
    throttle("throttleReadIOPSDevice", "blkio.throttle.read_iops_device", block.throttle_read_iops_device());
    throttle("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device", block.throttle_write_iops_device());
}

fn network(network: &LinuxNetwork, list: &mut Vec<Setting>) {
    if let Some(class) = network.class_id().filter(|&class| class != 0) {
        list.push(Setting::new("net_cls", "net_cls.classid", class, "linux.resources.network.classID"));
    }
    for (index, priority) in network.priorities().iter().flatten().enumerate() {
        list.push(Setting::new(
            "net_prio",
            "net_prio.ifpriomap",
            format!("{} {}", priority.name(), priority.priority()),
            format!("linux.resources.network.priorities[{index}]"),
        ));
    }
}
