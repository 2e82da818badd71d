//! Options of single mounts, checked in mountinfo.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use brig_engine::rootfs::{self, RootContext};
use serde_json::json;

use crate::bed::{in_bed, seen, tmpfs};

#[test]
fn flags_of_binds() {
    in_bed(|bed| {
        let source = bed.host("source");
        // As with a remount by mount(2): any given flag clears those that are not given.
        for (there, options, expected) in [
            (0, json!(["bind"]), "rw,relatime"),
            (libc::MS_NOSUID | libc::MS_NODEV, json!(["bind"]), "rw,nosuid,nodev,relatime"),
            (libc::MS_NOSUID | libc::MS_NODEV, json!(["rbind", "ro"]), "ro,relatime"),
            (libc::MS_NOSUID, json!(["bind", "nosuid", "noexec", "nodev", "ro"]), "ro,nosuid,nodev,noexec,relatime"),
            (libc::MS_RDONLY, json!(["bind", "rw"]), "rw,relatime"),
            (libc::MS_NOATIME, json!(["bind", "ro"]), "ro,noatime"),
            (0, json!(["bind", "noatime", "nodiratime"]), "rw,noatime,nodiratime"),
            (libc::MS_NOATIME, json!(["bind", "strictatime"]), "rw"),
            (0, json!(["bind", "nosymfollow"]), "rw,relatime,nosymfollow"),
            (0, json!(["rbind", "rro", "rnoexec"]), "ro,noexec,relatime"),
            (libc::MS_NOEXEC, json!(["rbind", "rexec", "rnoatime"]), "rw,noatime"),
        ] {
            tmpfs(&source, there);
            bed.one(json!({"destination": "/d", "source": source, "type": "bind", "options": options})).expect("mount");
            assert_eq!(seen(&bed.root("d")).options.join(","), expected, "{options} on {there:#x}");
            brig_sys::mount::detach(&source).expect("detach");
        }
    });
}

#[test]
fn flags_of_new_file_systems() {
    in_bed(|bed| {
        for (options, expected) in [
            (json!([]), "rw,relatime"),
            (json!(["ro", "nosuid"]), "ro,nosuid,relatime"),
            (json!(["noatime", "sync", "dirsync"]), "rw,noatime"),
            (json!(["strictatime", "nodev", "noexec"]), "rw,nodev,noexec"),
            (json!(["ro", "rw", "suid"]), "rw,relatime"),
            (json!(["rro", "rnosuid"]), "ro,nosuid,relatime"),
        ] {
            bed.one(json!({"destination": "/t", "source": "x", "type": "ramfs", "options": options})).expect("mount");
            assert_eq!(seen(&bed.root("t")).options.join(","), expected, "{options}");
        }
        bed.one(json!({"destination": "/s", "source": "x", "type": "ramfs", "options": ["ro", "sync", "lazytime"]}))
            .expect("mount");
        let super_options = seen(&bed.root("s")).super_options;
        assert!(super_options.contains(&"ro".to_owned()) && super_options.contains(&"sync".to_owned()));
    });
}

#[test]
fn a_plain_flag_is_for_the_top_and_a_recursive_one_for_all() {
    in_bed(|bed| {
        tmpfs(&bed.host("source/below"), 0);
        let bind = |target: &str, option: &str| json!({"destination": target, "source": bed.host("source"), "type": "bind", "options": ["rbind", option]});
        bed.one(bind("/plain", "ro")).expect("mount");
        assert!(seen(&bed.root("plain/below")).has("rw"));
        bed.one(bind("/whole", "rro")).expect("mount");
        assert!(seen(&bed.root("whole/below")).has("ro"));
    });
}

#[test]
fn propagation_of_mounts() {
    in_bed(|bed| {
        tmpfs(&bed.host("source"), 0);
        for (option, expected) in [("rshared", "shared:"), ("private", ""), ("unbindable", "unbindable")] {
            let mount = json!({"destination": format!("/{option}"), "source": bed.host("source"), "type": "bind",
                               "options": ["rbind", option]});
            bed.one(mount).expect("mount");
            let optional = seen(&bed.root(option)).optional;
            assert!(
                optional.starts_with(expected) && optional.is_empty() == expected.is_empty(),
                "{option}: {optional}"
            );
        }
    });
}

#[test]
fn the_mode_of_a_tmpfs_is_that_of_the_directory_below() {
    in_bed(|bed| {
        std::fs::create_dir(bed.root("there")).expect("mkdir");
        std::fs::set_permissions(bed.root("there"), PermissionsExt::from_mode(0o2750)).expect("chmod");
        for (target, options, mode) in
            [("/there", json!([]), 0o2750), ("/there", json!(["mode=700"]), 0o700), ("/new", json!([]), 0o1777)]
        {
            bed.one(json!({"destination": target, "source": "tmpfs", "type": "tmpfs", "options": options}))
                .expect("mount");
            assert_eq!(bed.root(target).metadata().expect("stat").mode() & 0o7777, mode, "{target} {options}");
        }
    });
}

