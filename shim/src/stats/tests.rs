//! Tests of metrics from files of known content, and from the kernel's own.

use super::*;
use brig_engine::cgroup::{Cgroup, CgroupKind, CgroupRecord};
use std::path::{Path, PathBuf};

fn cgroup(kind: CgroupKind, paths: &[(&str, PathBuf)]) -> Cgroup {
    let paths = paths.iter().map(|(name, path)| ((*name).to_owned(), path.clone())).collect();
    Cgroup::from_record(&CgroupRecord { kind, paths, ..CgroupRecord::default() })
}

fn write(directory: &Path, files: &[(&str, &str)]) {
    std::fs::create_dir_all(directory).unwrap();
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

const PRESSURE: &str =
    "some avg10=1.50 avg60=0.25 avg300=0.00 total=12\nfull avg10=0.50 avg60=0.00 avg300=0.00 total=7\n";

#[test]
fn every_number_of_v2_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    write(
        directory.path(),
        &[
            ("cgroup.controllers", "cpu memory io pids rdma hugetlb\n"),
            ("hugetlb.2MB.current", "4194304\n"),
            ("hugetlb.2MB.max", "8388608\n"),
            ("hugetlb.2MB.events", "max 3\n"),
            ("hugetlb.2MB.rsvd.current", "6291456\n"),
            ("hugetlb.2MB.rsvd.max", "max\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 8\nnr_throttled 2\nthrottled_usec 77\nnr_bursts 6\nburst_usec 11\n",
            ),
            ("memory.stat", "anon 4096\nfile 8192\nworkingset_refault_anon 1\nworkingset_refault_file 2\npgfault 10\n"),
            ("memory.current", "12288\n"),
            ("memory.max", "max\n"),
            ("memory.peak", "20480\n"),
            ("memory.swap.current", "16\n"),
            ("memory.swap.max", "32\n"),
            ("memory.swap.peak", "24\n"),
            ("memory.events", "low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\noom_group_kill 6\n"),
            ("io.stat", "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n259:1 rbytes=7 wbytes=0 rios=1 wios=0\n"),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=3\n"),
            ("rdma.max", "mlx4_0 hca_handle=9 hca_object=max\n"),
            ("cpu.pressure", PRESSURE),
            ("memory.pressure", PRESSURE),
            ("io.pressure", PRESSURE),
        ],
    );
    let stats = cgroup(CgroupKind::V2, &[("", directory.path().to_owned())]).stats().unwrap();
    let any = metrics(&stats).unwrap();
    assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
    let found = v2::Metrics::parse_from_bytes(&any.value).unwrap();
    assert_eq!((found.pids.current, found.pids.limit), (3, u64::MAX));
    let cpu = &found.cpu;
    assert_eq!((cpu.usage_usec, cpu.user_usec, cpu.system_usec), (9, 5, 4));
    assert_eq!((cpu.nr_periods, cpu.nr_throttled, cpu.throttled_usec), (8, 2, 77));
    assert_eq!((cpu.nr_bursts, cpu.burst_usec), (6, 11));
    let memory = &found.memory;
    assert_eq!((memory.anon, memory.file, memory.workingset_refault, memory.pgfault), (4096, 8192, 3, 10));
    assert_eq!((memory.usage, memory.usage_limit, memory.max_usage), (12288, u64::MAX, 20480));
    assert_eq!((memory.swap_usage, memory.swap_limit, memory.swap_max_usage), (16, 32, 24));
    let events = &found.memory_events;
    assert_eq!((events.low, events.high, events.max), (1, 2, 3));
    assert_eq!((events.oom, events.oom_kill, events.oom_group_kill), (4, 5, 6));
    let io: Vec<_> = found.io.usage.iter().map(|e| (e.major, e.minor, e.rbytes, e.wbytes, e.rios, e.wios)).collect();
    assert_eq!(io, [(8, 0, 1, 2, 3, 4), (259, 1, 7, 0, 1, 0)]);
    let entry = |entry: &v2::RdmaEntry| (entry.device.clone(), entry.hca_handles, entry.hca_objects);
    assert_eq!(entry(&found.rdma.current[0]), ("mlx4_0".to_owned(), 2, 3));
    assert_eq!(entry(&found.rdma.limit[0]), ("mlx4_0".to_owned(), 9, u32::MAX));
    let pages: Vec<_> = found.hugetlb.iter().map(|e| (e.pagesize.as_str(), e.current, e.max, e.failcnt)).collect();
    assert_eq!(pages, if_host_has_pages_of_2_mb(("2MB", 4 << 20, 8 << 20, 3)));
    for psi in [&cpu.psi, &memory.psi, &found.io.psi] {
        assert_eq!((psi.some.avg10, psi.some.avg60, psi.some.total), (1.5, 0.25, 12));
        assert_eq!((psi.full.avg10, psi.full.total), (0.5, 7));
    }
}

#[test]
fn a_cgroup_without_controllers_has_no_empty_messages() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), &[("cgroup.procs", ""), ("cpu.stat", "usage_usec 9\nuser_usec 5\nsystem_usec 4\n")]);
    let stats = cgroup(CgroupKind::V2, &[("", directory.path().to_owned())]).stats().unwrap();
    let found = v2_metrics(&stats);
    assert!(found.memory.is_none() && found.memory_events.is_none() && found.rdma.is_none() && found.io.is_none());
    assert!(found.hugetlb.is_empty());
    assert_eq!(found.cpu.usage_usec, 9);
}

