//! Tests with real mounts, each in a mount namespace of its own thread.

use super::*;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};

/// Runs a test in a mount namespace of its own, on a tmpfs. Returns false without the privilege.
fn isolated(test: impl FnOnce(&Path) + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let run = move || {
        ns::unshare(libc::CLONE_NEWNS as u64).unwrap();
        mount::set_propagation(Dir::open_host(Path::new("/")).unwrap().fd(), libc::MS_PRIVATE | libc::MS_REC).unwrap();
        let tmpfs = Filesystem::new("tmpfs").mount(0).unwrap();
        mount::attach_host(&tmpfs, &path).unwrap();
        test(&path);
    };
    std::thread::spawn(run).join().unwrap();
}

fn request(kind: &str, source: &Path, options: &[String]) -> Mount {
    Mount { kind: kind.into(), source: source.to_string_lossy().into(), options: options.into(), ..Mount::default() }
}

fn directory(base: &Path, name: &str) -> PathBuf {
    let path = base.join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

fn overlay(base: &Path, lower: &[PathBuf]) -> Mount {
    let lower: Vec<_> = lower.iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    let options = [
        "index=off".to_owned(),
        format!("workdir={}", directory(base, "work").display()),
        format!("upperdir={}", directory(base, "upper").display()),
        format!("lowerdir={}", lower.join(":")),
    ];
    request("overlay", Path::new("overlay"), &options)
}

/// Creates layers with one file each; the topmost comes first.
fn layers(base: &Path, count: usize, name: &str) -> Vec<PathBuf> {
    let layer = |number: usize| {
        let path = directory(base, &format!("{name}{number}"));
        fs::write(path.join(format!("file{number}")), number.to_string()).unwrap();
        fs::write(path.join("top"), number.to_string()).unwrap();
        path
    };
    (0..count).map(layer).collect()
}

fn mounts_below(path: &Path) -> usize {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    mount::parse_mountinfo(&table).iter().filter(|mount| Path::new(&mount.target).starts_with(path)).count()
}

#[test]
fn an_overlay_shows_its_layers_and_takes_writes() {
    isolated(|base| {
        let rootfs = base.join("rootfs");
        mount(&[overlay(base, &layers(base, 2, "l"))], &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("top")).unwrap(), "0");
        assert_eq!(fs::read_to_string(rootfs.join("file1")).unwrap(), "1");
        fs::write(rootfs.join("new"), "x").unwrap();
        assert_eq!(fs::read_to_string(base.join("upper/new")).unwrap(), "x");
        assert_eq!(mounts_below(&rootfs), 1);
        for _ in 0..2 {
            unmount(&rootfs).unwrap();
            assert_eq!(mounts_below(&rootfs), 0);
        }
        assert!(fs::read_dir(&rootfs).unwrap().next().is_none());
    });
}

#[test]
fn many_layers_need_no_page_of_options() {
    isolated(|base| {
        let rootfs = directory(base, "rootfs");
        let lower = layers(base, 120, "a-layer-with-quite-a-long-name-so-that-a-page-is-soon-full-");
        let request = overlay(base, &lower);
        assert!(request.options[3].len() > 2 * PAGE);
        mount(std::slice::from_ref(&request), &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("file119")).unwrap(), "119");
        unmount(&rootfs).unwrap();
        // A kernel that accepts one option only.
        let request = Request::new(0, &request).unwrap();
        let Kind::Overlay(layers) = &request.kind else { panic!("{request:?}") };
        let target = Target { rootfs: &rootfs, below: Path::new(""), fd: Dir::open_host(&rootfs).unwrap().into_fd() };
        request.overlay_in_one(layers, &target).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("top")).unwrap(), "0");
        assert_eq!(fs::read_to_string(rootfs.join("file119")).unwrap(), "119");
        unmount(&rootfs).unwrap();
    });
}

