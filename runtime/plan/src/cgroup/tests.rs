use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

fn plan(path: Option<&str>, resources: Json, layout: CgroupLayout) -> (CgroupPlan, Findings) {
    let mut linux = json!({ "resources": resources });
    if let Some(path) = path {
        linux["cgroupsPath"] = json!(path);
    }
    let spec = serde_json::from_value(json!({"ociVersion": "1.2.0", "linux": linux})).expect("a configuration");
    let mut findings = Findings::default();
    let plan = build(&spec, "abc", CgroupManager::Cgroupfs, &Host::of_root(layout), &mut findings);
    (plan, findings)
}

fn files(settings: &[Setting]) -> Vec<(&str, &str)> {
    settings.iter().map(|setting| (&*setting.file, setting.value.as_str())).collect()
}

fn resources(json: Json) -> LinuxResources {
    serde_json::from_value(json).expect("resources")
}

fn everything() -> Json {
    json!({
        "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
        "cpu": {"shares": 2048, "quota": 5000, "burst": 100, "cpus": "0-1", "mems": "0"},
        "pids": {"limit": 7},
        "blockIO": {
            "weight": 100,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 600}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
        "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}, "none": {}},
    })
}

#[test]
fn files_of_cgroup2() {
    let mut wishes = everything();
    wishes["unified"] = json!({"memory.high": "900", "io.max": "8:0 rbps=1\n8:16 rbps=2\n"});
    let (plan, findings) = plan(Some("/x"), wishes, CgroupLayout::V2);
    assert_eq!(findings.violations, vec![]);
    assert_eq!(
        files(&plan.settings.v2),
        [
            ("pids.max", "7"),
            ("memory.swap.max", "2000"),
            ("memory.max", "1000"),
            ("memory.low", "500"),
            ("io.bfq.weight", "100"),
            ("io.bfq.weight", "8:0 1000"),
            ("io.max", "8:0 rbps=600"),
            ("io.max", "8:16 wiops=max"),
            ("cpu.weight", "174"),
            ("cpu.max.burst", "100"),
            ("cpu.max", "5000 100000"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("hugetlb.2MB.max", "4194304"),
            ("hugetlb.2MB.rsvd.max", "4194304"),
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
            ("io.max", "8:0 rbps=1"),
            ("io.max", "8:16 rbps=2"),
            ("memory.high", "900"),
        ]
    );
    let Absent::Instead(other) = &plan.settings.v2[4].absent else { panic!("io.weight is the other way") };
    assert_eq!((&*other.file, other.value.as_str()), ("io.weight", "910"));
}

#[test]
fn files_of_v1() {
    let mut wishes = everything();
    wishes["memory"]["swappiness"] = json!(0);
    wishes["memory"]["kernelTCP"] = json!(4096);
    wishes["memory"]["disableOOMKiller"] = json!(true);
    wishes["cpu"]["realtimeRuntime"] = json!(9000);
    wishes["network"] = json!({"classID": 5, "priorities": [{"name": "lo", "priority": 3}]});
    let (plan, findings) = plan(Some("/x"), wishes, CgroupLayout::V1);
    assert_eq!(findings.violations, vec![]);
    assert_eq!(
        files(&plan.settings.v1),
        [
            ("cpu.rt_runtime_us", "9000"),
            ("cpu.shares", "2048"),
            ("cpu.cfs_quota_us", "5000"),
            ("cpu.cfs_burst_us", "100"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("memory.limit_in_bytes", "1000"),
            ("memory.memsw.limit_in_bytes", "3000"),
            ("memory.soft_limit_in_bytes", "500"),
            ("memory.kmem.tcp.limit_in_bytes", "4096"),
            ("memory.oom_control", "1"),
            ("memory.swappiness", "0"),
            ("pids.max", "7"),
            ("blkio.bfq.weight", "100"),
            ("blkio.bfq.weight_device", "8:0 1000"),
            ("blkio.throttle.read_bps_device", "8:0 600"),
            ("blkio.throttle.write_iops_device", "8:16 0"),
            ("hugetlb.2MB.limit_in_bytes", "4194304"),
            ("hugetlb.2MB.rsvd.limit_in_bytes", "4194304"),
            ("net_cls.classid", "5"),
            ("net_prio.ifpriomap", "lo 3"),
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
        ]
    );
    assert_eq!(plan.settings.v2, vec![]);
}

#[test]
fn swap_on_v2_is_what_is_left_of_the_sum() {
    let max = |limit: i64, swap: i64| {
        v2::swap_max(&resources(json!({"memory": {"limit": limit, "swap": swap}})).memory().expect("memory"))
    };
    assert_eq!(max(100, 300), Some(200));
    assert_eq!(max(100, 100), Some(0));
    assert_eq!(max(100, -1), Some(-1));
    assert_eq!(max(100, 0), None);
    assert_eq!(max(-1, 0), Some(-1));
    assert_eq!(max(-1, 50), Some(50));
}

#[test]
fn shares_and_weights_agree_at_both_ends_and_at_the_default() {
    let pairs = [(0, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_143, 10_000), (262_144, 10_000)];
    for (shares, weight) in pairs {
        assert_eq!(v2::weight(shares), weight, "{shares}");
    }
    assert_eq!((v2::io_weight(10), v2::io_weight(1000)), (1, 10_000));
}

#[test]
fn fields_that_cannot_be_honoured_are_named() {
    for (wishes, layout, paths) in [
        (json!({"memory": {"swap": 5}}), CgroupLayout::V2, vec!["linux.resources.memory.swap"]),
        (json!({"memory": {"limit": 9, "swap": 5}}), CgroupLayout::V1, vec!["linux.resources.memory.swap"]),
        (
            json!({"memory": {"disableOOMKiller": true}}),
            CgroupLayout::V2,
            vec!["linux.resources.memory.disableOOMKiller"],
        ),
        (json!({"memory": {"swappiness": 101}}), CgroupLayout::Hybrid, vec!["linux.resources.memory.swappiness"]),
        (json!({"memory": {"swappiness": 5}}), CgroupLayout::V2, vec!["linux.resources.memory.swappiness"]),
        (
            json!({"cpu": {"realtimeRuntime": 5, "realtimePeriod": 6, "idle": 2}}),
            CgroupLayout::V2,
            vec![
                "linux.resources.cpu.realtimeRuntime",
                "linux.resources.cpu.realtimePeriod",
                "linux.resources.cpu.idle",
            ],
        ),
        (
            json!({"cpu": {"shares": 1, "cpus": "0;1"}}),
            CgroupLayout::V1,
            vec!["linux.resources.cpu.shares", "linux.resources.cpu.cpus"],
        ),
        (json!({"blockIO": {"weight": 5}}), CgroupLayout::V2, vec!["linux.resources.blockIO.weight"]),
        (
            json!({"hugepageLimits": [{"pageSize": "2m", "limit": -1}]}),
            CgroupLayout::V2,
            vec!["linux.resources.hugepageLimits[0].pageSize", "linux.resources.hugepageLimits[0].limit"],
        ),
        (
            json!({"unified": {"a/b.c": "1", "memory": "1", "cgroup.procs": "1"}}),
            CgroupLayout::V2,
            vec![
                "linux.resources.unified[\"a/b.c\"]",
                "linux.resources.unified[\"cgroup.procs\"]",
                "linux.resources.unified[\"memory\"]",
            ],
        ),
        (json!({"unified": {"memory.high": "1"}}), CgroupLayout::Hybrid, vec!["linux.resources.unified"]),
        (
            json!({"memory": {"limit": 5}, "pids": {"limit": 5}}),
            CgroupLayout::None,
            vec!["linux.resources.memory", "linux.resources.pids"],
        ),
    ] {
        let (_, findings) = plan(None, wishes.clone(), layout);
        let found: Vec<&str> = findings.violations.iter().map(|it| it.path.as_str()).collect();
        assert_eq!(found, paths, "{wishes}");
    }
}

#[test]
fn settings_that_runtimes_ignore_cause_a_warning() {
    let wishes = json!({"memory": {"kernel": 1}, "network": {"classID": 5}});
    let (_, findings) = plan(None, wishes, CgroupLayout::V2);
    assert_eq!((findings.violations.len(), findings.warnings.len()), (0, 2));
}

#[test]
fn no_path_is_the_id_below_the_callers_cgroup() {
    let (plan_of_none, _) = plan(None, json!({}), CgroupLayout::V2);
    assert_eq!(plan_of_none.placement, Placement::V2(CgroupPath { base: Base::Own, path: "abc".into() }));
    let (plan, _) = plan(Some("/docker/../x//y"), json!({}), CgroupLayout::Hybrid);
    let path = CgroupPath { base: Base::Root, path: "x/y".into() };
    assert_eq!(plan.placement, Placement::V1 { path, hybrid: true });
}

#[test]
fn an_update_includes_settings_that_share_a_file() {
    let old = resources(everything());
    let new = resources(json!({"cpu": {"period": 50_000}, "memory": {"limit": 2000}}));
    let mut findings = Findings::default();
    let change = change(&old, &new, CgroupLayout::V2, &mut findings);
    assert_eq!(findings.violations, vec![]);
    assert_eq!(
        files(&change.settings.v2),
        [("memory.swap.max", "1000"), ("memory.max", "2000"), ("cpu.max", "5000 50000")]
    );
    assert_eq!(change.devices, None);
    let cpu = change.resources.cpu().clone().expect("cpu");
    assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(2048), Some(5000), Some(50_000)));
}

