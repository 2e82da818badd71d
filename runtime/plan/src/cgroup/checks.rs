//! Checks of `linux.resources`: violations by name, and warnings for fields that no manager honours.

use std::collections::BTreeSet;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Absent, CgroupLayout, Findings, v1, v2};

/// Denies what the layout cannot give or the kernel would refuse; warns of what is passed over.
pub(super) fn resources(resources: &LinuxResources, layout: CgroupLayout, findings: &mut Findings) {
    let v1 = layout.has_v1();
    if layout == CgroupLayout::None {
        without_cgroup(resources, findings);
        return;
    }
    if let Some(memory) = resources.memory() {
        self::memory(memory, v1, findings);
    }
    if let Some(cpu) = resources.cpu() {
        self::cpu(cpu, v1, findings);
    }
    if let Some(block) = resources.block_io() {
        self::block_io(block, v1, findings);
    }
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        let digits = size.trim_end_matches("KB").trim_end_matches("MB").trim_end_matches("GB");
        if digits.len() + 2 != size.len() || digits.parse::<u64>().is_err() {
            findings.deny(
                format!("linux.resources.hugepageLimits[{index}].pageSize"),
                format!("{size:?} is no page size"),
                "write it as the kernel does: 64KB, 2MB, 1GB",
            );
        }
        if limit.limit() < 0 {
            findings.deny(
                format!("linux.resources.hugepageLimits[{index}].limit"),
                format!("{} is less than 0", limit.limit()),
                "leave the entry out to have no limit",
            );
        }
    }
    let network = resources.network().as_ref();
    if !v1 && network.is_some_and(|it| it.class_id().is_some() || it.priorities().is_some()) {
        findings.warn("linux.resources.network is ignored: cgroup v2 has no net_cls and no net_prio controller");
    }
    self::unified(resources, v1, findings);
}

fn without_cgroup(resources: &LinuxResources, findings: &mut Findings) {
    // A setting that may be skipped where its file is missing limits nothing.
    let settings = v2::settings(resources).into_iter().chain(v1::settings(resources));
    let limits = settings.filter(|setting| setting.absent != Absent::Skip);
    let group = |field: &str| field.split(['.', '[']).nth(2).unwrap_or_default().to_owned();
    let mut asked: BTreeSet<String> = limits.map(|setting| group(&setting.field)).collect();
    // cgroup v2 has no network controller, and ignores it.
    asked.remove("network");
    for name in asked {
        findings.deny(
            format!("linux.resources.{name}"),
            "the container gets no cgroup, so nothing can be limited",
            "use the cgroupfs or the systemd cgroup manager on a host with cgroups, or leave the limits out",
        );
    }
}

fn memory(memory: &LinuxMemory, v1: bool, findings: &mut Findings) {
    let path = |name: &str| format!("linux.resources.memory.{name}");
    let (limit, swap) = (memory.limit().unwrap_or(0), memory.swap().unwrap_or(0));
    for (name, value) in [("limit", limit), ("swap", swap), ("reservation", memory.reservation().unwrap_or(0))] {
        if value < -1 {
            findings.deny(path(name), format!("{value} bytes is no limit"), "write -1 to have no limit");
        }
    }
    if swap > 0 && limit == 0 && !v1 {
        findings.deny(
            path("swap"),
            "unable to set swap limit without memory limit: swap counts memory and swap together",
            "set linux.resources.memory.limit too",
        );
    }
    if swap > 0 && limit > swap {
        findings.deny(
            path("swap"),
            format!("memory+swap limit {swap} should be >= memory limit {limit}"),
            "swap counts memory and swap together",
        );
    }
    if memory.kernel().is_some() {
        findings.warn("linux.resources.memory.kernel is ignored: Linux takes no such limit since 5.16");
    }
    if memory.kernel_tcp().is_some() && !v1 {
        findings.warn("linux.resources.memory.kernelTCP is ignored: cgroup v2 counts it as memory");
    }
    if memory.disable_oom_killer() == Some(true) && !v1 {
        findings.deny(
            path("disableOOMKiller"),
            "cgroup v2 cannot disable the OOM killer",
            "leave it out, or protect the container with linux.resources.memory.reservation or oomScoreAdj",
        );
    }
    match memory.swappiness() {
        Some(value) if v1 && value > 100 => {
            findings.deny(path("swappiness"), format!("{value} is above 100"), "the range is 0 to 100");
        }
        Some(_) if !v1 => {
            // config-linux.md, Unified: what cannot be converted to v2 is an error.
            findings.deny(path("swappiness"), "cgroup v2 has no swappiness", "leave it out, or set memory.swap");
        }
        _ => {}
    }
}

