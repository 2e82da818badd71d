//! Whole roots: prepared, entered, finished.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use brig_engine::rootfs::{self, RootContext};
use brig_plan::Finished;
use brig_plan::mounts::{MountOptions, Pivot, RootfsPlan};
use serde_json::json;

use crate::bed::{Bed, edited, in_bed, mounts_of};

/// An image with paths to mask, and the plan of a typical container.
pub fn usual(bed: &Bed, options: &MountOptions) -> Finished<RootfsPlan> {
    std::fs::create_dir_all(bed.root("etc/secret.d")).expect("mkdir");
    std::fs::create_dir_all(bed.root("fixed/inner")).expect("mkdir");
    std::fs::create_dir(bed.root("var")).expect("mkdir");
    for file in ["etc/secret", "etc/secret2", "etc/secret.d/x", "fixed/inner/file"] {
        std::fs::write(bed.root(file), "text").expect("write");
    }
    symlink("/run", bed.root("var/run")).expect("symlink");
    std::fs::write(bed.host("hosts"), "127.0.0.1 localhost\n").expect("write");
    bed.plan_with(
        json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
             "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/etc/hosts", "type": "bind", "source": bed.host("hosts"), "options": ["rbind", "ro"]},
            {"destination": "/var/run/secrets", "type": "bind", "source": bed.host(""), "options": ["rbind", "rw"]},
        ]),
        json!({
            "maskedPaths": ["/etc/secret", "/etc/secret2", "/etc/secret.d", "/fixed/inner/../../etc/secret.d", "/none/such"],
            "readonlyPaths": ["/fixed", "/none"],
            "devices": [
                {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/pipe", "type": "p"},
                {"path": "/dev/loop7", "type": "b", "major": 7, "minor": 7},
            ],
        }),
        options,
    )
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.expect_err("it must fail").raw_os_error()
}

/// Inspects the finished root of [`usual`] from inside.
pub fn look_around(host_bundle: &Path, nodes_are_bound: bool) {
    assert!(!host_bundle.exists(), "the host is out of reach");
    assert_eq!(std::env::current_dir().expect("cwd"), Path::new("/"));
    let mounts = mounts_of(Path::new("/proc"));
    for (target, kind) in [("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/mqueue", "mqueue")] {
        assert_eq!(mounts[Path::new(target)].kind, kind, "{target}");
    }
    let dev = &mounts[Path::new("/dev")];
    assert!(dev.has("nosuid") && !dev.has("relatime") && dev.super_options.contains(&"size=65536k".to_owned()));
    assert!(mounts[Path::new("/dev/shm")].has("noexec") && mounts[Path::new("/dev/shm")].has("relatime"));
    let node = |path: &str| {
        let meta = std::fs::metadata(path).expect(path);
        assert!(meta.file_type().is_char_device(), "{path}");
        (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()), meta.permissions().mode() & 0o7777)
    };
    let mode = |path: &str, there| if nodes_are_bound { node(path).2 } else { there };
    for (path, major, minor) in [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/tty", 5, 0)] {
        assert_eq!(node(path), (major, minor, mode(path, 0o666)));
    }
    if !nodes_are_bound {
        assert_eq!(node("/dev/net/tun"), (10, 200, 0o640));
        let tun = std::fs::metadata("/dev/net/tun").expect("tun");
        assert_eq!((tun.uid(), tun.gid()), (5, 6));
        assert!(std::fs::metadata("/dev/loop7").expect("loop7").file_type().is_block_device());
    }
    assert!(std::fs::metadata("/dev/pipe").expect("pipe").file_type().is_fifo());
    let link = |path: &str| std::fs::read_link(path).expect(path);
    assert_eq!(link("/dev/ptmx"), Path::new("pts/ptmx"));
    assert_eq!(link("/dev/stderr"), Path::new("/proc/self/fd/2"));
    assert_eq!(std::fs::read_to_string("/etc/hosts").expect("hosts"), "127.0.0.1 localhost\n");
    assert_eq!(errno(std::fs::write("/etc/hosts", "")), Some(libc::EROFS));
    assert!(Path::new("/run/secrets/hosts").exists(), "a symlink of the image was followed inside it");
    // A node of the host on a writable mount exposes its inode to the container.
    let is_sealed = |path: &str| ["ro", "nosuid", "noexec"].iter().all(|option| mounts[Path::new(path)].has(option));
    for masked in ["/etc/secret", "/etc/secret2"] {
        assert_eq!(node(masked).0, 1);
        assert_eq!(std::fs::read(masked).expect(masked), b"");
        assert!(is_sealed(masked), "{masked}: {:?}", mounts[Path::new(masked)]);
    }
    if nodes_are_bound {
        for path in ["/dev/null", "/dev/zero", "/dev/tty"] {
            assert!(is_sealed(path), "{path}: {:?}", mounts[Path::new(path)]);
        }
        std::fs::write("/dev/null", "x").expect("a device on a read-only mount is written all the same");
    }
    assert_eq!(std::fs::read_dir("/etc/secret.d").expect("dir").count(), 0);
    assert_eq!(errno(std::fs::write("/etc/secret.d/y", "")), Some(libc::EROFS));
    assert_eq!(errno(std::fs::write("/fixed/inner/file", "")), Some(libc::EROFS));
    std::fs::write("/etc/free", "").expect("what is not listed can be written");
}