#[test]
fn an_update_to_zero_names_no_limit() {
    let old = resources(everything());
    let zeros =
        resources(json!({"memory": {"limit": 0, "swap": 0, "reservation": 0}, "cpu": {"quota": 0, "period": 0}}));
    for kind in [CgroupLayout::V2, CgroupLayout::V1, CgroupLayout::Hybrid] {
        let mut findings = Findings::default();
        let change = change(&old, &zeros, kind, &mut findings);
        assert_eq!((findings.violations, change.resources), (vec![], old.clone()));
    }
    let lifted = resources(json!({"memory": {"limit": -1, "swap": 0}}));
    let change = change(&old, &lifted, CgroupLayout::V2, &mut Findings::default());
    assert_eq!(files(&change.settings.v2), [("memory.swap.max", "max"), ("memory.max", "max")]);
}

#[test]
fn a_pids_limit_of_zero_is_none_before_version_1_3() {
    for (version, limit) in [
        ("1.0.2", -1),
        ("1.2.1", -1),
        ("1.2.1+dev", -1),
        ("1.0.0-rc5", -1),
        ("1.3.0", 0),
        ("1.3.0-rc.1", 0),
        ("1.10.0", 0),
        ("", 0),
    ] {
        let mut settled = resources(json!({"pids": {"limit": 0}}));
        settle_zero_pids(&mut settled, version);
        assert_eq!(settled.pids().map(|pids| pids.limit()), Some(limit), "{version}");
    }
    let (plan, _) = plan(None, json!({"pids": {"limit": 0}}), CgroupLayout::V2);
    assert_eq!(files(&plan.settings.v2), [("pids.max", "max")]);
}