#[test]
fn tmpcopyup_copies_everything_of_the_image() {
    in_bed(|bed| {
        let root = |path: &str| bed.root("data").join(path);
        std::fs::create_dir_all(root("sub/deep")).expect("mkdir");
        std::fs::write(root("sub/deep/file"), vec![7_u8; 300_000]).expect("write");
        std::fs::set_permissions(root("sub/deep/file"), PermissionsExt::from_mode(0o4751)).expect("chmod");
        std::os::unix::fs::chown(root("sub"), Some(12), Some(34)).expect("chown");
        std::fs::set_permissions(root("sub"), PermissionsExt::from_mode(0o711)).expect("chmod");
        symlink("/etc/passwd", root("link")).expect("symlink");
        std::os::unix::fs::lchown(root("link"), Some(5), Some(5)).expect("lchown");
        let xattr = "trusted.brig";
        rustix::fs::setxattr(root("sub"), xattr, b"value", rustix::fs::XattrFlags::empty()).expect("setxattr");
        std::fs::set_permissions(bed.root("data"), PermissionsExt::from_mode(0o751)).expect("chmod");
        bed.one(
            json!({"destination": "/data", "source": "t", "type": "tmpfs", "options": ["tmpcopyup", "ro", "nodev"]}),
        )
        .expect("mount");
        let mounted = seen(&bed.root("data"));
        assert!(mounted.kind == "tmpfs" && mounted.has("nodev"));
        assert_eq!(bed.root("data").metadata().expect("stat").mode() & 0o7777, 0o751);
        let file = root("sub/deep/file");
        assert_eq!(std::fs::read(&file).expect("read"), vec![7_u8; 300_000]);
        assert_eq!(file.metadata().expect("stat").mode() & 0o7777, 0o4751);
        let sub = root("sub").metadata().expect("stat");
        assert_eq!((sub.uid(), sub.gid(), sub.mode() & 0o7777), (12, 34, 0o711));
        assert_eq!(std::fs::read_link(root("link")).expect("link"), Path::new("/etc/passwd"));
        assert_eq!(root("link").symlink_metadata().expect("stat").uid(), 5);
        let mut value = [0_u8; 16];
        let length = rustix::fs::getxattr(root("sub"), xattr, &mut value).expect("getxattr");
        assert_eq!(&value[..length], b"value");
    });
}

/// Creates `depth` nested directories named "d" below `top`.
fn nest(top: &Path, depth: usize) {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = rustix::fs::openat(CWD, top, flags, Mode::empty()).expect("open");
    for _ in 0..depth {
        rustix::fs::mkdirat(&directory, "d", Mode::from_raw_mode(0o755)).expect("mkdirat");
        directory = rustix::fs::openat(&directory, "d", flags, Mode::empty()).expect("openat");
    }
}

#[test]
fn tmpcopyup_of_a_tree_that_is_too_deep_is_an_error() {
    in_bed(|bed| {
        std::fs::create_dir(bed.root("data")).expect("mkdir");
        nest(&bed.root("data"), 20_000);
        let mount = json!({"destination": "/data", "source": "t", "type": "tmpfs", "options": ["tmpcopyup"]});
        let text = bed.one(mount).expect_err("too deep").to_string();
        assert!(text.contains("mounts[0]") && text.contains("tmpcopyup") && text.contains("2048 levels"), "{text}");
    });
}

#[test]
fn tmpcopyup_needs_few_descriptors_for_a_deep_tree() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    in_bed(|bed| {
        std::fs::create_dir(bed.root("data")).expect("mkdir");
        nest(&bed.root("data"), 1500);
        std::fs::write(bed.root("data/d/d/file"), "text").expect("write");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("getrlimit");
        setrlimit(Resource::RLIMIT_NOFILE, soft.min(1024), hard).expect("setrlimit");
        bed.one(json!({"destination": "/data", "source": "t", "type": "tmpfs", "options": ["tmpcopyup"]}))
            .expect("mount");
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("setrlimit");
        assert_eq!(std::fs::read(bed.root("data/d/d/file")).expect("read"), b"text");
        let mut deepest = std::fs::metadata(bed.root(&format!("data/{}", "d/".repeat(1400))));
        assert!(deepest.as_mut().is_ok_and(|found| found.is_dir()), "{deepest:?}");
    });
}

