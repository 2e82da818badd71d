//! A host with hundreds of mounts, where containers' mount namespaces start as a copy of an empty one: this is quicker,
//! and must have no visible effect.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::helpers::{Holder, script};
use crate::support::{BRIG, Bundle, output, show, wait_until};

/// The file of the cached empty mount namespace.
const CACHED_NAMESPACE: &str = "/run/brig-seed/keep/mnt";

/// A mount namespace with many mounts, and with its own /run.
struct Host {
    holder: Holder,
}

impl Host {
    fn with_mounts(count: u32) -> Host {
        // On a machine that has a cached namespace and many mounts already, these must be removed first.
        let script = format!(
            "umount -R /run/brig-seed/keep /mnt 2>/dev/null
             mount -t tmpfs run /run; mount -t tmpfs many /mnt; mkdir /mnt/shared /mnt/inner /mnt/other;
             for n in $(seq {count}); do echo $n; done | busybox xargs -n 1 sh -c 'mkdir /mnt/inner/$0; busybox mount -t tmpfs m /mnt/inner/$0'
             mount -t tmpfs shared /mnt/shared; mount --make-shared /mnt/shared
             mkdir /mnt/shared/below; mount -t tmpfs below /mnt/shared/below; echo deep >/mnt/shared/below/file"
        );
        Host { holder: Holder::with_script(&["--mount", "--propagation", "private"], &script) }
    }

    /// A command in it.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", self.holder.path("mnt"))).args(words).stdin(Stdio::null());
        command
    }

    fn ok(&self, words: &[&str]) -> String {
        let done = output(&mut self.command(words));
        assert!(done.status.success(), "{words:?}: {}", show(&done));
        String::from_utf8(done.stdout).unwrap()
    }

    fn brig(&self, bundle: &Bundle, args: &[&str]) -> Command {
        let root = bundle.state_root();
        self.command(&[&[BRIG, "--debug", "--root", root.to_str().unwrap()], args].concat())
    }

    fn run_command(&self, bundle: &Bundle) -> Command {
        bundle.write();
        self.brig(bundle, &["run", "-b", bundle.path().to_str().unwrap(), &bundle.id])
    }

    fn run(&self, bundle: &Bundle) -> Output {
        let done = output(&mut self.run_command(bundle));
        assert!(done.status.success(), "{}", show(&done));
        done
    }

    fn has_cached_namespace(&self) -> bool {
        self.command(&["mountpoint", "-q", CACHED_NAMESPACE]).status().unwrap().success()
    }
}

fn used_cached_namespace(done: &Output) -> bool {
    String::from_utf8_lossy(&done.stderr).contains("the mount namespace is a copy of")
}

fn text(done: &Output) -> String {
    String::from_utf8(done.stdout.clone()).unwrap()
}

fn mount(bundle: &mut Bundle, destination: &str, source: &str, options: &[&str]) {
    let one = json!({"destination": destination, "type": "none", "source": source, "options": options});
    bundle.config["mounts"].as_array_mut().unwrap().push(one);
}

/// The content of mountinfo, without the numbers that differ between containers.
fn plain(mountinfo: &str, bundle: &Bundle) -> Vec<String> {
    let one = |line: &str| {
        let (left, right) = line.split_once(" - ").unwrap();
        let left: Vec<&str> = left.split(' ').skip(3).collect();
        let left: Vec<&str> = left.iter().map(|word| word.split(':').next().unwrap()).collect();
        let name = bundle.path().file_name().unwrap().to_str().unwrap();
        format!("{} - {right}", left.join(" ")).replace(&bundle.id, "ID").replace(name, "DIR")
    };
    mountinfo.lines().map(one).collect()
}

