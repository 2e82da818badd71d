//! Attacks by an image, or by a process that shares a volume with the container: each one succeeded on a real runtime.

use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use brig_engine::rootfs::{self, RootContext};
use brig_plan::mounts::MountOptions;
use brig_sys::mount::mount_raw;
use brig_sys::procfs::Proc;
use rustix::fs::{OFlags, RenameFlags};
use serde_json::json;

use crate::bed::{edited, in_bed, in_namespace, mounts_of, tmpfs};
use crate::special::open_slave;
use crate::whole::usual;

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).expect("a directory").next().is_none()
}

#[test]
fn dev_is_a_symlink_to_the_host() {
    in_bed(|bed| {
        symlink(bed.host(""), bed.root("dev")).expect("symlink");
        let root = rootfs::prepare(&bed.plan(json!([]), json!({})), RootContext::default()).expect("prepare");
        assert!(is_empty(&bed.host("")), "nodes were made on the host");
        let inside = bed.root(bed.host("").to_str().expect("utf-8"));
        assert!(inside.join("null").metadata().expect("a node").file_type().is_char_device());
        drop(root);
    });
}

#[test]
fn a_symlink_under_dev_is_no_way_out() {
    in_bed(|bed| {
        std::fs::create_dir_all(bed.root("dev")).expect("mkdir");
        symlink(bed.host(""), bed.root("dev/net")).expect("symlink");
        symlink(bed.host("ptmx"), bed.root("dev/ptmx")).expect("symlink");
        symlink(bed.host("fd"), bed.root("dev/fd")).expect("symlink");
        let devices = json!({"devices": [{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}]});
        rootfs::prepare(&bed.plan(json!([]), devices), RootContext::default()).expect("prepare");
        assert!(is_empty(&bed.host("")));
        assert_eq!(std::fs::read_link(bed.root("dev/ptmx")).expect("link"), Path::new("pts/ptmx"));
    });
}

#[test]
fn a_file_in_the_place_of_a_device_is_refused() {
    for name in ["regular", "symlink"] {
        in_bed(move |bed| {
            std::fs::create_dir_all(bed.root("dev")).expect("mkdir");
            match name {
                "regular" => std::fs::write(bed.root("dev/null"), "").expect("write"),
                _ => symlink("/etc/passwd", bed.root("dev/null")).expect("symlink"),
            }
            let text =
                rootfs::prepare(&bed.plan(json!([]), json!({})), RootContext::default()).expect_err(name).to_string();
            assert!(text.contains("/dev/null"), "{text}");
        });
    }
}

/// CVE-2023-27561.
#[test]
fn proc_and_sys_on_a_symlink() {
    for kind in ["proc", "sysfs"] {
        in_bed(move |bed| {
            std::fs::create_dir(bed.root("elsewhere")).expect("mkdir");
            symlink("elsewhere", bed.root("target")).expect("symlink");
            for target in ["/target", "/target/deeper"] {
                let mount = json!({"destination": target, "source": kind, "type": kind});
                let text = bed.one(mount).expect_err(target).to_string();
                assert!(text.contains("must be mounted on ordinary directory"), "{text}");
            }
            std::fs::write(bed.root("file"), "").expect("write");
            bed.one(json!({"destination": "/file", "source": kind, "type": kind})).expect_err("a file");
            assert!(is_empty(&bed.root("elsewhere")));
        });
    }
}