#[test]
fn an_update_that_changes_nothing_is_known_as_such() {
    let old = resources(everything());
    let unlimited = resources(json!({}));
    for (old, new) in [
        (&old, json!({})),
        (&old, everything()),
        (&old, json!({"memory": {}, "cpu": {"shares": 2048}})),
        (&unlimited, json!({"memory": {"limit": 0}, "cpu": {}, "blockIO": {}, "devices": [], "unified": {}})),
        (&unlimited, json!({"pids": {"limit": -1}, "memory": {"limit": -1}})),
    ] {
        assert_eq!(changed_field(old, &resources(new.clone())), None, "{new}");
    }
    for (new, field) in [
        (json!({"memory": {"limit": 1001}}), "linux.resources.memory.swap"),
        (json!({"pids": {"limit": 8}}), "linux.resources.pids.limit"),
        (json!({"cpu": {"idle": 1}}), "linux.resources.cpu.idle"),
        (json!({"devices": [{"allow": false, "access": "rwm"}]}), "linux.resources.devices"),
    ] {
        assert_eq!(changed_field(&old, &resources(new.clone())).as_deref(), Some(field), "{new}");
    }
}

#[test]
fn without_a_cgroup_only_limits_are_refused() {
    let (_, findings) =
        plan(None, json!({"pids": {"limit": -1}, "memory": {}, "cpu": {"quota": -1}}), CgroupLayout::None);
    assert_eq!(findings.violations, vec![]);
}

