//! Attacks that succeeded on real runtimes, against brig from inside a container.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use crate::helpers::script;
use crate::support::{BRIG, Bundle, show, wait_until};

/// A running container whose root has no capability to trace or read other processes.
fn target() -> Bundle {
    let bundle = script("exec sleep 1000");
    let made = std::process::Command::new("mkfifo").arg(bundle.rootfs("fifo")).status().unwrap();
    assert!(made.success());
    bundle
}

/// Copies the libraries of a dynamic build of brig into the image; a static one needs none.
fn add_libraries(bundle: &Bundle) {
    let listed = std::process::Command::new("ldd").arg(BRIG).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let target = bundle.rootfs(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        crate::support::copy_program(path, &target);
    }
}

/// CVE-2019-5736. The image makes the runtime execute itself, by /proc/self/exe, and blocks it there by a fifo without
/// a reader; another process keeps its image open, kills it, and writes.
#[test]
fn the_binary_cannot_be_overwritten_through_proc_self_exe() {
    let before = fs::read(BRIG).unwrap();
    let bundle = target();
    add_libraries(&bundle);
    bundle.start();
    bundle.ok(&["exec", "-d", &bundle.id, "/proc/self/exe", "--log", "/fifo", "state", "x"]);
    let is_victim =
        |pid: &i32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/proc/self/exe\0"));
    crate::support::wait_until("the victim", || bundle.processes().iter().any(is_victim));
    let attack = "for p in /proc/[0-9]*; do \
            case \"$(cat $p/cmdline 2>/dev/null)\" in /proc/self/exe*) victim=${p#/proc/};; esac; done; \
        exec 4</proc/$victim/exe || exit 9; \
        (echo x >>/proc/$victim/exe) 2>&1 && echo OVERWRITTEN; \
        kill -KILL $victim; while [ -e /proc/$victim/exe ]; do :; done; \
        (echo x >>/proc/self/fd/4) 2>&1 && echo OVERWRITTEN; echo tried";
    let said = bundle.exec(attack);
    assert!(said.contains("tried") && !said.contains("OVERWRITTEN"), "{said}");
    assert_eq!(fs::read(BRIG).unwrap(), before, "the binary was changed");
    // An interpreter does the same.
    fs::write(bundle.rootfs("bin/script"), "#!/proc/self/exe\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(bundle.rootfs("bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
    bundle.brig(&["exec", &bundle.id, "script"]);
    assert_eq!(fs::read(BRIG).unwrap(), before, "the binary was changed");
}

/// Files of a process that require the right to trace it.
const LOOK: &str = "for f in exe root cwd; do readlink /proc/1/$f && echo SEEN; done; \
    for f in $(ls /proc/1/fd); do readlink /proc/1/fd/$f && echo SEEN; done; cat /proc/1/environ /proc/1/maps && echo SEEN; true";

#[test]
fn an_init_that_waits_at_the_gate_shows_nothing() {
    let bundle = target();
    bundle.create();
    let output = bundle.brig(&["exec", &bundle.id, "sh", "-c", LOOK]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!said.contains("SEEN") && !said.contains('/'), "{}", show(&output));
    // After the start of the program it is an ordinary process.
    bundle.ok(&["start", &bundle.id]);
    wait_until("program", || bundle.exec("cat /proc/1/cmdline").starts_with("sleep"));
    assert!(bundle.exec(LOOK).contains("SEEN"));
}

#[test]
fn a_process_that_enters_shows_nothing() {
    let bundle = script(
        "echo up >>/seen; while :; do for p in /proc/[0-9]*; do \
            case \"$(cat $p/comm 2>/dev/null)\" in sh|sleep|busybox|true|cat|readlink|ls) continue;; esac; \
            l=$(readlink $p/exe 2>/dev/null) && case $l in /bin/*) ;; *) echo \"$p $l\" >>/seen;; esac; \
            for f in $p/fd/*; do l=$(readlink $f) && [ \"$(cat $p/comm)\" = brig ] && echo \"$f $l\" >>/seen; done; done; done",
    );
    bundle.start();
    let seen = || fs::read_to_string(bundle.rootfs("seen")).unwrap_or_default();
    wait_until("attacker", || seen().contains("up"));
    for _ in 0..10 {
        bundle.ok(&["exec", &bundle.id, "true"]);
    }
    assert_eq!(seen(), "up\n");
}

#[test]
fn nothing_of_the_sealed_image_is_left_in_the_container() {
    let bundle = target();
    bundle.start();
    let mounts = bundle.exec("cat /proc/self/mountinfo");
    assert!(!mounts.contains("overlay") && !mounts.contains("memfd"), "{mounts}");
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(&bundle.id), "{host}");
}

/// CVE-2024-21626. A directory of the host that the runtime has open is used as the working directory.
#[test]
fn a_working_directory_by_a_leaked_descriptor() {
    let mut bundle = script("cat ../../../../../../../../../$MARKER ./$MARKER && echo ESCAPED; pwd");
    let marker = bundle.path().join("marker");
    fs::write(&marker, "of the host").unwrap();
    let variable = format!("MARKER={}", marker.display());
    bundle.config["process"]["env"] = json!(["PATH=/bin", variable]);
    let running = target();
    running.start();
    for number in 3..16 {
        let cwd = format!("/proc/self/fd/{number}");
        bundle.config["process"]["cwd"] = json!(cwd);
        let exec = format!("cat ../../../../../../../../../{0} ./{0} && echo ESCAPED; true", marker.display());
        for output in [bundle.run(), running.brig(&["exec", "--cwd", &cwd, &running.id, "sh", "-c", &exec])] {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(!said.contains("ESCAPED") && !said.contains("of the host"), "{cwd}: {}", show(&output));
        }
    }
}