#[test]
fn links_as_sources_and_targets() {
    in_bed(|bed| {
        std::fs::write(bed.host("file"), "text").expect("write");
        symlink("file", bed.host("link")).expect("symlink");
        std::fs::write(bed.root("below"), "").expect("write");
        symlink("below", bed.root("image-link")).expect("symlink");
        let bind = |target: &str, option: &str| json!({"destination": target, "source": bed.host("link"), "type": "bind", "options": ["bind", option]});
        bed.one(bind("/copied", "copy-symlink")).expect("copy-symlink");
        assert_eq!(std::fs::read_link(bed.root("copied")).expect("a link"), Path::new("file"));
        bed.one(bind("/copied", "copy-symlink")).expect("once more");
        bed.one(bind("/itself", "src-nofollow")).expect("src-nofollow");
        assert_eq!(std::fs::read_link(bed.root("itself")).expect("a link"), Path::new("file"));
        bed.one(bind("/image-link", "dest-nofollow")).expect("dest-nofollow");
        assert_eq!(std::fs::read_to_string(bed.root("image-link")).expect("read"), "text");
        assert_eq!(std::fs::read_to_string(bed.root("below")).expect("read"), "", "not through the link");
    });
}

#[test]
fn a_mount_is_changed_in_place() {
    in_bed(|bed| {
        let plan = bed.plan(
            json!([
                {"destination": "/t", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid"]},
                {"destination": "/t", "type": "none", "source": "none", "options": ["remount", "bind", "ro"]},
            ]),
            json!({}),
        );
        rootfs::prepare(&plan, RootContext::default()).expect("prepare");
        assert_eq!(seen(&bed.root("t")).options.join(","), "ro,relatime");
    });
}

#[test]
fn errors_name_the_mount_and_the_reason() {
    in_bed(|bed| {
        let fails = |mount| bed.one(mount).expect_err("it must fail").to_string();
        let text = fails(json!({"destination": "/x", "source": "/no/such", "type": "bind", "options": ["bind"]}));
        assert!(text.contains("mounts[0]") && text.contains("/no/such: no such file or directory"), "{text}");
        let text = fails(json!({"destination": "/x", "source": "t", "type": "tmpfs", "options": ["size=much"]}));
        assert!(text.contains("mounts[0]") && text.contains("size=much") && text.contains("kernel"), "{text}");
        let text = fails(json!({"destination": "/x", "source": "t", "type": "nofs"}));
        assert!(text.contains("mounts[0].type: this kernel knows no file system \"nofs\""), "{text}");
        let text =
            fails(json!({"destination": "/x", "source": "t", "type": "tmpfs", "options": ["size=1m", "nosiud"]}));
        assert!(
            text.contains("mounts[0].options: \"nosiud\" is no option of tmpfs; did you mean \"nosuid\"?"),
            "{text}"
        );
        std::fs::create_dir(bed.root("directory")).expect("mkdir");
        std::fs::write(bed.host("file"), "").expect("write");
        let text = fails(json!({"destination": "/directory", "source": bed.host("file"), "options": ["bind"]}));
        assert!(text.ends_with("is not a directory") && text.contains("mounts[0].destination"), "{text}");
    });
}

#[test]
fn tmpcopyup_keeps_the_owner_that_the_options_name() {
    in_bed(|bed| {
        std::fs::create_dir(bed.root("data")).expect("mkdir");
        std::os::unix::fs::chown(bed.root("data"), Some(12), Some(34)).expect("chown");
        let mount = |options| json!({"destination": "/data", "source": "t", "type": "tmpfs", "options": options});
        for (options, owner) in [(json!(["tmpcopyup"]), (12, 34)), (json!(["tmpcopyup", "uid=5"]), (5, 34))] {
            bed.one(mount(options)).expect("mount");
            let found = bed.root("data").metadata().expect("stat");
            assert_eq!((found.uid(), found.gid()), owner);
            nix::mount::umount(&bed.root("data")).expect("umount");
        }
    });
}

#[test]
fn options_too_long_for_the_new_calls() {
    in_bed(|bed| {
        tmpfs(&bed.host("layers"), 0);
        let lower: Vec<_> = (0..12).map(|n| bed.host(&format!("layers/a-directory-with-a-long-name-{n}"))).collect();
        for directory in &lower {
            std::fs::create_dir(directory).expect("mkdir");
        }
        std::fs::write(lower[11].join("file"), "text").expect("write");
        let list: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
        let option = format!("lowerdir={}", list.join(":"));
        assert!(option.len() > 300);
        bed.one(json!({"destination": "/o", "source": "overlay", "type": "overlay", "options": [option, "nodev", "private"]}))
            .expect("mount");
        assert_eq!(std::fs::read_to_string(bed.root("o/file")).expect("read"), "text");
        assert!(seen(&bed.root("o")).has("nodev"));
    });
}
