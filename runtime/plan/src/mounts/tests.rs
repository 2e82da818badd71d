//! Plans of whole configurations.

use super::*;
use crate::host::CgroupLayout;
use proptest::prelude::*;

pub(crate) fn host() -> Host {
    Host::of_root(CgroupLayout::V2)
}

pub(crate) fn build_json(json: &str, options: &MountOptions, host: &Host) -> (RootfsPlan, Findings) {
    let spec: Spec = serde_json::from_str(json).expect("a spec");
    let mut findings = Findings::default();
    let plan = build(&spec, Path::new("/bundle"), options, host, &mut findings);
    (plan, findings)
}

fn with_mounts(mounts: &str) -> (RootfsPlan, Findings) {
    let json = format!(
        r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"mounts":{mounts},
            "linux":{{"namespaces":[{{"type":"mount"}}]}}}}"#
    );
    build_json(&json, &MountOptions::default(), &host())
}

pub(crate) fn denied(findings: &Findings) -> Vec<&str> {
    findings.violations.iter().map(|violation| violation.path.as_str()).collect()
}

#[test]
fn default_mounts_are_planned() {
    let (plan, findings) = with_mounts(
        r#"[{"destination":"/proc","type":"proc","source":"proc"},
            {"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","strictatime","mode=755","ro"]},
            {"destination":"/data","type":"none","source":"data","options":["rbind","ro","rslave"]},
            {"destination":"etc/../etc/hosts","type":"bind","source":"/etc/hosts"}]"#,
    );
    assert_eq!(denied(&findings), [""; 0]);
    assert_eq!(findings.warnings, [""; 0], "a relative destination is reported by the checks");
    assert_eq!(plan.root, Path::new("/bundle/rootfs"));
    assert_eq!(plan.pivot, Pivot::Pivot);
    assert!(plan.setup_dev && plan.readonly == ReadOnly::DEV);
    assert_eq!(plan.devices.len(), 6);
    assert_eq!(plan.mounts[0].kind, MountKind::Proc);
    assert_eq!(plan.mounts[1].data, [("mode".to_owned(), Some("755".to_owned()))]);
    assert_eq!(plan.mounts[2].kind, MountKind::Bind { recursive: true });
    assert_eq!(plan.mounts[2].source, Path::new("/bundle/data"));
    assert_eq!(plan.mounts[2].propagation, [libc::MS_SLAVE | libc::MS_REC]);
    assert_eq!(plan.mounts[3].kind, MountKind::Bind { recursive: false });
    assert_eq!(plan.mounts[3].target, Path::new("/etc/hosts"));
}

#[test]
fn every_fault_is_reported_with_its_path() {
    let (_, findings) = with_mounts(
        r#"[{"destination":"/proc/self","type":"tmpfs","source":"tmpfs"},
            {"destination":"/proc","type":"tmpfs","source":"tmpfs"},
            {"destination":"","type":"tmpfs"},
            {"destination":"/x"},
            {"destination":"/x","type":"bind"},
            {"destination":"/x","type":"proc","options":["tmpcopyup"]},
            {"destination":"/proc/meminfo","type":"bind","source":"/x"}]"#,
    );
    assert_eq!(
        denied(&findings),
        [
            "mounts[0].destination",
            "mounts[1].destination",
            "mounts[2].destination",
            "mounts[3].type",
            "mounts[4].source",
            "mounts[5].options",
        ]
    );
}

#[test]
fn a_bound_dev_is_left_as_it_is() {
    let (plan, _) = with_mounts(r#"[{"destination":"/dev/","type":"bind","source":"/dev","options":["rbind"]}]"#);
    assert!(!plan.setup_dev);
    assert!(plan.devices.is_empty());
}

#[test]
fn data_on_a_bind_mount_warns() {
    let (plan, findings) =
        with_mounts(r#"[{"destination":"/x","type":"bind","source":"/x","options":["bind","size=1m"]}]"#);
    assert_eq!(plan.mounts.len(), 1);
    assert!(findings.warnings[0].contains("size"), "{:?}", findings.warnings);
}

#[test]
fn without_a_mount_namespace_nothing_of_the_host_is_restricted() {
    let json = r#"{"ociVersion":"1.0.2","root":{"path":"/r","readonly":true},
        "linux":{"namespaces":[{"type":"pid"}],"maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"]}}"#;
    let (plan, findings) = build_json(json, &MountOptions::default(), &host());
    assert_eq!(plan.pivot, Pivot::Chroot);
    assert_eq!(denied(&findings), ["linux.maskedPaths", "linux.readonlyPaths"]);
    assert!(plan.readonly.is_empty() && findings.warnings.iter().any(|warning| warning.starts_with("root.readonly: ")));
}