/// A bundle with a mount of each type.
fn of_each_kind() -> Bundle {
    let mut bundle = script(
        "cat /proc/self/mountinfo; cat /deep/below/file; readlink /link; stat -c %t,%T,%a /dev/null /dev/x; ls -a /up",
    );
    std::fs::create_dir_all(bundle.rootfs("up")).unwrap();
    std::fs::write(bundle.rootfs("up/image"), "").unwrap();
    std::os::unix::fs::symlink("/nowhere", bundle.path().join("link")).unwrap();
    mount(&mut bundle, "/deep", "/mnt/shared", &["rbind", "ro"]);
    mount(&mut bundle, "/flat", "/mnt/shared", &["bind", "nosuid", "private"]);
    mount(&mut bundle, "/kernel", "/proc/version", &["bind", "ro"]);
    let link = bundle.path().join("link").to_str().unwrap().to_owned();
    mount(&mut bundle, "/link", &link, &["bind", "copy-symlink"]);
    let up = json!({"destination": "/up", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]});
    bundle.config["mounts"].as_array_mut().unwrap().push(up);
    bundle.config["linux"]["devices"] =
        json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]);
    bundle
}

#[test]
fn a_container_gets_the_same_mounts_in_the_same_order() {
    let (few, many) = (Host::with_mounts(3), Host::with_mounts(300));
    let without = of_each_kind();
    let expected = few.run(&without);
    assert!(!used_cached_namespace(&expected) && !few.has_cached_namespace());
    for round in ["the first container creates the cache", "the second container finds the cache"] {
        let with = of_each_kind();
        let found = many.run(&with);
        assert!(used_cached_namespace(&found) && many.has_cached_namespace(), "{round}: {}", show(&found));
        let cut = |done: &Output, bundle: &Bundle| {
            let all = text(done);
            let end = all.find("deep\n").expect(&all);
            (plain(&all[..end], bundle), all[end..].to_owned())
        };
        assert_eq!(cut(&found, &with), cut(&expected, &without), "{round}");
    }
}

#[test]
fn later_mounts_of_the_host_propagate_as_the_options_say() {
    let host = Host::with_mounts(300);
    let mut bundle = script("sleep 1000");
    mount(&mut bundle, "/slave", "/mnt/shared", &["rbind", "rslave"]);
    mount(&mut bundle, "/private", "/mnt/shared", &["rbind", "rprivate"]);
    bundle.write();
    let made = output(&mut host.brig(&bundle, &["run", "-d", "-b", bundle.path().to_str().unwrap(), &bundle.id]));
    assert!(made.status.success() && used_cached_namespace(&made), "{}", show(&made));
    host.ok(&["mount", "-t", "tmpfs", "late", "/mnt/shared/below"]);
    host.ok(&["touch", "/mnt/shared/below/late"]);
    assert_eq!(bundle.exec("ls /slave/below; echo; ls /private/below"), "late\n\nfile\n");
    // Nothing propagates in the other direction.
    let before = host.ok(&["cat", "/proc/self/mountinfo"]);
    bundle.config["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
    bundle.ok(&[
        "exec",
        "--cap",
        "CAP_SYS_ADMIN",
        &bundle.id,
        "sh",
        "-c",
        "mount -t tmpfs t /slave && grep /slave /proc/self/mountinfo",
    ]);
    assert_eq!(host.ok(&["cat", "/proc/self/mountinfo"]), before);
}

#[test]
fn hooks_that_run_before_the_root_is_entered_see_the_hosts_paths() {
    let host = Host::with_mounts(300);
    for moment in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = script("true");
        let seen = bundle.path().join("seen").to_str().unwrap().to_owned();
        // Two of the hooks run in the caller's namespaces, and enter the container's by the pid in their input.
        let there = if moment == "createContainer" { "" } else { "nsenter --mount --target $pid" };
        let look = format!(
            "pid=$(grep -o '\"pid\":[0-9]*' | cut -d: -f2); {there} ls /mnt/inner/7 &&
             {there} grep -c {} /proc/self/mountinfo >{seen}",
            bundle.path().display()
        );
        let words: Value = json!(["sh", "-c", look]);
        bundle.config["hooks"] = json!({moment: [{"path": "/bin/sh", "args": words, "env": ["PATH=/usr/bin:/bin"]}]});
        let done = host.run(&bundle);
        assert!(!used_cached_namespace(&done), "{moment}");
        assert!(std::path::Path::new(&seen).exists(), "{moment}");
    }
}

