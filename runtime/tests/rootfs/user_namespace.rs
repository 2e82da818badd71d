//! Roots in a user namespace. A thread cannot enter a user namespace, and therefore the test executes itself in one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use brig_engine::rootfs::{self, RootContext};
use brig_plan::mounts::MountOptions;
use serde_json::json;

use crate::bed::{edited, in_bed, seen};
use crate::whole::{look_around, usual};

const INSIDE: &str = "BRIG_TEST_IN_USER_NAMESPACE";

/// Returns true in the execution inside the user namespace; the outer one starts that, and returns false.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let binary = std::env::current_exe().expect("our own path");
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "--pid", "--ipc", "--fork", "--propagation", "unchanged"])
        .arg(binary)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare");
    assert!(status.success());
    false
}

#[test]
fn a_usual_root() {
    if !inside("user_namespace::a_usual_root") {
        return;
    }
    in_bed(|bed| {
        let plan = usual(bed, &MountOptions { user_namespace: true, ..MountOptions::default() });
        // Some hosts lack these nodes.
        let plan = edited(&plan, |plan| {
            let devices = plan["devices"].as_array_mut().expect("a list");
            devices.retain(|op| op["path"] != "/dev/net/tun" && op["path"] != "/dev/loop7");
        });
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        root.enter(&plan).expect("enter");
        root.finish(&plan).expect("finish");
        look_around(bed.bundle(), true);
    });
}

#[test]
fn a_node_of_the_host_that_is_another_device_is_not_bound() {
    if !inside("user_namespace::a_node_of_the_host_that_is_another_device_is_not_bound") {
        return;
    }
    in_bed(|bed| {
        let plan = bed.plan_with(
            json!([{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}]),
            json!({"devices": [{"path": "/dev/zero", "type": "c", "major": 1, "minor": 3}]}),
            &MountOptions { user_namespace: true, ..MountOptions::default() },
        );
        let text = rootfs::prepare(&plan, RootContext::default()).expect_err("another device").to_string();
        assert!(text.contains("/dev/zero") && text.contains("another device"), "{text}");
    });
}

#[test]
fn locked_flags_stay() {
    if !inside("user_namespace::locked_flags_stay") {
        return;
    }
    in_bed(|bed| {
        // A mount of /proc that is copied into the mount namespace of a less privileged user namespace has locked
        // flags, if it has any: the test searches the host for one.
        let mounts = crate::bed::mounts_of(Path::new("/proc"));
        let Some((source, _)) =
            mounts.iter().find(|(path, seen)| seen.has("nosuid") && path.metadata().is_ok_and(|m| m.is_dir()))
        else {
            return;
        };
        let bind = |options| json!({"destination": "/d", "source": source, "type": "bind", "options": options});
        bed.one(bind(json!(["bind", "ro"]))).expect("what is locked is kept");
        let mounted = seen(&bed.root("d"));
        assert!(mounted.has("nosuid") && mounted.has("ro"), "{mounted:?}");
        assert_eq!(bed.root("d").metadata().expect("stat").ino(), source.metadata().expect("stat").ino());
        bed.one(bind(json!(["bind", "suid"]))).expect_err("asked for by name, it cannot be had");
    });
}