#[test]
fn a_path_is_masked_once_relative_to_the_root() {
    let json = r#"{"ociVersion":"1.0.2","root":{"path":"/r"},"linux":{"namespaces":[{"type":"mount"}],
        "maskedPaths":["/proc/keys","proc/kcore","/proc//keys","/proc/../proc/keys/","/proc/kcore"],
        "readonlyPaths":["proc/sys","/proc/sys"]}}"#;
    let (plan, findings) = build_json(json, &MountOptions::default(), &host());
    assert_eq!(denied(&findings), [""; 0]);
    assert_eq!(plan.masked_paths, [PathBuf::from("/proc/keys"), PathBuf::from("/proc/kcore")]);
    assert_eq!(plan.readonly_paths, [PathBuf::from("/proc/sys")]);
}

#[test]
fn private_propagation_needs_pivot_root() {
    let json = |name: &str| {
        format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"r"}},
                "linux":{{"namespaces":[{{"type":"mount"}}],"rootfsPropagation":"{name}"}}}}"#
        )
    };
    let no_pivot = MountOptions { no_pivot: true, ..MountOptions::default() };
    assert_eq!(denied(&build_json(&json("rprivate"), &no_pivot, &host()).1), ["linux.rootfsPropagation"]);
    assert_eq!(denied(&build_json(&json("bind"), &no_pivot, &host()).1), ["linux.rootfsPropagation"]);
    let (plan, findings) = build_json(&json("rprivate"), &MountOptions::default(), &host());
    assert_eq!(denied(&findings), [""; 0]);
    assert_eq!(plan.root_propagation, Some(libc::MS_PRIVATE | libc::MS_REC));
}

#[test]
fn a_mount_label_needs_selinux() {
    let json = r#"{"ociVersion":"1.0.2","root":{"path":"r"},
        "annotations":{"run.oci.mount_context_type":"rootcontext"},
        "linux":{"namespaces":[{"type":"mount"}],"mountLabel":"system_u:object_r:container_file_t:s0:c1,c2"}}"#;
    assert_eq!(denied(&build_json(json, &MountOptions::default(), &host()).1), ["linux.mountLabel"]);
    let selinux = Host { security_modules: SecurityModules::SELINUX, ..host() };
    let (plan, findings) = build_json(json, &MountOptions::default(), &selinux);
    assert_eq!(denied(&findings), [""; 0]);
    assert_eq!(plan.mount_label.map(|label| label.option).as_deref(), Some("rootcontext"));
}

#[test]
fn file_systems_that_look_up_host_paths_do_not_start_in_an_empty_namespace() {
    let fits = |mounts: &str| with_mounts(mounts).0.fits_empty_namespace();
    assert!(fits(r#"[{"destination":"/data","source":"/srv","options":["rbind"]}]"#));
    assert!(fits(r#"[{"destination":"/dev/pts","type":"devpts","source":"devpts"}]"#));
    assert!(!fits(r#"[{"destination":"/data","type":"ext4","source":"/dev/sda1"}]"#));
    let of = |more: &str, options: MountOptions| {
        let json = format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"linux":{{"namespaces":[{{"type":"mount"}}]{more}}}}}"#
        );
        build_json(&json, &options, &host()).0.fits_empty_namespace()
    };
    let plain = MountOptions::default();
    for (propagation, expected) in
        [("rslave", true), ("rprivate", true), ("slave", false), ("rshared", false), ("runbindable", false)]
    {
        assert_eq!(of(&format!(r#","rootfsPropagation":"{propagation}""#), plain), expected, "{propagation}");
    }
    assert!(!of("", MountOptions { no_pivot: true, ..plain }));
    assert!(!of("", MountOptions { user_namespace: true, ..plain }));
}

#[test]
fn a_plan_is_serialised_without_loss() {
    let (plan, _) = with_mounts(
        r#"[{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","size=1m","rro"]},
            {"destination":"/d","type":"bind","source":"/d","options":["rbind"]}]"#,
    );
    let bytes = postcard::to_stdvec(&plan).expect("it serialises");
    assert_eq!(postcard::from_bytes::<RootfsPlan>(&bytes).expect("and back"), plan);
}

proptest! {
    #[test]
    fn a_clean_path_is_absolute_and_has_no_dots(path in "[./a-c]{0,24}") {
        let clean = clean(Path::new(&path));
        prop_assert!(clean.is_absolute());
        prop_assert!(clean.components().skip(1).all(|c| matches!(c, Component::Normal(_))));
        prop_assert_eq!(super::clean(&clean), clean);
    }
}