#[test]
fn links_in_the_image_do_not_lead_to_the_host() {
    let outside = tempfile::tempdir().unwrap();
    let mut bundle = script("true");
    symlink(outside.path(), bundle.rootfs("dev")).unwrap();
    symlink(outside.path(), bundle.rootfs("there")).unwrap();
    bundle.config["process"]["cwd"] = json!("/there/deeper");
    bundle.config["linux"]["devices"] = json!([{"path": "/there/zero", "type": "c", "major": 1, "minor": 5}]);
    let run = bundle.run();
    // A refusal and a file inside are both correct.
    assert!(run.status.code().is_some(), "{}", show(&run));
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "{}", show(&run));
    for (name, refused) in [("proc", true), ("sys", true)] {
        let mut bundle = script("true");
        fs::create_dir(bundle.rootfs("other")).unwrap();
        symlink("other", bundle.rootfs(name)).unwrap();
        bundle.config["linux"]["maskedPaths"] = json!([]);
        bundle.config["linux"]["readonlyPaths"] = json!([]);
        let run = bundle.run();
        assert_eq!(run.status.code() == Some(1), refused, "{name}: {}", show(&run));
    }
}

/// CVE-2025-31133. The mask is the host's null device, whatever the image has in its place.
#[test]
fn masks_are_the_real_null_device() {
    let mut bundle =
        script("for p in /proc/keys /proc/timer_list; do stat -c %t:%T $p; cat $p; done; echo x >/proc/keys");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    fs::create_dir(bundle.rootfs("dev")).unwrap();
    fs::create_dir(bundle.rootfs("else")).unwrap();
    symlink("/else/file", bundle.rootfs("dev/null")).unwrap();
    fs::write(bundle.rootfs("else/file"), "false").unwrap();
    let run = bundle.run();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(run.status.code() == Some(1) || said == "1:3\n1:3\n", "{}", show(&run));
    assert_eq!(fs::read_to_string(bundle.rootfs("else/file")).unwrap(), "false");
}

#[test]
fn the_hosts_cgroups_cannot_be_written() {
    let mut bundle = script(
        "for f in $(ls -d /sys/fs/cgroup /sys/fs/cgroup/* /sys/fs/cgroup/*/*); do \
            [ -d $f ] && mkdir $f/made 2>/dev/null && echo MADE $f; \
            [ -f $f/cgroup.procs ] && (echo $$ >$f/cgroup.procs) 2>/dev/null && echo MOVED $f; \
            [ -f $f/release_agent ] && (echo /x >$f/release_agent) 2>/dev/null && echo AGENT $f; done; \
         mount -o remount,rw /sys/fs/cgroup 2>/dev/null && echo REMOUNTED; echo tried",
    );
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    if !mounts.iter().any(|mount| mount["type"] == "cgroup") {
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}));
    }
    assert_eq!(bundle.run_ok(), "tried\n");
}

#[test]
fn ids_of_users_are_strict() {
    let bundle = target();
    bundle.start();
    for user in ["-1", "+1", "01", " 1", "1 ", "0x1", "4294967295", "4294967296", "1:-1", "1:01", "1:", ":1"] {
        let output = bundle.brig(&["exec", &format!("--user={user}"), &bundle.id, "id"]);
        assert_eq!(output.status.code(), Some(255), "{user:?}: {}", show(&output));
    }
}

#[test]
fn ids_of_containers_are_no_paths() {
    let bundle = script("true");
    bundle.write();
    for id in ["../x", "a/b", "..", ".", "a b", "a\n", "/x", "ä"] {
        let error = bundle.fails(&["create", "-b", bundle.path().to_str().unwrap(), id]);
        assert!(error.contains("invalid container ID format"), "{id:?}: {error}");
        assert!(bundle.fails(&["state", id]).contains("container"), "{id:?}");
    }
    assert!(!bundle.path().join("x").exists());
}

/// The pid on record may belong to another process by now.
#[test]
fn a_pid_that_was_used_again_is_not_killed() {
    let bundle = target();
    bundle.start();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    let mut innocent = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let file = bundle.state_root().join(&bundle.id).join("state.json");
    let text = fs::read_to_string(&file).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["init_process_pid"] = json!(innocent.id());
    fs::write(&file, record.to_string()).unwrap();
    assert_eq!(bundle.state()["status"], "stopped");
    assert!(bundle.fails(&["kill", &bundle.id, "KILL"]).contains("container not running"));
    assert_eq!(bundle.brig(&["exec", &bundle.id, "true"]).status.code(), Some(255));
    bundle.ok(&["delete", "-f", &bundle.id]);
    assert!(innocent.try_wait().unwrap().is_none(), "a stranger was killed");
    innocent.kill().unwrap();
    innocent.wait().unwrap();
    // The true init was in the cgroup, and was removed with it.
    wait_until("its end", || {
        fs::read_to_string(format!("/proc/{pid}/cgroup")).map_or(true, |text| !text.contains(&bundle.id))
    });
}