#[test]
fn a_usual_root_by_pivot() {
    in_bed(|bed| {
        let plan = usual(bed, &MountOptions::default());
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        root.enter(&plan).expect("enter");
        root.finish(&plan).expect("finish");
        look_around(bed.bundle(), false);
        let mounts = mounts_of(Path::new("/proc"));
        assert!(mounts.keys().all(|target| !target.starts_with(bed.bundle())), "{mounts:?}");
        // Must leave the namespace first, because the bundle's removal needs the host's root.
    });
}

#[test]
fn a_root_without_pivot() {
    in_bed(|bed| {
        let plan = usual(bed, &MountOptions { no_pivot: true, ..MountOptions::default() });
        assert_eq!(plan.pivot, Pivot::Move);
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        root.enter(&plan).expect("enter");
        root.finish(&plan).expect("finish");
        look_around(bed.bundle(), false);
    });
}

#[test]
fn a_read_only_root_and_dev() {
    in_bed(|bed| {
        let plan = bed.plan(
            json!([
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nosuid"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/fixed", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nodev"]},
                {"destination": "/fixed/inner", "type": "tmpfs", "source": "tmpfs"},
                {"destination": "/copied", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "tmpcopyup"]},
                {"destination": "/whole", "type": "tmpfs", "source": "tmpfs", "options": ["rro"]},
                {"destination": "/whole/inner", "type": "tmpfs", "source": "tmpfs"},
            ]),
            json!({}),
        );
        let plan = edited(&plan, |plan| plan["readonly"] = json!("ROOT | DEV"));
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        root.enter(&plan).expect("enter");
        root.finish(&plan).expect("finish");
        assert_eq!(errno(std::fs::write("/x", "")), Some(libc::EROFS));
        assert_eq!(errno(std::fs::write("/dev/x", "")), Some(libc::EROFS));
        std::fs::write("/dev/null", "x").expect("a device is written all the same");
        for path in ["/fixed/x", "/copied/x", "/whole/x"] {
            assert_eq!(errno(std::fs::write(path, "")), Some(libc::EROFS), "{path}");
        }
        assert!(mounts_of(Path::new("/proc"))[Path::new("/fixed")].has("nodev"));
        std::fs::write("/whole/inner/x", "").expect("a mount in one that is read-only as a whole was made later");
        std::fs::write("/fixed/inner/x", "").expect("a mount in a read-only one stays as it was");
        std::fs::write("/tmp/x", "").expect("a mount of its own stays as it was");
        assert!(mounts_of(Path::new("/proc"))[Path::new("/dev")].has("nosuid"));
    });
}

#[test]
fn a_terminal_becomes_the_console() {
    in_bed(|bed| {
        let plan = usual(bed, &MountOptions::default());
        let root = rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        let master = root.open_ptmx().expect("ptmx");
        let slave = crate::special::open_slave(&master);
        root.bind_console(&slave).expect("console");
        let (console, slave) = (bed.root("dev/console").metadata().expect("console"), rustix::fs::fstat(&slave));
        assert_eq!(console.rdev(), slave.expect("fstat").st_rdev);
        let null = std::fs::File::open("/dev/null").expect("null");
        assert!(root.bind_console(&null).is_err(), "no terminal");
    });
}