#[test]
fn a_layer_may_have_a_very_long_path_and_a_colon() {
    isolated(|base| {
        let rootfs = base.join("rootfs");
        let deep = directory(base, &format!("{}/{}", "d".repeat(200), "e".repeat(200)));
        fs::write(deep.join("deep"), "1").unwrap();
        let colon = directory(base, "a:b");
        fs::write(colon.join("colon"), "2").unwrap();
        let mut request = overlay(base, &[deep]);
        let escaped = colon.to_str().unwrap().replace(':', "\\:");
        request.options[3] = format!("{}:{escaped}", request.options[3]);
        mount(&[request], &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("deep")).unwrap(), "1");
        assert_eq!(fs::read_to_string(rootfs.join("colon")).unwrap(), "2");
        unmount(&rootfs).unwrap();
    });
}

#[test]
fn an_overlay_that_the_kernel_refuses_says_why() {
    isolated(|base| {
        let rootfs = base.join("rootfs");
        let mut request = overlay(base, &layers(base, 1, "l"));
        request.options.push("nonsense=1".to_owned());
        let text = mount(&[request], &rootfs).unwrap_err().to_string();
        assert!(text.starts_with("rootfs[0]: cannot mount overlay \"overlay\" on "), "{text}");
        assert!(text.contains("nonsense"), "{text}");
        let text = mount(&[overlay(base, &[base.join("nowhere")])], &rootfs).unwrap_err().to_string();
        assert!(text.contains("nowhere") || text.contains("No such file"), "{text}");
        assert_eq!(mounts_below(&rootfs), 0);
    });
}

