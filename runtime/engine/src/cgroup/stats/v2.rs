//! Statistics of cgroup2, in v1's terms where runc has only those.

use std::time::Instant;

use super::parse::{number, pressure, rdma, table, text};
use super::{Blkio, BlkioEntry, Hugetlb, MemoryEntry, Stats, TouchedPages};
use crate::cgroup::dir::Dir;
use crate::cgroup::{tasks, wait};
use crate::error::{Context, Result};

/// Fills `stats` from `dir`. Unless it is the `only` directory, core files are skipped: v1 has these numbers.
pub(super) fn read(dir: &Dir, only: bool, stats: &mut Stats) -> Result<()> {
    pids(dir, only, stats)?;
    memory(dir, stats)?;
    blkio(dir, &mut stats.blkio)?;
    if only {
        cpu(dir, stats)?;
    }
    hugetlb(dir, stats)?;
    rdma(dir, &mut stats.rdma)?;
    stats.memory.psi = pressure(dir, "memory.pressure")?;
    stats.blkio.psi = pressure(dir, "io.pressure")?;
    stats.cpu.psi = pressure(dir, "cpu.pressure")?;
    Ok(())
}

fn pids(dir: &Dir, only: bool, stats: &mut Stats) -> Result<()> {
    match number(dir, "pids.current")? {
        Some(current) => {
            stats.pids.current = current;
            stats.pids.limit = number(dir, "pids.max")?.filter(|&max| max != u64::MAX).unwrap_or(0);
        }
        // Processes can be counted without the controller.
        None if only => {
            let pids = tasks::pids(dir, Instant::now() + wait::CHANGE_TIMEOUT).context("cannot read statistics")?;
            stats.pids.current = pids.len() as u64;
        }
        None => {}
    }
    Ok(())
}

fn memory(dir: &Dir, stats: &mut Stats) -> Result<()> {
    let Some(raw) = table(dir, "memory.stat")? else { return Ok(()) };
    let entry = |kind: &str| -> Result<Option<MemoryEntry>> {
        let Some(usage) = number(dir, &format!("memory.{kind}current"))? else { return Ok(None) };
        Ok(Some(MemoryEntry {
            usage,
            limit: number(dir, &format!("memory.{kind}max"))?.unwrap_or(u64::MAX),
            max: number(dir, &format!("memory.{kind}peak"))?.unwrap_or(0),
            failcnt: 0,
        }))
    };
    stats.memory.cache = raw.get("file").copied().unwrap_or(0);
    stats.memory.raw = raw;
    let usage = entry("")?.unwrap_or_default();
    // v1 and its readers count memory and swap together. The sum of two peaks is no peak.
    let swap = entry("swap.")?.unwrap_or_default();
    stats.memory.swap = MemoryEntry {
        usage: usage.usage + swap.usage,
        limit: if swap.limit == u64::MAX { u64::MAX } else { swap.limit.saturating_add(usage.limit) },
        max: 0,
        failcnt: 0,
    };
    stats.memory.usage = usage;
    stats.memory.swap_alone = swap;
    stats.memory.events = table(dir, "memory.events")?.unwrap_or_default();
    Ok(())
}

fn blkio(dir: &Dir, blkio: &mut Blkio) -> Result<()> {
    let Some(text) = text(dir, "io.stat")? else { return Ok(()) };
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let device = fields.next().and_then(|device| device.split_once(':'));
        let Some((Ok(major), Ok(minor))) = device.map(|(major, minor)| (major.parse(), minor.parse())) else {
            continue;
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (op, list) = match key {
                "rbytes" => ("Read", &mut blkio.io_service_bytes_recursive),
                "wbytes" => ("Write", &mut blkio.io_service_bytes_recursive),
                "rios" => ("Read", &mut blkio.io_serviced_recursive),
                "wios" => ("Write", &mut blkio.io_serviced_recursive),
                _ => continue,
            };
            if let Ok(value) = value.parse() {
                list.push(BlkioEntry { major, minor, op: op.to_owned(), value });
            }
        }
    }
    Ok(())
}

fn cpu(dir: &Dir, stats: &mut Stats) -> Result<()> {
    let Some(table) = table(dir, "cpu.stat")? else { return Ok(()) };
    let get = |key: &str| table.get(key).copied().unwrap_or(0);
    stats.cpu.usage.total = get("usage_usec") * 1000;
    stats.cpu.usage.user = get("user_usec") * 1000;
    stats.cpu.usage.kernel = get("system_usec") * 1000;
    stats.cpu.throttling.periods = get("nr_periods");
    stats.cpu.throttling.throttled_periods = get("nr_throttled");
    stats.cpu.throttling.throttled_time = get("throttled_usec") * 1000;
    stats.cpu.throttling.bursts = get("nr_bursts");
    stats.cpu.throttling.burst_time = get("burst_usec") * 1000;
    Ok(())
}

fn hugetlb(dir: &Dir, stats: &mut Stats) -> Result<()> {
    // The page sizes are read only if the controller is enabled.
    if text(dir, "cgroup.controllers")?.is_none_or(|all| !all.split_whitespace().any(|it| it == "hugetlb")) {
        return Ok(());
    }
    for size in libcgroups::stats::supported_page_sizes().unwrap_or_default() {
        let Some(usage) = number(dir, &format!("hugetlb.{size}.current"))? else { continue };
        let limit = |middle: &str| number(dir, &format!("hugetlb.{size}.{middle}max"));
        let events = table(dir, &format!("hugetlb.{size}.events"))?.unwrap_or_default();
        let failcnt = events.get("max").copied().unwrap_or(0);
        let touched = TouchedPages { usage, max: 0, failcnt, limit: limit("")?.unwrap_or(u64::MAX) };
        let entry = match number(dir, &format!("hugetlb.{size}.rsvd.current"))? {
            Some(usage) => Hugetlb { usage, max: 0, failcnt, limit: limit("rsvd.")?.unwrap_or(u64::MAX), touched },
            None => Hugetlb { usage, max: 0, failcnt, limit: touched.limit, touched },
        };
        stats.hugetlb.insert(size, entry);
    }
    Ok(())
}