/// CVE-2019-19921 and related ones: a mount over procfs, through a symlink that the plan cannot know of.
#[test]
fn a_symlink_to_proc_is_no_way_around_its_guard() {
    in_bed(|bed| {
        symlink("/proc/sys", bed.root("sysctl")).expect("symlink");
        symlink("/proc", bed.root("all")).expect("symlink");
        symlink("/proc/meminfo", bed.root("meminfo")).expect("symlink");
        std::fs::write(bed.host("file"), "").expect("write");
        let with_proc = |mount| {
            let mounts = json!([{"destination": "/proc", "source": "proc", "type": "proc"}, mount]);
            rootfs::prepare(&bed.plan(mounts, json!({})), RootContext::default())
        };
        for target in ["/sysctl", "/all", "/all/sys/kernel"] {
            let tmpfs = with_proc(json!({"destination": target, "source": "tmpfs", "type": "tmpfs"}));
            let text = tmpfs.expect_err(target).to_string();
            assert!(text.contains("inside /proc"), "{text}");
            let bind = json!({"destination": target, "source": bed.host(""), "options": ["bind"], "type": "bind"});
            with_proc(bind).expect_err(target);
        }
        let lxcfs = json!({"destination": "/meminfo", "source": bed.host("file"), "options": ["bind"], "type": "bind"});
        with_proc(lxcfs).expect("what lxcfs emulates may be mounted over");
    });
}

#[test]
fn only_procfs_is_bound_over_proc() {
    in_bed(|bed| {
        let bind =
            |source: &Path| json!({"destination": "/proc", "source": source, "options": ["rbind"], "type": "bind"});
        let text = bed.one(bind(&bed.host(""))).expect_err("a directory").to_string();
        assert!(text.contains("not of type proc"), "{text}");
        bed.one(bind(Path::new("/proc"))).expect("procfs");
    });
}

#[test]
fn a_magic_link_is_not_followed() {
    in_bed(|bed| {
        let out = Path::new("/proc/self/root").join(bed.host("").strip_prefix("/").expect("absolute"));
        symlink(out, bed.root("trap")).expect("symlink");
        let mounts = json!([
            {"destination": "/proc", "source": "proc", "type": "proc"},
            {"destination": "/trap", "source": "tmpfs", "type": "tmpfs"},
        ]);
        rootfs::prepare(&bed.plan(mounts, json!({})), RootContext::default()).expect_err("a magic link");
        assert!(!mounts_of(Path::new("/proc")).contains_key(&bed.host("")));
    });
}

/// CVE-2021-30465: a directory of a shared volume becomes a symlink between check and mount.
#[test]
fn a_target_swapped_for_a_symlink_while_it_is_mounted_on() {
    in_bed(|bed| {
        std::fs::create_dir(bed.root("swap")).expect("mkdir");
        std::fs::create_dir(bed.host("outside")).expect("mkdir");
        symlink(bed.host("outside"), bed.root("trap")).expect("symlink");
        let stop = Arc::new(AtomicBool::new(false));
        let enemy_stop = stop.clone();
        let turns = Arc::new(AtomicU32::new(0));
        let enemy_turns = turns.clone();
        let directory = std::fs::File::open(bed.root("")).expect("open");
        let enemy = std::thread::spawn(move || {
            while !enemy_stop.load(Ordering::Relaxed) {
                let flags = RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&directory, "swap", &directory, "trap", flags).expect("rename");
                enemy_turns.fetch_add(1, Ordering::Relaxed);
            }
        });
        // The loop runs until the attacker's thread has had its turns.
        for round in (0..).take_while(|round| *round < 200 || turns.load(Ordering::Relaxed) <= 100) {
            let mount = json!({"destination": format!("/swap/{round}"), "source": "tmpfs", "type": "tmpfs"});
            // An error is as good as a mount inside the root.
            let _root = bed.one(mount);
            let outside = |path: &Path| path.starts_with(bed.host(""));
            assert!(
                !mounts_of(Path::new("/proc")).keys().any(|path| outside(path)),
                "round {round}: mounted on the host"
            );
            brig_sys::mount::detach(&bed.root("")).expect("detach the root with all in it");
            assert!(is_empty(&bed.host("outside")), "round {round}: made on the host");
        }
        stop.store(true, Ordering::Relaxed);
        enemy.join().expect("the enemy");
    });
}

