//! Sources from the parent, propagation to and from the host, cgroups.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_engine::rootfs::{self, RootContext};
use brig_plan::mounts::{CgroupHierarchy, CgroupMounts, MountOptions};
use brig_sys::mount::mount_raw;
use brig_sys::tty::open_peer;
use nix::sched::CloneFlags;
use serde_json::json;

use crate::bed::{edited, in_bed, in_thread, seen, tmpfs};

/// Opens the slave side of a terminal.
pub fn open_slave(master: &OwnedFd) -> OwnedFd {
    open_peer(master.as_fd()).expect("the other side")
}

/// Runs `child` in a copy of this thread's mount namespace, as a container's process would.
fn in_container(child: impl FnOnce() + Send + 'static) {
    in_thread(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("unshare");
        child();
    });
}

#[test]
fn sources_are_opened_by_the_child_in_its_turn() {
    in_bed(|bed| {
        tmpfs(&bed.host("shared"), 0);
        mount_raw(None, &bed.host("shared"), None, libc::MS_SHARED, None).expect("shared");
        std::fs::write(bed.host("shared/file"), "text").expect("write");
        let plan = bed.plan(
            json!([
                {"destination": "/t", "source": "tmpfs", "type": "tmpfs"},
                {"destination": "/d", "source": bed.host("shared"), "type": "bind", "options": ["rbind"]},
                {"destination": "/f", "source": bed.host("shared/file"), "type": "bind", "options": ["bind", "ro"]},
            ]),
            json!({}),
        );
        let in_user_namespace = |plan: &_| edited(plan, |plan| plan["namespaces"] = json!("USER"));
        for plan in [rootfs::open_sources(&plan), rootfs::open_sources(&in_user_namespace(&plan))] {
            let opened = plan.expect("open_sources");
            assert!(opened.is_empty(), "without an id mapping each is the child's, in its turn: {opened:?}");
        }
        let (target, below) = (bed.root("d"), bed.host("shared/below"));
        std::fs::create_dir(&below).expect("mkdir");
        in_container(move || {
            rootfs::prepare(&plan, RootContext::default()).expect("prepare");
            assert_eq!(std::fs::read_to_string(target.join("file")).expect("read"), "text");
            assert!(seen(&target).optional.starts_with("master:"), "{:?}", seen(&target));
            tmpfs(&target.join("below"), 0);
            std::fs::write(target.join("below/mine"), "").expect("write");
        });
        assert!(!below.join("mine").exists(), "a mount in the container came to the host");
        let missing = bed.plan(json!([{"destination": "/x", "source": "/no/such", "options": ["bind"]}]), json!({}));
        let text = rootfs::prepare(&missing, RootContext::default()).expect_err("missing").to_string();
        assert!(text.contains("mounts[0].source") && text.contains("no such file or directory"), "{text}");
    });
}

#[test]
fn by_default_the_host_spreads_to_the_container_and_not_back() {
    in_bed(|bed| {
        tmpfs(&bed.host(""), 0);
        mount_raw(None, &bed.host(""), None, libc::MS_SHARED, None).expect("shared");
        for name in ["from-host", "from-container"] {
            std::fs::create_dir(bed.host(name)).expect("mkdir");
        }
        let plan = bed.plan(
            json!([{"destination": "/d", "source": bed.host(""), "type": "bind", "options": ["rbind"]}]),
            json!({}),
        );
        let (inside, host) = (bed.root("d"), bed.host(""));
        let (ready, wait) = std::sync::mpsc::channel::<()>();
        let (mounted, wait_mounted) = std::sync::mpsc::channel::<()>();
        let child = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).expect("unshare");
            rootfs::prepare(&plan, RootContext::default()).expect("prepare");
            tmpfs(&inside.join("from-container"), 0);
            std::fs::write(inside.join("from-container/x"), "").expect("write");
            ready.send(()).expect("send");
            wait_mounted.recv().expect("recv");
            assert!(inside.join("from-host/x").exists(), "a later mount of the host is seen");
        });
        if wait.recv().is_ok() {
            assert!(!host.join("from-container/x").exists());
            tmpfs(&host.join("from-host"), 0);
            std::fs::write(host.join("from-host/x"), "").expect("write");
            mounted.send(()).expect("send");
        }
        child.join().expect("the container");
    });
}

#[test]
fn root_propagation_is_as_configured() {
    for (name, expected) in [("rshared", "shared:"), ("rslave", ""), ("rprivate", ""), ("runbindable", "unbindable")] {
        in_bed(move |bed| {
            // A host whose root is shared, as under systemd.
            mount_raw(None, Path::new("/"), None, libc::MS_SHARED | libc::MS_REC, None).expect("shared");
            let plan = bed.plan(
                json!([{"destination": "/proc", "source": "proc", "type": "proc"}]),
                json!({"rootfsPropagation": name}),
            );
            let before = crate::bed::mounts_of(Path::new("/proc")).len();
            in_container(move || {
                let root = rootfs::prepare(&plan, RootContext::default()).expect(name);
                root.enter(&plan).expect(name);
                root.finish(&plan).expect(name);
                let root = crate::bed::mounts_of(Path::new("/proc"))[Path::new("/")].clone();
                assert!(root.optional.starts_with(expected), "{name}: {root:?}");
            });
            let after = crate::bed::mounts_of(Path::new("/proc")).len();
            assert_eq!(before, after, "{name}: a mount spread to the host, or was unmounted there");
        });
    }
}