#[test]
fn every_number_of_v1_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    write(
        &at("memory"),
        &[
            (
                "memory.stat",
                "cache 1\nrss 2\nmapped_file 3\npgpgin 4\nhierarchical_memory_limit 5\nhierarchical_memsw_limit 6\ntotal_cache 7\ntotal_pgmajfault 8\n",
            ),
            ("memory.oom_control", "oom_kill_disable 1\nunder_oom 0\noom_kill 3\n"),
            ("memory.usage_in_bytes", "10\n"),
            ("memory.max_usage_in_bytes", "11\n"),
            ("memory.failcnt", "12\n"),
            ("memory.limit_in_bytes", "13\n"),
            ("memory.memsw.usage_in_bytes", "14\n"),
            ("memory.memsw.max_usage_in_bytes", "15\n"),
            ("memory.memsw.failcnt", "0\n"),
            ("memory.memsw.limit_in_bytes", "16\n"),
        ],
    );
    write(&at("cpu"), &[("cpu.stat", "nr_periods 1\nnr_throttled 2\nthrottled_time 3\n")]);
    write(
        &at("cpuacct"),
        &[("cpuacct.usage", "40\n"), ("cpuacct.usage_percpu", "30 10\n"), ("cpuacct.stat", "user 1\nsystem 2\n")],
    );
    write(&at("pids"), &[("pids.current", "2\n"), ("pids.max", "max\n")]);
    write(
        &at("blkio"),
        &[
            ("blkio.throttle.io_service_bytes", "7:65000 Read 5\n7:65000 Total 5\nTotal 5\n"),
            ("blkio.throttle.io_serviced", "7:65000 Read 1\nTotal 1\n"),
        ],
    );
    write(&at("rdma"), &[("rdma.current", "mlx4_0 hca_handle=2 hca_object=3\n")]);
    write(
        &at("hugetlb"),
        &[
            ("hugetlb.2MB.usage_in_bytes", "4194304\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "6291456\n"),
            ("hugetlb.2MB.failcnt", "3\n"),
            ("hugetlb.2MB.rsvd.usage_in_bytes", "0\n"),
        ],
    );
    let names = ["memory", "cpu", "cpuacct", "pids", "blkio", "rdma", "hugetlb"];
    let paths: Vec<_> = names.iter().map(|name| (*name, at(name))).collect();
    let any = metrics(&cgroup(CgroupKind::V1, &paths).stats().unwrap()).unwrap();
    assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
    let found = v1::Metrics::parse_from_bytes(&any.value).unwrap();
    let memory = &found.memory;
    assert_eq!((memory.cache, memory.rss, memory.mapped_file, memory.pg_pg_in), (1, 2, 3, 4));
    assert_eq!((memory.hierarchical_memory_limit, memory.hierarchical_swap_limit), (5, 6));
    assert_eq!((memory.total_cache, memory.total_pg_maj_fault), (7, 8));
    assert_eq!((memory.usage.usage, memory.usage.max, memory.usage.failcnt, memory.usage.limit), (10, 11, 12, 13));
    assert_eq!((memory.swap.usage, memory.swap.max, memory.swap.limit), (14, 15, 16));
    let control = &found.memory_oom_control;
    assert_eq!((control.oom_kill_disable, control.under_oom, control.oom_kill), (1, 0, 3));
    let throttling = &found.cpu.throttling;
    assert_eq!((throttling.periods, throttling.throttled_periods, throttling.throttled_time), (1, 2, 3));
    assert_eq!((found.cpu.usage.total, found.cpu.usage.per_cpu.as_slice()), (40, [30, 10].as_slice()));
    assert_eq!((found.cpu.usage.user, found.cpu.usage.kernel), (10_000_000, 20_000_000));
    assert_eq!((found.pids.current, found.pids.limit), (2, 0));
    let bytes = &found.blkio.io_service_bytes_recursive;
    assert_eq!((bytes[0].major, bytes[0].minor, bytes[0].op.as_str(), bytes[0].value), (7, 65000, "Read", 5));
    assert_eq!((bytes[0].device.as_str(), found.blkio.io_serviced_recursive[0].value), ("", 1));
    assert_eq!(found.rdma.current[0].hca_objects, 3);
    let pages: Vec<_> = found.hugetlb.iter().map(|e| (e.pagesize.as_str(), e.usage, e.max, e.failcnt)).collect();
    assert_eq!(pages, if_host_has_pages_of_2_mb(("2MB", 4 << 20, 6 << 20, 3)));
}

/// Selects the entry where the host has the page size, which depends on the host. Pages in use are counted, not
/// reserved ones.
fn if_host_has_pages_of_2_mb<T>(entry: T) -> Vec<T> {
    let has = std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists();
    Vec::from_iter(has.then_some(entry))
}

/// Reads the kernel's own files, whatever the host's hierarchy: none of them is unreadable, and memory is in use.
#[test]
fn the_kernels_files_are_readable() {
    let root = Path::new("/sys/fs/cgroup");
    let found = match root.join("memory/memory.stat").exists() {
        true => {
            let names = ["memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "rdma"];
            let paths = names.iter().map(|name| (*name, root.join(name)));
            let paths: Vec<_> = paths.filter(|(_, path)| path.exists()).collect();
            let stats = cgroup(CgroupKind::V1, &paths).stats().unwrap();
            let found = v1_metrics(&stats);
            assert!(found.cpu.usage.total > 0 && found.memory_oom_control.is_some() && found.blkio.is_some());
            found.memory.usage.usage
        }
        false => v2_metrics(&cgroup(CgroupKind::V2, &[("", root.to_owned())]).stats().unwrap()).cpu.usage_usec,
    };
    assert!(found > 0);
}
