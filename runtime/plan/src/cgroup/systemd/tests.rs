use serde_json::{Value as Json, json};

use super::super::{CgroupManager, Placement, build};
use super::*;
use crate::Finished;
use crate::host::CgroupLayout;

fn unit_of(path: &str, annotations: Json) -> (Option<Finished<UnitPlan>>, Vec<String>) {
    unit_on(&Host::of_root(CgroupLayout::V2), path, annotations)
}

fn unit_on(host: &Host, path: &str, annotations: Json) -> (Option<Finished<UnitPlan>>, Vec<String>) {
    let spec = serde_json::from_value(json!({
        "ociVersion": "1.2.0", "annotations": annotations, "linux": {"cgroupsPath": path},
    }))
    .expect("a configuration");
    let mut findings = Findings::default();
    let plan = build(&spec, "abc", CgroupManager::Systemd, host, &mut findings);
    let unit = match plan.placement {
        Placement::Systemd(unit) => Some(unit),
        _ => None,
    };
    (unit, findings.violations.iter().map(ToString::to_string).collect())
}

fn limits_of(json: Json) -> Vec<(String, Value)> {
    limits_on(CgroupLayout::V2, json)
}

fn limits_on(layout: CgroupLayout, json: Json) -> Vec<(String, Value)> {
    let resources = serde_json::from_value(json).expect("resources");
    limits(&resources, layout).into_iter().map(|property| (property.name, property.value)).collect()
}

#[test]
fn names_of_units() {
    let names = |path: &str| unit_of(path, json!({})).0.map(|unit| (unit.slice.clone(), unit.unit.clone()));
    let pair = |slice: &str, unit: &str| Some((slice.to_owned(), unit.to_owned()));
    assert_eq!(names(""), pair("system.slice", "brig-abc.scope"));
    assert_eq!(names("machine.slice:libpod:1f"), pair("machine.slice", "libpod-1f.scope"));
    assert_eq!(names(":docker:1f"), pair("system.slice", "docker-1f.scope"));
    assert_eq!(names("-.slice:docker:1f"), pair("-.slice", "docker-1f.scope"));
    assert_eq!(names("a.slice::n"), pair("a.slice", "-n.scope"));
    assert_eq!(names("a.slice:p:"), pair("a.slice", "p-.scope"));
    for wrong in ["/a/b", "a:b", "a:b:c:d", "no-slice:p:n", "a--b.slice:p:n", "a.slice:p:n/../m", ".slice:p:n"] {
        let (unit, violations) = unit_of(wrong, json!({}));
        assert_eq!((unit, violations.len()), (None, 1), "{wrong}: {violations:?}");
        assert!(violations[0].starts_with("linux.cgroupsPath: "), "{violations:?}");
    }
}

#[test]
fn annotations_become_properties_and_win() {
    let (unit, violations) = unit_of(
        "",
        json!({
            "org.systemd.property.TimeoutStopSec": "2",
            "org.systemd.property.Delegate": "false",
            "org.systemd.property.After": "['a.service']",
            "unrelated": "x",
        }),
    );
    assert_eq!(violations, Vec::<String>::new());
    let properties = unit.expect("a unit").properties.clone();
    let get = |name: &str| -> Vec<&Value> {
        properties.iter().filter(|property| property.name == name).map(|property| &property.value).collect()
    };
    assert_eq!(get("TimeoutStopUSec"), [&Value::U64(2_000_000)]);
    assert_eq!(get("Delegate"), [&Value::Bool(false)]);
    assert_eq!(get("After"), [&Value::Array("s".into(), vec![Value::text("a.service")])]);
    for name in ["SuccessAction", "Wants", "Conflicts", "PIDs", "Slice"] {
        let (_, violations) = unit_of("", json!({format!("org.systemd.property.{name}"): "['a.service']"}));
        assert!(violations[0].contains("reaches beyond the container's own unit"), "{violations:?}");
    }
    for (name, value) in [("bad-name", "true"), ("After", "a.service"), ("TimeoutStopSec", "'x'")] {
        let (_, violations) = unit_of("", json!({format!("org.systemd.property.{name}"): value}));
        assert_eq!(violations.len(), 1, "{name}");
    }
}