fn cpu(cpu: &LinuxCpu, v1: bool, findings: &mut Findings) {
    let path = |name: &str| format!("linux.resources.cpu.{name}");
    let realtime = [
        ("realtimeRuntime", cpu.realtime_runtime().is_some_and(|value| value != 0)),
        ("realtimePeriod", cpu.realtime_period().is_some_and(|value| value != 0)),
    ];
    for (name, _) in realtime.iter().filter(|(_, asked)| *asked && !v1) {
        findings.deny(path(name), "cgroup v2 has no realtime bandwidth", "leave it out");
    }
    match cpu.shares() {
        Some(1) if v1 => {
            findings.deny(path("shares"), "the minimum allowed cpu-shares is 2", "");
        }
        Some(shares) if v1 && shares > 262_144 => {
            findings.deny(path("shares"), "the maximum allowed cpu-shares is 262144", "");
        }
        _ => {}
    }
    match cpu.idle() {
        Some(idle) if idle != 0 && idle != 1 => {
            findings.deny(path("idle"), format!("{idle} is neither 0 nor 1"), "");
        }
        Some(1) if cpu.shares().is_some_and(|shares| shares != 0) => {
            findings.warn("linux.resources.cpu.shares is ignored: an idle group has a weight of its own");
        }
        _ => {}
    }
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        if let Some(list) = list
            && list.chars().any(|c| !(c.is_ascii_alphanumeric() || "-,:/ ".contains(c)))
        {
            findings.deny(path(name), format!("{list:?} is no list of numbers"), "write it like 0-3,5");
        }
    }
}

fn block_io(block: &LinuxBlockIo, v1: bool, findings: &mut Findings) {
    let path = |name: &str| format!("linux.resources.blockIO.{name}");
    let mut weight = |name: String, value: Option<u16>| {
        if value.is_some_and(|value| value != 0 && !(10..=1000).contains(&value)) {
            findings.deny(path(&name), format!("{} is out of range", value.unwrap_or(0)), "the range is 10 to 1000");
        }
    };
    weight("weight".to_owned(), block.weight());
    weight("leafWeight".to_owned(), block.leaf_weight());
    for (index, device) in block.weight_device().iter().flatten().enumerate() {
        weight(format!("weightDevice[{index}].weight"), device.weight());
        weight(format!("weightDevice[{index}].leafWeight"), device.leaf_weight());
    }
    let leaf = block.leaf_weight().is_some_and(|weight| weight != 0)
        || block.weight_device().iter().flatten().any(|device| device.leaf_weight().is_some_and(|it| it != 0));
    if leaf && !v1 {
        findings.warn("linux.resources.blockIO.leafWeight is ignored: cgroup v2 has no leaf weights");
    }
    let mut numbers = |name: &str, index: usize, major: i64, minor: i64| {
        if u32::try_from(major).is_err() || u32::try_from(minor).is_err() {
            findings.deny(
                path(&format!("{name}[{index}]")),
                format!("{major}:{minor} is no device number"),
                "name one block device",
            );
        }
    };
    for (index, device) in block.weight_device().iter().flatten().enumerate() {
        numbers("weightDevice", index, device.major(), device.minor());
    }
    let lists: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("throttleReadBpsDevice", block.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", block.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", block.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", block.throttle_write_iops_device()),
    ];
    for (name, list) in lists {
        for (index, device) in list.iter().flatten().enumerate() {
            numbers(name, index, device.major(), device.minor());
        }
    }
}

fn unified(resources: &LinuxResources, v1: bool, findings: &mut Findings) {
    let Some(files) = resources.unified().as_ref().filter(|files| !files.is_empty()) else { return };
    if v1 {
        findings.deny(
            "linux.resources.unified",
            "the files of cgroup v2 cannot be set on a host with v1 hierarchies",
            "use the fields beside it, which both versions know",
        );
        return;
    }
    let mut names: Vec<_> = files.keys().collect();
    names.sort();
    for name in names {
        let path = format!("linux.resources.unified[{name:?}]");
        if name.contains('/') {
            findings.deny(path, "must be a file name (no slashes)", "");
        } else if !name.split_once('.').is_some_and(|(head, tail)| !head.is_empty() && !tail.is_empty()) {
            findings.deny(path, "must be in the form CONTROLLER.PARAMETER", "");
        } else if matches!(name.as_str(), "cgroup.procs" | "cgroup.threads" | "cgroup.kill" | "cgroup.freeze") {
            findings.deny(path, "acts on processes and is no resource", "leave it out");
        }
    }
}
