//! Old resources with new ones on top, field by field.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
    LinuxWeightDeviceBuilder,
};

/// `old` with everything that `new` names.
pub(super) fn merged(old: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut result = old.clone();
    if let Some(new) = new.memory() {
        result.set_memory(Some(memory(&old.memory().unwrap_or_default(), new)));
    }
    if let Some(new) = new.cpu() {
        result.set_cpu(Some(cpu(&old.cpu().clone().unwrap_or_default(), new)));
    }
    if let Some(new) = new.block_io() {
        result.set_block_io(Some(block_io(&old.block_io().clone().unwrap_or_default(), new)));
    }
    if new.pids().is_some() {
        result.set_pids(*new.pids());
    }
    if let Some(new) = new.hugepage_limits() {
        let mut list = old.hugepage_limits().clone().unwrap_or_default();
        for limit in new {
            list.retain(|old| old.page_size() != limit.page_size());
            list.push(limit.clone());
        }
        result.set_hugepage_limits(Some(list));
    }
    if new.network().is_some() {
        result.set_network(new.network().clone());
    }
    if let Some(new) = new.rdma() {
        let mut map = old.rdma().clone().unwrap_or_default();
        map.extend(new.iter().map(|(name, limits)| (name.clone(), *limits)));
        result.set_rdma(Some(map));
    }
    if let Some(new) = new.unified() {
        let mut map = old.unified().clone().unwrap_or_default();
        map.extend(new.iter().map(|(name, value)| (name.clone(), value.clone())));
        result.set_unified(Some(map));
    }
    if new.devices().is_some() {
        result.set_devices(new.devices().clone());
    }
    result
}

/// The resources that an update to `merged` by `new` has to write: those that `new` names, and those that share a
/// file with them.
pub(super) fn touched(merged: &LinuxResources, new: &LinuxResources) -> LinuxResources {
    let mut result = new.clone();
    let (now, named) = (merged.memory().unwrap_or_default(), new.memory().unwrap_or_default());
    if named.limit().is_some() || named.swap().is_some() {
        let mut both = named;
        both.set_limit(now.limit());
        both.set_swap(now.swap());
        result.set_memory(Some(both));
    }
    if let (Some(now), Some(named)) = (merged.cpu(), new.cpu()) {
        let mut both = named.clone();
        let asked = |quota: Option<i64>, period: Option<u64>| quota.unwrap_or(0) != 0 || period.unwrap_or(0) != 0;
        if asked(named.quota(), named.period()) {
            both.set_quota(now.quota());
            both.set_period(now.period());
        }
        // The idle flag decides whether a weight may be written.
        if named.shares().is_some() && named.idle().is_none() && now.idle() == Some(1) {
            both.set_shares(None);
        }
        result.set_cpu(Some(both));
    }
    result
}

/// A value that is not zero: zero means "not named" where it could be no limit, as it always has.
fn named(value: Option<i64>) -> Option<i64> {
    value.filter(|&value| value != 0)
}

fn memory(old: &LinuxMemory, new: &LinuxMemory) -> LinuxMemory {
    let mut result = *old;
    result.set_limit(named(new.limit()).or(old.limit()));
    result.set_swap(named(new.swap()).or(old.swap()));
    // "No limit" on memory with nothing said of swap lifts both, or the old sum would fall below the new limit.
    if new.limit() == Some(-1) && named(new.swap()).is_none() {
        result.set_swap(None);
    }
    result.set_reservation(named(new.reservation()).or(old.reservation()));
    result.set_swappiness(new.swappiness().or(old.swappiness()));
    result.set_disable_oom_killer(new.disable_oom_killer().or(old.disable_oom_killer()));
    result
}

fn cpu(old: &LinuxCpu, new: &LinuxCpu) -> LinuxCpu {
    let mut result = old.clone();
    result.set_shares(new.shares().or(old.shares()));
    result.set_quota(named(new.quota()).or(old.quota()));
    result.set_period(new.period().filter(|&period| period != 0).or(old.period()));
    result.set_idle(new.idle().or(old.idle()));
    result.set_burst(new.burst().or(old.burst()));
    result.set_realtime_runtime(new.realtime_runtime().or(old.realtime_runtime()));
    result.set_realtime_period(new.realtime_period().or(old.realtime_period()));
    result.set_cpus(new.cpus().clone().or_else(|| old.cpus().clone()));
    result.set_mems(new.mems().clone().or_else(|| old.mems().clone()));
    result
}

fn block_io(old: &LinuxBlockIo, new: &LinuxBlockIo) -> LinuxBlockIo {
    let mut result = old.clone();
    result.set_weight(new.weight().or(old.weight()));
    result.set_leaf_weight(new.leaf_weight().or(old.leaf_weight()));
    result.set_weight_device(weights(old.weight_device(), new.weight_device()));
    result.set_throttle_read_bps_device(rates(old.throttle_read_bps_device(), new.throttle_read_bps_device()));
    result.set_throttle_write_bps_device(rates(old.throttle_write_bps_device(), new.throttle_write_bps_device()));
    result.set_throttle_read_iops_device(rates(old.throttle_read_iops_device(), new.throttle_read_iops_device()));
    result.set_throttle_write_iops_device(rates(old.throttle_write_iops_device(), new.throttle_write_iops_device()));
    result
}

type Weights = Option<Vec<LinuxWeightDevice>>;
type Rates = Option<Vec<LinuxThrottleDevice>>;

fn weights(old: &Weights, new: &Weights) -> Weights {
    let Some(new) = new else { return old.clone() };
    let mut list = old.clone().unwrap_or_default();
    for device in new {
        let same = |it: &&mut LinuxWeightDevice| (it.major(), it.minor()) == (device.major(), device.minor());
        match list.iter_mut().find(same) {
            // The type has no setters; what the new entry leaves out comes from the old one.
            Some(entry) => {
                let mut both = LinuxWeightDeviceBuilder::default().major(device.major()).minor(device.minor());
                if let Some(weight) = device.weight().or(entry.weight()) {
                    both = both.weight(weight);
                }
                if let Some(weight) = device.leaf_weight().or(entry.leaf_weight()) {
                    both = both.leaf_weight(weight);
                }
                *entry = both.build().unwrap_or(*device);
            }
            None => list.push(*device),
        }
    }
    Some(list)
}

fn rates(old: &Rates, new: &Rates) -> Rates {
    let Some(new) = new else { return old.clone() };
    let mut list = old.clone().unwrap_or_default();
    for device in new {
        list.retain(|it| (it.major(), it.minor()) != (device.major(), device.minor()));
        list.push(*device);
    }
    Some(list)
}