#[test]
fn an_update_changes_one_device_of_many() {
    let device = |minor: i64, rate: u64| json!({"major": 8, "minor": minor, "rate": rate});
    let old = resources(json!({"blockIO": {"throttleReadBpsDevice": [device(0, 1), device(16, 2)]}}));
    let new = resources(json!({"blockIO": {"throttleReadBpsDevice": [device(16, 9)]}}));
    let change = change(&old, &new, CgroupLayout::V1, &mut Findings::default());
    assert_eq!(files(&change.settings.v1), [("blkio.throttle.read_bps_device", "8:16 9")]);
    let merged = change.resources.block_io().clone().expect("block");
    let rates: Vec<(i64, u64)> =
        merged.throttle_read_bps_device().iter().flatten().map(|device| (device.minor(), device.rate())).collect();
    assert_eq!(rates, [(0, 1), (16, 9)]);
}

#[test]
fn a_container_that_may_write_to_its_own_cgroup_owns_it() {
    let owner_of = |namespaces: Json, options: Json, uid: u32| {
        let spec = serde_json::from_value(json!({
            "ociVersion": "1.2.0",
            "process": {"cwd": "/", "user": {"uid": uid, "gid": 0}},
            "mounts": [{"destination": "/sys/fs/cgroup/", "type": "cgroup", "source": "cgroup", "options": options}],
            "linux": {
                "namespaces": namespaces,
                "uidMappings": [{"containerID": 0, "hostID": 100_000, "size": 1000}],
            },
        }))
        .expect("a configuration");
        build(&spec, "abc", CgroupManager::Cgroupfs, &Host::of_root(CgroupLayout::V2), &mut Findings::default()).owner
    };
    let both = json!([{"type": "cgroup"}, {"type": "user"}]);
    assert_eq!(owner_of(both.clone(), json!(["nosuid"]), 0), Some(100_000));
    assert_eq!(owner_of(both.clone(), json!([]), 7), Some(100_007));
    assert_eq!(owner_of(both.clone(), json!([]), 1000), None);
    assert_eq!(owner_of(both.clone(), json!(["ro"]), 0), None);
    assert_eq!(owner_of(both, json!(["ro", "rw"]), 0), Some(100_000));
    assert_eq!(owner_of(json!([{"type": "user"}]), json!([]), 0), None);
    assert_eq!(owner_of(json!([{"type": "cgroup", "path": "/x"}, {"type": "user"}]), json!([]), 0), None);
    assert_eq!(owner_of(json!([{"type": "cgroup"}]), json!([]), 0), None);
    assert_eq!(owner_of(json!([{"type": "cgroup"}]), json!([]), 33), Some(33));
}

proptest! {
    #[test]
    fn no_path_leaves_its_base(path in "[a./:]{0,12}") {
        let clean = cleaned(Path::new(&path));
        prop_assert!(clean.path.components().all(|part| matches!(part, Component::Normal(_))));
        prop_assert_eq!(clean.base == Base::Root, path.starts_with('/'));
    }

    #[test]
    fn an_update_with_nothing_changes_nothing(limit in 1i64..1000, quota in 1i64..1000) {
        let old = resources(json!({"memory": {"limit": limit}, "cpu": {"quota": quota}, "pids": {"limit": limit}}));
        let change = change(&old, &LinuxResources::default(), CgroupLayout::V2, &mut Findings::default());
        prop_assert_eq!(change.settings, Settings::default());
        prop_assert_eq!(change.resources, old);
    }

    #[test]
    fn weights_rise_with_shares(shares in 2u64..262_144) {
        prop_assert!(v2::weight(shares) <= v2::weight(shares + 1));
        prop_assert!((1..=10_000).contains(&v2::weight(shares)));
    }
}