/// The host's v1 hierarchies, with their roots as the container's own cgroups.
fn hierarchies() -> Vec<CgroupHierarchy> {
    let mounts = crate::bed::mounts_of(Path::new("/proc"));
    let below = |path: &Path| path.parent() == Some(Path::new("/sys/fs/cgroup"));
    mounts
        .iter()
        .filter(|(path, seen)| below(path) && seen.kind == "cgroup")
        .map(|(path, _)| {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let options = if name == "systemd" { "none,name=systemd".to_owned() } else { name.clone() };
            CgroupHierarchy { options, own: path.clone(), name }
        })
        .collect()
}

#[test]
fn cgroup_hierarchies_are_as_writable_as_asked() {
    in_bed(|bed| {
        let mut list = hierarchies();
        if list.is_empty() {
            return;
        }
        // A name of two controllers, as hosts mount cpu and cpuacct, stands for both.
        list[0].name = "one,two".to_owned();
        for (namespace, asked, user, readonly) in [
            (false, json!(["rw"]), false, false),
            (false, json!(["ro"]), false, true),
            // CVE-2023-25809
            (false, json!(["rw"]), true, true),
            (true, json!(["ro"]), false, true),
            (true, json!(["rw"]), false, false),
        ] {
            let mount = json!([{"destination": "/cg", "source": "cgroup", "type": "cgroup", "options": asked}]);
            let options = MountOptions { cgroup_namespace: namespace, user_namespace: user, ..MountOptions::default() };
            let plan = edited(&bed.plan_with(mount, json!({}), &options), |plan| {
                plan["devices"] = json!([]);
            });
            let context = RootContext { cgroup: CgroupMounts::V1(list.clone()), ..RootContext::default() };
            let (top, list) = (bed.root("cg"), list.clone());
            in_container(move || {
                if namespace {
                    nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).expect("unshare");
                }
                rootfs::prepare(&plan, context).expect("prepare");
                for hierarchy in &list {
                    let seen = seen(&top.join(&hierarchy.name));
                    assert!(seen.kind.starts_with("cgroup"), "{seen:?}");
                    assert_eq!(seen.has("ro"), readonly, "{} {asked}: {seen:?}", hierarchy.name);
                    assert!(seen.has("nosuid") && seen.has("nodev") && seen.has("noexec"));
                }
                assert_eq!(std::fs::read_link(top.join("two")).expect("alias"), Path::new("one,two"));
                assert_eq!(seen(&top).has("ro"), readonly);
            });
        }
    });
}

#[test]
fn the_v2_hierarchy_is_as_writable_as_asked() {
    in_bed(|bed| {
        let host = crate::bed::mounts_of(Path::new("/proc"));
        let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let Some(mountpoint) = places.into_iter().find(|at| host.get(*at).is_some_and(|m| m.kind == "cgroup2")) else {
            return;
        };
        // The third is CVE-2023-25809.
        for (namespace, asked, user, readonly) in [
            (false, "rw", false, false),
            (false, "ro", false, true),
            (false, "rw", true, true),
            (true, "rw", false, false),
        ] {
            let mount = json!([{"destination": "/sys/fs/cgroup", "source": "cgroup", "type": "cgroup",
                                "options": ["nosuid", "noexec", "nodev", "relatime", asked]}]);
            let options = MountOptions { cgroup_namespace: namespace, user_namespace: user, ..MountOptions::default() };
            let plan = edited(&bed.plan_with(mount, json!({}), &options), |plan| {
                plan["devices"] = json!([]);
            });
            let cgroup = CgroupMounts::V2 { mountpoint: mountpoint.into(), own: mountpoint.into() };
            let context = RootContext { cgroup, ..RootContext::default() };
            let top = bed.root("sys/fs/cgroup");
            in_container(move || {
                if namespace {
                    nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP).expect("unshare");
                }
                rootfs::prepare(&plan, context).expect("prepare");
                let seen = seen(&top);
                assert_eq!((seen.kind.as_str(), seen.has("ro")), ("cgroup2", readonly), "{seen:?}");
                assert!(top.join("cgroup.procs").exists());
            });
            // nsdelegate and its like belong to the hierarchy: a mount in the host's namespace would reset them.
            assert_eq!(seen(mountpoint).super_options, host[mountpoint].super_options);
        }
    });
}