#[test]
fn containers_that_need_the_hosts_mounts_have_them() {
    let host = Host::with_mounts(300);
    let mut mapped = script("cat /deep/below/file");
    mapped.map_ids();
    mount(&mut mapped, "/deep", "/mnt/shared", &["rbind"]);
    let mut overlay = script("ls /over");
    let lower = overlay.rootfs("bin").to_str().unwrap().to_owned();
    let options = json!([format!("lowerdir={lower}:/mnt/other")]);
    overlay.config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/over", "type": "overlay", "source": "overlay", "options": options}));
    let mut shared = script("true");
    shared.config["linux"]["rootfsPropagation"] = json!("rshared");
    for (bundle, expected) in [(&mapped, "deep"), (&overlay, "busybox"), (&shared, "")] {
        let done = host.run(bundle);
        assert!(!used_cached_namespace(&done) && text(&done).contains(expected), "{}", show(&done));
    }
}

#[test]
fn a_callers_own_root_is_where_its_paths_are() {
    let host = Host::with_mounts(300);
    // The bundle is on a file system that only this root has.
    host.ok(&["sh", "-ec", "mkdir /mnt/root; mount --rbind / /mnt/root; mount -t tmpfs own /mnt/root/srv"]);
    let mut bundle = script("cat /own/file");
    mount(&mut bundle, "/own", "/srv/own", &["bind"]);
    bundle.write();
    let path = bundle.path().to_str().unwrap();
    host.ok(&[
        "sh",
        "-ec",
        &format!("cp -a {path}/. /mnt/root/srv; mkdir /mnt/root/srv/own; echo mine >/mnt/root/srv/own/file"),
    ]);
    let state = bundle.state_root();
    let words =
        ["chroot", "/mnt/root", BRIG, "--debug", "--root", state.to_str().unwrap(), "run", "-b", "/srv", &bundle.id];
    let done = output(&mut host.command(&words));
    assert!(done.status.success() && used_cached_namespace(&done), "{}", show(&done));
    assert_eq!(text(&done), "mine\n");
}

#[test]
fn many_at_once_agree_on_one_and_it_may_go_at_any_time() {
    let host = Host::with_mounts(300);
    let bundles: Vec<Bundle> = (0..8).map(|_| script("wc -l /proc/self/mountinfo; sleep 1000")).collect();
    let start = |bundle: &Bundle| {
        bundle.write();
        let place = bundle.path().to_str().unwrap();
        host.brig(bundle, &["create", "-b", place, &bundle.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let started: Vec<_> = bundles.iter().map(start).collect();
    for mut one in started {
        assert!(one.wait().unwrap().success());
    }
    wait_until("the cached namespace", || host.has_cached_namespace());
    assert_eq!(host.ok(&["ls", "/run/brig-seed"]), "keep\n", "no reason for a failure");
    let kept = host.ok(&["grep", "-c", "brig-seed", "/proc/self/mountinfo"]);
    assert_eq!(kept, "2\n", "a tmpfs and the namespace on it");
    host.ok(&["umount", "-R", "/run/brig-seed/keep"]);
    for bundle in &bundles {
        bundle.ok(&["start", &bundle.id]);
        bundle.wait_for("running");
        // They see their own mounts alone, and not the 300 of the host.
        let mounts: u32 = bundle.exec("cat /proc/self/mountinfo | wc -l").trim().parse().unwrap();
        assert!(mounts < 60, "{mounts}");
        bundle.ok(&["delete", "--force", &bundle.id]);
    }
    // After a failure in this mount namespace, containers do not try again.
    host.ok(&["sh", "-c", "echo why >/run/brig-seed/failed-$(stat -L -c %i /proc/self/ns/mnt)"]);
    assert!(!used_cached_namespace(&host.run(&script("true"))) && !host.has_cached_namespace());
    host.ok(&["sh", "-c", "rm /run/brig-seed/failed-*"]);
    assert!(used_cached_namespace(&host.run(&script("true"))) && host.has_cached_namespace());
}