/// CVE-2025-31133: the file that masks others must be /dev/null itself.
#[test]
fn a_false_dev_null_hides_nothing() {
    in_bed(|bed| {
        std::fs::create_dir(bed.host("dev")).expect("mkdir");
        std::fs::write(bed.host("dev/null"), "the enemy's").expect("write");
        std::fs::write(bed.root("secret"), "secret").expect("write");
        let mounts = json!([{"destination": "/dev", "source": bed.host("dev"), "type": "bind", "options": ["rbind"]}]);
        let plan = bed.plan(mounts, json!({"maskedPaths": ["/secret"]}));
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        root.enter(&plan).expect("enter");
        root.finish(&plan).expect("finish");
        let secret = std::fs::metadata("/secret").expect("stat");
        assert!(secret.file_type().is_char_device() && secret.rdev() == rustix::fs::makedev(1, 3));
    });
}

/// CVE-2025-31133, on the runtime's side: the host's own /dev/null is checked as well.
#[test]
fn a_host_without_dev_null_masks_nothing_wrongly() {
    in_bed(|bed| {
        std::fs::write(bed.host("null"), "").expect("write");
        mount_raw(Some(bed.host("null").as_os_str()), Path::new("/dev/null"), None, libc::MS_BIND, None).expect("bind");
        let plan = bed.plan(json!([]), json!({"maskedPaths": ["/secret"]}));
        let plan = edited(&plan, |plan| plan["devices"] = json!([]));
        let text = rootfs::prepare(&plan, RootContext::default()).expect_err("no /dev/null").to_string();
        assert!(text.contains("1:3"), "{text}");
    });
}

/// CVE-2025-52565.
#[test]
fn a_console_that_is_a_symlink() {
    in_bed(|bed| {
        let plan = edited(&usual(bed, &MountOptions::default()), |plan| {
            plan["mounts"].as_array_mut().expect("a list").retain(|op| op["target"] != "/dev");
        });
        std::fs::create_dir(bed.root("dev")).expect("mkdir");
        std::fs::write(bed.host("victim"), "").expect("write");
        symlink(bed.host("victim"), bed.root("dev/console")).expect("symlink");
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        let slave = open_slave(&root.open_ptmx().expect("ptmx"));
        root.bind_console(&slave).expect_err("a symlink");
        assert!(bed.host("victim").metadata().expect("stat").is_file());
    });
}

#[test]
fn a_false_ptmx_is_not_opened() {
    in_bed(|bed| {
        std::fs::create_dir_all(bed.root("dev/pts")).expect("mkdir");
        nix::unistd::mkfifo(&bed.root("dev/pts/ptmx"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        let root = rootfs::prepare(&bed.plan(json!([]), json!({})), RootContext::default()).expect("prepare");
        root.open_ptmx().expect_err("a FIFO; and no wait for its writer");
    });
}

/// CVE-2019-16884: /proc is another file system.
#[test]
fn a_false_proc_is_seen_through() {
    in_namespace(|| {
        tmpfs(Path::new("/proc"), 0);
        std::fs::create_dir_all("/proc/self/attr").expect("mkdir");
        std::fs::write("/proc/self/attr/exec", "").expect("write");
        let proc = Proc::open().expect("an instance of our own");
        assert!(proc.read_to_string("self/status").expect("a real procfs").starts_with("Name:"));
    });
}

/// CVE-2023-28642 and CVE-2025-52881: procfs itself, with one file mounted over another.
#[test]
fn a_file_mounted_over_a_sysctl_is_not_written() {
    in_bed(|bed| {
        std::fs::write(bed.host("victim"), "untouched").expect("write");
        let sysctl = Path::new("/proc/sys/kernel/domainname");
        let before = std::fs::read_to_string(sysctl).expect("read");
        for victim in [bed.host("victim"), "/proc/self/oom_score_adj".into()] {
            mount_raw(Some(victim.as_os_str()), sysctl, None, libc::MS_BIND, None).expect("bind");
            let proc = Proc::open().expect("procfs");
            assert_eq!(proc.read_to_string("sys/kernel/domainname").expect("the real one"), before);
            proc.open_file("sys/kernel/domainname", OFlags::WRONLY).expect("to write the real one");
            brig_sys::mount::detach(sysctl).expect("detach");
        }
        assert_eq!(std::fs::read_to_string(bed.host("victim")).expect("read"), "untouched");
    });
}