#[test]
fn a_unit_has_its_place_below_its_slice() {
    let place = |path: &str, annotations: Json| {
        let (unit, violations) = unit_of(path, annotations);
        assert_eq!(violations, Vec::<String>::new());
        unit.expect("a unit").cgroup_path()
    };
    assert_eq!(place("system.slice:p:n", json!({})).as_os_str(), "system.slice/p-n.scope");
    assert_eq!(place("a-b-c.slice:p:n", json!({})).as_os_str(), "a.slice/a-b.slice/a-b-c.slice/p-n.scope");
    assert_eq!(place("-.slice:p:n", json!({})).as_os_str(), "p-n.scope");
    let below = json!({"run.oci.systemd.subgroup": "container"});
    assert_eq!(place("a.slice:p:n", below).as_os_str(), "a.slice/p-n.scope/container");
}

#[test]
fn limits_as_properties() {
    let all = limits_of(json!({
        "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
        "cpu": {"shares": 1024, "quota": 5000, "period": 30_000, "cpus": "0-2,9", "mems": "0"},
        "pids": {"limit": 0},
    }));
    let bytes = |bytes: &[u8]| Value::Array("y".into(), bytes.iter().copied().map(Value::Byte).collect());
    let expected = [
        ("MemoryMax", Value::U64(1000)),
        ("MemoryLow", Value::U64(500)),
        ("MemorySwapMax", Value::U64(2000)),
        ("CPUWeight", Value::U64(100)),
        ("CPUQuotaPeriodUSec", Value::U64(30_000)),
        ("CPUQuotaPerSecUSec", Value::U64(170_000)),
        ("AllowedCPUs", bytes(&[0b111, 0b10])),
        ("AllowedMemoryNodes", bytes(&[1])),
        ("TasksMax", Value::U64(1)),
    ];
    assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value)));
    let none = limits_of(json!({"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}));
    assert!(none.iter().all(|(_, value)| *value == Value::U64(u64::MAX)), "{none:?}");
    assert_eq!(none.len(), 4);
    let raw = limits_of(json!({"unified": {"memory.high": "max", "hugetlb.2MB.max": "1"}}));
    assert_eq!(raw, [("MemoryHigh".to_owned(), Value::U64(u64::MAX))]);
}

#[test]
fn limits_have_the_names_of_v1_where_its_hierarchies_are() {
    let wishes = json!({
        "memory": {"limit": 1000, "swap": 3000, "reservation": 500},
        "cpu": {"shares": 1024, "quota": 5000, "period": 30_000, "cpus": "0-2"},
        "blockIO": {"weight": 100, "leafWeight": 50},
        "pids": {"limit": 0},
    });
    let expected = [
        ("MemoryLimit", Value::U64(1000)),
        ("CPUShares", Value::U64(1024)),
        ("CPUQuotaPeriodUSec", Value::U64(30_000)),
        ("CPUQuotaPerSecUSec", Value::U64(170_000)),
        ("AllowedCPUs", Value::Array("y".into(), vec![Value::Byte(0b111)])),
        ("BlockIOWeight", Value::U64(100)),
        ("TasksMax", Value::U64(1)),
    ];
    for layout in [CgroupLayout::V1, CgroupLayout::Hybrid] {
        assert_eq!(limits_on(layout, wishes.clone()), expected.clone().map(|(name, value)| (name.to_owned(), value)));
        let none = limits_on(layout, json!({"memory": {"limit": -1}, "pids": {"limit": -1}, "cpu": {"quota": -1}}));
        assert!(none.iter().all(|(_, value)| *value == Value::U64(u64::MAX)) && none.len() == 3, "{none:?}");
        assert_eq!(limits_on(layout, json!({"cpu": {"shares": 1024, "idle": 1}})), []);
        assert_eq!(
            limits_on(layout, json!({"memory": {"limit": 0}, "cpu": {"shares": 0}, "blockIO": {"weight": 0}})),
            []
        );
    }
}

#[test]
fn on_v1_a_scope_accounts_block_devices_by_their_v1_name_and_is_root_s_alone() {
    for layout in [CgroupLayout::V1, CgroupLayout::Hybrid] {
        let root = Host::of_root(layout);
        let unit = unit_on(&root, "a.slice:p:n", json!({})).0.expect("a unit");
        assert_eq!((unit.layout, unit.cgroup_path().as_os_str()), (layout, "a.slice/p-n.scope".as_ref()));
        let names: Vec<&str> = unit.properties.iter().map(|property| property.name.as_str()).collect();
        assert!(names.contains(&"BlockIOAccounting") && !names.contains(&"IOAccounting"), "{names:?}");
        for other in [Host { euid: 1000, ..root.clone() }, Host { in_user_namespace: true, ..root }] {
            let (unit, violations) = unit_on(&other, "", json!({}));
            assert!(unit.is_none() && violations[0].contains("serves only root"), "{violations:?}");
        }
    }
}

#[test]
fn a_scope_on_v1_hierarchies_writes_their_files() {
    let config = json!({"ociVersion": "1.2.0", "linux": {
        "cgroupsPath": "a.slice:p:n", "resources": {"memory": {"limit": 1000}, "pids": {"limit": 7}},
    }});
    let spec = serde_json::from_value(config).expect("a configuration");
    let files = |layout| {
        let plan = build(&spec, "n", CgroupManager::Systemd, &Host::of_root(layout), &mut Findings::default());
        let names =
            |settings: &[super::super::Setting]| settings.iter().map(|it| it.file.to_string()).collect::<Vec<_>>();
        (names(&plan.settings.v1), names(&plan.settings.v2))
    };
    let v1 = ["memory.limit_in_bytes", "pids.max"].map(str::to_owned).to_vec();
    assert_eq!(files(CgroupLayout::V1), (v1.clone(), vec![]));
    let (on_v1, on_v2) = files(CgroupLayout::Hybrid);
    assert_eq!(on_v1, v1);
    assert!(on_v2.contains(&"memory.max".to_owned()), "a controller may be on that side: {on_v2:?}");
}

#[test]
fn device_properties_are_never_narrower_than_the_rules() {
    let rule = |allow, kind, major, minor| DeviceRule { allow, kind, major, minor, access: 7 };
    let deny = rule(false, DeviceKind::All, None, None);
    let policy = |rules: &[DeviceRule]| {
        let list = device_properties(rules, CgroupLayout::V2);
        let policy = list.iter().find(|property| property.name == "DevicePolicy").map(|it| it.value.clone());
        let allow = list.iter().rev().find(|property| property.name == "DeviceAllow").map(|it| it.value.clone());
        (policy.expect("a policy"), allow.expect("a list"))
    };
    let pair = |path: &str| Value::Struct(vec![Value::text(path), Value::text("rwm")]);
    let rules = [
        deny,
        rule(true, DeviceKind::Char, Some(1), Some(3)),
        rule(true, DeviceKind::Block, Some(8), None),
        rule(true, DeviceKind::Char, None, Some(5)),
    ];
    let expected = vec![pair("/dev/char/1:3"), pair("block-8"), pair("char-*")];
    assert_eq!(policy(&rules), (Value::text("strict"), Value::Array("(ss)".into(), expected)));
    // The default rules end with `c *:* m`: it must not take away what one of the configuration gave.
    let made = DeviceRule { access: crate::cgroup::devices::MKNOD, ..rule(true, DeviceKind::Char, None, None) };
    let wide = [deny, rule(true, DeviceKind::Char, None, Some(5)), made];
    assert_eq!(policy(&wide).1, Value::Array("(ss)".into(), vec![pair("char-*")]));
    let all_but_one = [rule(true, DeviceKind::All, None, None), rule(false, DeviceKind::Char, Some(1), Some(3))];
    assert_eq!(policy(&all_but_one).0, Value::text("auto"));
    // A unit of v1 has to have a list, lest systemd move its processes out of its devices cgroup.
    let on_v1 = device_properties(&all_but_one, CgroupLayout::V1);
    let all = vec![pair("char-*"), pair("block-*")];
    assert_eq!(
        on_v1[1..].iter().map(|it| it.value.clone()).collect::<Vec<_>>(),
        [Value::text("strict"), Value::Array("(ss)".into(), all),]
    );
}
