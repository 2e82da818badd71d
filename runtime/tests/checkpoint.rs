//! Checkpoint and restore by CRIU. Needs root, busybox, and a CRIU that supports the running kernel: the tests are
//! skipped if `criu check` fails, except in the environment for CRIU, where this is a failure.
#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{Bundle, ForeignCgroup, show};

/// Checks that CRIU works on this host.
fn criu() -> bool {
    let works = Command::new("criu").arg("check").output().is_ok_and(|output| output.status.success());
    assert!(works || std::env::var("BRIG_BED").as_deref() != Ok("qemu"), "CRIU does not work in its own bed");
    works
}

/// Counts in /count, five times a second. The file is never empty meanwhile, as it would be with `>`.
const COUNTER: &str = "i=0; while sleep 0.2; do i=$((i+1)); echo $i 1<>/count; done";

fn counter() -> Bundle {
    Bundle::new(&["sh", "-c", COUNTER])
}

fn count(bundle: &Bundle) -> u32 {
    fs::read_to_string(bundle.rootfs("count")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn goes_on(bundle: &Bundle) {
    reaches(bundle, count(bundle) + 2);
}

/// Waits until the counter has reached `number`. The timeout is long, since the environment is an emulated machine on a
/// busy one.
fn reaches(bundle: &Bundle, number: u32) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while count(bundle) < number {
        assert!(Instant::now() < deadline, "it does not go on to {number}: {}", count(bundle));
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Creates and starts the container without the pipes of this test.
fn start(bundle: &Bundle) {
    bundle.write();
    let mut command = bundle.command(&["run", "-d", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{:?}", bundle.state());
    goes_on(bundle);
}

fn images(bundle: &Bundle, name: &str) -> String {
    bundle.path().join(name).to_str().unwrap().to_owned()
}

fn checkpoint(bundle: &Bundle, name: &str, flags: &[&str]) {
    let images = images(bundle, name);
    let args = [&["checkpoint", "--image-path", &images], flags, &[&bundle.id]].concat();
    let output = bundle.brig(&args);
    let log = fs::read_to_string(bundle.path().join(name).join("dump.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{}", show(&output), tail(&log));
}

fn restore(bundle: &Bundle, name: &str, flags: &[&str], id: &str) {
    let images = images(bundle, name);
    let bundle_path = bundle.path().to_str().unwrap();
    let args = [&["restore", "-d", "-b", bundle_path, "--image-path", &images], flags, &[id]].concat();
    let output = bundle.brig(&args);
    let log = fs::read_to_string(bundle.path().join(name).join("restore.log")).unwrap_or_default();
    assert!(output.status.success(), "{}\n{}", show(&output), tail(&log));
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[test]
fn a_restored_container_continues_where_it_stopped() {
    if !criu() {
        return;
    }
    let bundle = counter();
    start(&bundle);
    let before = bundle.state();
    checkpoint(&bundle, "images", &[]);
    assert!(!bundle.state_root().join(&bundle.id).exists(), "a container that was saved is gone");
    bundle.assert_nothing_left();
    let saved = count(&bundle);
    let pid_file = bundle.path().join("pid");
    restore(&bundle, "images", &["--pid-file", pid_file.to_str().unwrap()], &bundle.id);
    let state = bundle.state();
    assert_eq!((&state["status"], &state["bundle"]), (&json!("running"), &before["bundle"]));
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    goes_on(&bundle);
    assert!(count(&bundle) > saved, "it went on, and did not begin again");
    assert!(!bundle.cgroups().is_empty() && bundle.ok(&["ps", &bundle.id]).contains(COUNTER));
    assert_eq!(bundle.exec("echo $(cat /proc/1/comm) $$ | cut -d ' ' -f 1"), "sh\n");
    bundle.ok(&["pause", &bundle.id]);
    bundle.ok(&["resume", &bundle.id]);
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    bundle.ok(&["delete", &bundle.id]);
    bundle.assert_nothing_left();
}

#[test]
fn a_chain_of_images_is_dumped_while_the_container_runs() {
    if !criu() {
        return;
    }
    let bundle = counter();
    start(&bundle);
    checkpoint(&bundle, "first", &["--pre-dump"]);
    assert_eq!(bundle.state()["status"], "running");
    goes_on(&bundle);
    checkpoint(
        &bundle,
        "second",
        &["--parent-path", "../first", "--leave-running", "--work-path", &images(&bundle, "second")],
    );
    assert_eq!(bundle.state()["status"], "running");
    goes_on(&bundle);
    checkpoint(&bundle, "third", &["--parent-path", "../second"]);
    restore(&bundle, "third", &["--manage-cgroups-mode", "soft"], &bundle.id);
    goes_on(&bundle);
}

#[test]
fn ids_mounts_and_masks_come_back() {
    if !criu() {
        return;
    }
    let mut bundle = counter();
    let (data, file) = (bundle.path().join("data"), bundle.path().join("file"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("here"), "data").unwrap();
    fs::write(&file, "file").unwrap();
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/data/deep", "type": "bind", "source": data, "options": ["rbind", "ro"]}));
    mounts.push(json!({"destination": "/dev/file", "type": "bind", "source": file, "options": ["bind"]}));
    mounts.push(json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs"}));
    bundle.config["process"]["args"][2] = json!(format!("echo kept >/scratch/it; {COUNTER}"));
    start(&bundle);
    let look = "cat /data/deep/here /dev/file /scratch/it; wc -c </proc/kcore; ls /proc/acpi /proc/scsi 2>/dev/null; \
                touch /data/deep/x 2>/dev/null || echo read-only; cat /proc/sys/kernel/hostname /sys/class/net/lo/flags; grep Cap /proc/1/status; \
                grep -c . /proc/self/mountinfo; stat -c %t:%T /dev/null /dev/zero";
    let before = bundle.exec(look);
    assert!(before.contains("read-only") && before.contains("kept"), "{before}");
    checkpoint(&bundle, "images", &[]);
    restore(&bundle, "images", &[], &bundle.id);
    assert_eq!(bundle.exec(look), before);
    goes_on(&bundle);
}

#[test]
fn pipes_are_those_of_the_restore_and_the_exit_code_is_waited_for() {
    if !criu() {
        return;
    }
    let mut bundle = counter();
    bundle.config["process"]["args"][2] =
        json!("i=0; while sleep 0.2; do i=$((i+1)); echo $i 1<>/count; echo line $i; [ -e /end ] && exit 7; done");
    bundle.write();
    let path = bundle.path().to_str().unwrap();
    let mut command = bundle.command(&["run", "-b", path, &bundle.id]);
    let mut first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
    goes_on(&bundle);
    checkpoint(&bundle, "images", &[]);
    assert_eq!(first.wait().unwrap().code(), Some(137), "the process that waits for it sees SIGKILL");
    let saved = count(&bundle);
    let images = images(&bundle, "images");
    let mut command = bundle.command(&["restore", "-b", path, "--image-path", &images, &bundle.id]);
    let second = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap();
    reaches(&bundle, saved + 2);
    fs::write(bundle.rootfs("end"), "").unwrap();
    let output = second.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", show(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("line {}\n", saved + 1)), "{}", show(&output));
    bundle.assert_nothing_left();
}

#[test]
fn a_checkpoint_of_runc_is_restored() {
    if !criu() {
        return;
    }
    let mut bundle = counter();
    bundle.runtime = "runc";
    start(&bundle);
    checkpoint(&bundle, "images", &[]);
    let saved = count(&bundle);
    bundle.runtime = support::BRIG;
    restore(&bundle, "images", &[], &bundle.id);
    goes_on(&bundle);
    assert!(count(&bundle) > saved);
}

#[test]
fn the_root_of_an_interrupted_restore_is_unmounted_and_not_removed() {
    let bundle = Bundle::new(&["true"]);
    bundle.create();
    let bound = bundle.state_root().join(&bundle.id).join("criu-root");
    fs::create_dir(&bound).unwrap();
    for _ in 0..2 {
        brig_sys::mount::mount_raw(Some(bundle.rootfs("").as_os_str()), &bound, None, libc::MS_BIND, None).unwrap();
    }
    assert!(bound.join("bin/busybox").exists());
    bundle.ok(&["delete", "-f", &bundle.id]);
    assert!(bundle.rootfs("bin/busybox").exists(), "the image was removed with the record");
    bundle.assert_nothing_left();
}

#[test]
fn a_failed_checkpoint_or_restore_reports_the_cause_and_leaves_nothing() {
    let bundle = counter();
    bundle.create();
    let images = images(&bundle, "images");
    let error = bundle.fails(&["checkpoint", "--image-path", &images, &bundle.id]);
    assert!(error.contains("Container cannot be checkpointed in created state"), "{error}");
    bundle.ok(&["start", &bundle.id]);
    goes_on(&bundle);
    for (flags, text) in [
        (["--parent-path", "/absolute"], "must be relative"),
        (["--parent-path", "../none"], "there is no directory"),
        (["--page-server", "nowhere"], "is no ADDRESS:PORT"),
        (["--manage-cgroups-mode", "all"], "use soft, full, strict or ignore"),
        (["--empty-ns", "pid"], "only network"),
    ] {
        let args = [&["checkpoint", "--image-path", &images], &flags[..], &[&bundle.id]].concat();
        let error = bundle.fails(&args);
        assert!(error.contains(text), "{text}: {error}");
    }
    assert_eq!(bundle.state()["status"], "running");
    bundle.ok(&["delete", "-f", &bundle.id]);
    let path = bundle.path().to_str().unwrap();
    let none: PathBuf = bundle.path().join("none");
    let error = bundle.fails(&["restore", "-b", path, "--image-path", none.to_str().unwrap(), &bundle.id]);
    assert!(error.contains("none"), "{error}");
    bundle.assert_nothing_left();
    // A directory without an image: the error has CRIU's own text, and the path of its log.
    fs::create_dir(&none).unwrap();
    fs::write(none.join("descriptors.json"), "[]").unwrap();
    let error = bundle.fails(&["restore", "-b", path, "--image-path", none.to_str().unwrap(), &bundle.id]);
    assert!(error.contains("criu") && (error.contains("restore.log") || error.contains("not in PATH")), "{error}");
    bundle.assert_nothing_left();
}

fn restore_arguments<'a>(bundle: &'a Bundle, images: &'a str) -> [&'a str; 7] {
    ["restore", "-d", "-b", bundle.path().to_str().unwrap(), "--image-path", images, &bundle.id]
}

#[test]
fn a_restore_reads_no_list_of_descriptors_that_is_a_fifo_a_link_a_device_or_too_large() {
    if !criu() {
        return;
    }
    let bundle = counter();
    start(&bundle);
    checkpoint(&bundle, "images", &[]);
    let saved = count(&bundle);
    let images = images(&bundle, "images");
    let (list, kept) = (bundle.path().join("images/descriptors.json"), bundle.path().join("kept.json"));
    fs::rename(&list, &kept).unwrap();
    let kinds: [(&str, &dyn Fn()); 5] = [
        ("FIFO", &|| nix::unistd::mkfifo(&list, nix::sys::stat::Mode::S_IRWXU).unwrap()),
        ("endless", &|| symlink("/dev/zero", &list).unwrap()),
        ("link", &|| symlink(&kept, &list).unwrap()),
        ("device", &|| {
            let device = nix::sys::stat::makedev(1, 5);
            let mode = nix::sys::stat::Mode::S_IRUSR;
            nix::sys::stat::mknod(&list, nix::sys::stat::SFlag::S_IFCHR, mode, device).unwrap();
        }),
        ("large", &|| fs::write(&list, [b" ".repeat(100_000), fs::read(&kept).unwrap()].concat()).unwrap()),
    ];
    for (kind, make) in kinds {
        make();
        let error = bundle.fails(&restore_arguments(&bundle, &images));
        assert!(error.contains("descriptors.json"), "{kind}: {error}");
        fs::remove_file(&list).unwrap();
        bundle.assert_nothing_left();
    }
    fs::rename(&kept, &list).unwrap();
    restore(&bundle, "images", &[], &bundle.id);
    goes_on(&bundle);
    assert!(count(&bundle) > saved);
}

#[test]
fn a_restore_that_is_refused_or_killed_leaves_a_cgroup_alone_that_is_not_its_own() {
    if !criu() {
        return;
    }
    let bundle = counter();
    start(&bundle);
    checkpoint(&bundle, "images", &[]);
    let images = images(&bundle, "images");
    let mut foreign = ForeignCgroup::make(&Path::new("/sys/fs/cgroup").join(&bundle.id), true);
    // The kills range from before the write of the record until long after it.
    for step in 0..12 {
        let mut restoring = bundle.command(&restore_arguments(&bundle, &images));
        let mut restoring = restoring.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(1 << step));
        restoring.kill().unwrap();
        restoring.wait().unwrap();
        // Without a record there is nothing to delete.
        bundle.brig(&["delete", "-f", &bundle.id]);
        foreign.assert_untouched();
    }
    drop(foreign);
    bundle.assert_nothing_left();
    restore(&bundle, "images", &[], &bundle.id);
    goes_on(&bundle);
}