#[test]
fn a_bind_can_be_read_only_and_recursive() {
    isolated(|base| {
        let source = directory(base, "source");
        let inner = directory(&source, "inner");
        mount::attach_host(Filesystem::new("tmpfs").mount(0).unwrap(), &inner).unwrap();
        fs::write(inner.join("file"), "1").unwrap();
        let rootfs = base.join("rootfs");
        let options = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        mount(&[request("bind", &source, &options(&["rbind", "ro"]))], &rootfs).unwrap();
        let error = fs::write(rootfs.join("x"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        assert_eq!(fs::read_to_string(rootfs.join("inner/file")).unwrap(), "1");
        fs::write(source.join("still"), "").unwrap();
        unmount(&rootfs).unwrap();
        mount(&[request("bind", &source, &options(&["bind"]))], &rootfs).unwrap();
        fs::write(rootfs.join("x"), "").unwrap();
        assert!(!rootfs.join("inner/file").exists());
        unmount(&rootfs).unwrap();
    });
}

#[test]
fn mounts_are_made_in_order_and_a_target_stays_inside() {
    isolated(|base| {
        let rootfs = base.join("rootfs");
        let image = directory(base, "image");
        // The image contains a link that leads out of it.
        symlink(base, image.join("link")).unwrap();
        directory(&image, &base.to_str().unwrap()[1..]);
        let first = request("bind", &image, &["rbind".to_owned()]);
        let mut second = request("tmpfs", Path::new("tmpfs"), &["size=64k".to_owned(), "noexec".to_owned()]);
        second.target = "/link".into();
        mount(&[first, second], &rootfs).unwrap();
        let inside = rootfs.join(&base.to_str().unwrap()[1..]);
        assert_eq!(mounts_below(&inside), 1);
        let error = fs::write(inside.join("large"), vec![0; 1 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        unmount(&rootfs).unwrap();
        assert_eq!(mounts_below(&rootfs), 0);
    });
}

#[test]
fn a_failure_takes_back_what_was_mounted_and_nothing_else() {
    isolated(|base| {
        let rootfs = directory(base, "rootfs");
        mount::attach_host(Filesystem::new("tmpfs").mount(0).unwrap(), &rootfs).unwrap();
        fs::write(rootfs.join("earlier"), "").unwrap();
        let good = request("tmpfs", Path::new("tmpfs"), &[]);
        let bad = request("bind", &base.join("nowhere"), &["rbind".to_owned()]);
        let text = mount(&[good.clone(), good, bad], &rootfs).unwrap_err().to_string();
        assert!(text.contains("rootfs[2]: cannot mount bind") && text.contains("nowhere"), "{text}");
        assert_eq!(mounts_below(&rootfs), 1);
        assert!(rootfs.join("earlier").exists());
    });
}

#[test]
fn stacked_and_scattered_mounts_all_go() {
    isolated(|base| {
        let rootfs = directory(base, "root fs");
        let tmpfs = || Filesystem::new("tmpfs").mount(0).unwrap();
        for name in ["a", "b/c"] {
            mount::attach_host(tmpfs(), &directory(&rootfs, name)).unwrap();
        }
        // Mounts below a path that is no mount itself, one of them in use.
        let _open = fs::File::open(rootfs.join("a")).unwrap();
        mount::attach_host(tmpfs(), &directory(&rootfs, "b/c/d")).unwrap();
        assert_eq!(mounts_below(&rootfs), 3);
        unmount(&rootfs).unwrap();
        assert_eq!(mounts_below(&rootfs), 0);
        for _ in 0..3 {
            mount::attach_host(tmpfs(), &rootfs).unwrap();
        }
        unmount(&rootfs).unwrap();
        assert_eq!(mounts_below(&rootfs), 0);
        unmount(&base.join("never there")).unwrap();
    });
}

#[test]
fn idmapped_mounts_show_other_owners() {
    isolated(|base| {
        let rootfs = base.join("rootfs");
        let lower = layers(base, 2, "l");
        chown(lower[0].join("file0"), Some(5), Some(6)).unwrap();
        let maps = ["uidmap=0:100000:1000".to_owned(), "gidmap=0:200000:1000".to_owned()];
        let owner = |name: &str| {
            let stat = fs::metadata(rootfs.join(name)).unwrap();
            (stat.uid(), stat.gid())
        };
        let mut bind = request("bind", &lower[0], &["rbind".to_owned()]);
        bind.options.extend(maps.clone());
        match mount(&[bind], &rootfs) {
            // tmpfs supports idmapped mounts since Linux 6.3.
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                assert!(error.to_string().contains("no idmapped mounts"), "{error}");
                assert_eq!(mounts_below(base), 1);
                return;
            }
            other => other.unwrap(),
        }
        assert_eq!(owner("file0"), (100_005, 200_006));
        unmount(&rootfs).unwrap();
        let mut request = overlay(base, &lower);
        request.options.extend(maps);
        mount(&[request], &rootfs).unwrap();
        assert_eq!(owner("file0"), (100_005, 200_006));
        assert_eq!(owner("file1"), (100_000, 200_000));
        assert!(!base.join(LAYERS).exists());
        assert_eq!(mounts_below(base), 2);
        unmount(&rootfs).unwrap();
    });
}

#[test]
fn a_file_is_mounted_through_a_loop_device_that_goes_with_it() {
    if !Path::new("/dev/loop-control").exists() || !Path::new("/sbin/mkfs.ext4").exists() {
        return;
    }
    isolated(|base| {
        let (rootfs, image) = (base.join("rootfs"), base.join("image"));
        fs::File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let made = std::process::Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&image).status().unwrap();
        assert!(made.success());
        let options = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        mount(&[request("ext4", &image, &options(&["loop"]))], &rootfs).unwrap();
        fs::write(rootfs.join("file"), "kept").unwrap();
        unmount(&rootfs).unwrap();
        mount(&[request("ext4", &image, &options(&["ro", "loop"]))], &rootfs).unwrap();
        assert_eq!(fs::read_to_string(rootfs.join("file")).unwrap(), "kept");
        assert_eq!(fs::write(rootfs.join("x"), "").unwrap_err().raw_os_error(), Some(libc::EROFS));
        unmount(&rootfs).unwrap();
        let text =
            mount(&[request("ext4", &base.join("nowhere"), &options(&["loop"]))], &rootfs).unwrap_err().to_string();
        assert!(text.contains("nowhere"), "{text}");
        // The loop device is freed by a work queue of the kernel.
        let used = || {
            let devices = fs::read_dir("/sys/block").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
            let files = devices.filter_map(|device| fs::read_to_string(device.join("loop/backing_file")).ok());
            files.filter(|file| file.contains(base.to_str().unwrap())).count()
        };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while used() > 0 {
            assert!(std::time::Instant::now() < deadline, "a loop device stays");
            std::thread::yield_now();
        }
    });
}
