//! Namespaces: each kind new, inherited and joined by its path, and what an exec finds.

use serde_json::{Value, json};

use crate::helpers::{Holder, PRINT_NAMESPACES, known_namespaces, namespaces, own_namespaces, script};
use crate::support::{BRIG, Bundle};

/// The kind of linux.namespaces for a link in /proc/PID/ns.
fn kind(link: &str) -> &str {
    match link {
        "mnt" => "mount",
        "net" => "network",
        other => other,
    }
}

/// Sets the namespaces to these alone; the default mounts need a few of them.
fn only(bundle: &mut Bundle, list: Value) {
    bundle.config["linux"]["namespaces"] = list;
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
    ]);
    bundle.config["mounts"] = mounts;
    bundle.config.as_object_mut().unwrap().remove("hostname");
}

/// Joins the holder's user namespace, in which only id 0 is mapped: devpts cannot be given to group 5.
fn join_user(bundle: &mut Bundle, holder: &Holder) {
    bundle.namespace("user", Some(json!({"type": "user", "path": holder.path("user")})));
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    for mount in mounts.iter_mut().filter(|mount| mount["type"] == "devpts") {
        mount["options"].as_array_mut().unwrap().retain(|option| option != "gid=5");
    }
}

#[test]
fn every_kind_is_new_when_it_is_listed() {
    let mut bundle = script(PRINT_NAMESPACES);
    let all: Vec<Value> = known_namespaces().iter().map(|name| json!({"type": kind(name)})).collect();
    only(&mut bundle, json!(all));
    bundle.map_ids();
    let (own, inside) = (own_namespaces(), namespaces(&bundle.run_ok()));
    for name in known_namespaces() {
        assert_ne!(own[name], inside[name], "{name}");
    }
}

#[test]
fn namespaces_that_are_not_listed_are_the_callers() {
    let mut bundle = script(PRINT_NAMESPACES);
    only(&mut bundle, json!([{"type": "mount"}]));
    let (mut own, mut inside) = (own_namespaces(), namespaces(&bundle.run_ok()));
    assert_ne!(own.remove("mnt"), inside.remove("mnt"));
    assert_eq!(own, inside);
}

#[test]
fn one_kind_is_joined_by_its_path_and_the_others_are_new() {
    for (name, flag) in
        [("net", "--net"), ("uts", "--uts"), ("ipc", "--ipc"), ("cgroup", "--cgroup"), ("time", "--time")]
    {
        if !known_namespaces().contains(&name) {
            continue;
        }
        let holder = Holder::new(&[flag]);
        // A process stays in its time namespace; its children are in the new one.
        let link = if name == "time" { "time_for_children" } else { name };
        let mut bundle = script(PRINT_NAMESPACES);
        bundle.namespace(kind(name), Some(json!({"type": kind(name), "path": holder.path(link)})));
        if name == "uts" {
            bundle.config.as_object_mut().unwrap().remove("hostname");
        }
        let (own, inside) = (own_namespaces(), namespaces(&bundle.run_ok()));
        let held = namespaces(holder.said());
        assert_eq!(inside[name], held[name], "{name}");
        assert_ne!(inside[name], own[name], "{name}");
        assert_ne!(inside["mnt"], held["mnt"], "{name}");
    }
}

#[test]
fn a_pid_namespace_is_joined() {
    let holder = Holder::with_script(&["--pid", "--fork", "--mount-proc"], PRINT_NAMESPACES);
    let mut bundle = script(&format!("{PRINT_NAMESPACES}; echo self $$; exec sleep 1000"));
    bundle.namespace("pid", Some(json!({"type": "pid", "path": holder.path("pid_for_children")})));
    bundle.start();
    let exec = bundle.exec(&format!("{PRINT_NAMESPACES}; echo one $(cat /proc/1/comm); ps | grep -c 'sleep 1000'"));
    let seen = namespaces(&exec);
    assert_eq!(seen["pid"], namespaces(holder.said())["pid"]);
    // The holder's shell is its first process, and the container's program another.
    assert_eq!(seen["one"], "sh", "{exec}");
    // The exit of this process leaves the others running: KILL terminates them.
    bundle.exec("sleep 1001 </dev/null >/dev/null 2>&1 &");
    bundle.ok(&["kill", &bundle.id, "KILL"]);
    bundle.wait_for("stopped");
    crate::support::wait_until("end of all", || bundle.processes().is_empty());
    bundle.ok(&["delete", &bundle.id]);
}

#[test]
fn a_user_namespace_is_joined_and_owns_the_others() {
    let holder = Holder::new(&["--user", "--map-root-user", "--uts"]);
    let held = namespaces(holder.said());
    let text = format!("{PRINT_NAMESPACES}; cat /proc/self/uid_map; id -u; grep CapEff /proc/self/status");
    let mut bundle = script(&text);
    join_user(&mut bundle, &holder);
    let printed = bundle.run_ok();
    let inside = namespaces(&printed);
    assert_eq!(inside["user"], held["user"]);
    assert_ne!(inside["uts"], held["uts"]);
    assert!(printed.contains("         0          0          1"), "{printed}");
    // A mixed case: uts belongs to the namespace that is joined with it.
    bundle.namespace("uts", Some(json!({"type": "uts", "path": holder.path("uts")})));
    assert_eq!(namespaces(&bundle.run_ok())["uts"], held["uts"]);
}

#[test]
fn namespaces_that_a_joined_user_namespace_does_not_own_are_joined_with_the_callers_privilege() {
    // The first one belongs to the host, and the second one to the user namespace.
    let foreign = Holder::new(&["--net", "--ipc"]);
    let user = Holder::new(&["--user", "--map-root-user", "--uts"]);
    let (outer, inner) = (namespaces(foreign.said()), namespaces(user.said()));
    let mut bundle = script(&format!("{PRINT_NAMESPACES}; exec sleep 1000"));
    join_user(&mut bundle, &user);
    // A root of another user namespace may not mount a view of a network or of IPC that is not its own.
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| mount["type"] != "sysfs" && mount["type"] != "mqueue");
    for (name, holder) in [("net", &foreign), ("ipc", &foreign), ("uts", &user)] {
        bundle.namespace(kind(name), Some(json!({"type": kind(name), "path": holder.path(name)})));
    }
    bundle.config.as_object_mut().unwrap().remove("hostname");
    bundle.start();
    let found = namespaces(&bundle.exec(PRINT_NAMESPACES));
    for (name, held) in [("net", &outer), ("ipc", &outer), ("uts", &inner), ("user", &inner)] {
        assert_eq!(found[name], held[name], "{name}");
    }
}

#[test]
fn a_user_namespace_is_new_beside_one_that_is_joined() {
    let holder = Holder::new(&["--net"]);
    let mut bundle = script(PRINT_NAMESPACES);
    bundle.map_ids();
    let list = bundle.config["linux"]["namespaces"].clone();
    only(&mut bundle, list);
    bundle.namespace("network", Some(json!({"type": "network", "path": holder.path("net")})));
    let inside = namespaces(&bundle.run_ok());
    assert_eq!(inside["net"], namespaces(holder.said())["net"]);
    assert_ne!(inside["user"], own_namespaces()["user"]);
}

#[test]
fn a_path_that_is_no_such_namespace_is_refused() {
    let holder = Holder::new(&["--net"]);
    for (path, reason) in [
        (holder.path("uts"), "linux.namespaces"),
        ("/nonexistent".to_owned(), "/nonexistent"),
        ("/etc/passwd".to_owned(), "/etc/passwd"),
    ] {
        let mut bundle = script("true");
        bundle.namespace("network", Some(json!({"type": "network", "path": path})));
        let error = bundle.run_fails();
        assert!(error.contains(reason) && error.contains("network"), "{error}");
    }
}

#[test]
fn ids_are_mapped() {
    let mut bundle =
        script("cat /proc/self/uid_map /proc/self/gid_map; id -u; stat -c %u /etc-file; cat /proc/self/setgroups");
    bundle.map_ids();
    let file = bundle.rootfs("etc-file");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(100_007), Some(100_007)).unwrap();
    let lines: Vec<String> =
        bundle.run_ok().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines, ["0 100000 65536", "0 100000 65536", "0", "7", "allow"]);
}

#[test]
fn clocks_are_moved() {
    let mut bundle = script("exec sleep 1000");
    bundle.namespace("time", Some(json!({"type": "time"})));
    bundle.config["linux"]["timeOffsets"] =
        json!({"boottime": {"secs": 7_000_000}, "monotonic": {"secs": 5, "nanosecs": 17}});
    if !known_namespaces().contains(&"time") {
        let error = bundle.run_fails();
        assert!(error.contains("linux.namespaces") && error.contains("time"), "{error}");
        return;
    }
    bundle.start();
    let text = bundle.exec("cat /proc/uptime; cat /proc/self/timens_offsets");
    let uptime: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
    assert!(uptime > 7_000_000.0, "{text}");
    let words: Vec<&str> = text.lines().skip(1).flat_map(str::split_whitespace).collect();
    assert_eq!(words, ["monotonic", "5", "17", "boottime", "7000000", "0"], "{text}");
}

#[test]
fn names_the_loopback_interface_and_the_cgroup() {
    let mut bundle = script(
        "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname; cat /sys/class/net/lo/flags; cat /proc/self/cgroup",
    );
    bundle.config["hostname"] = json!("ship");
    bundle.config["domainname"] = json!("example.org");
    bundle.namespace("cgroup", Some(json!({"type": "cgroup"})));
    let printed = bundle.run_ok();
    let mut lines = printed.lines();
    let mut next = || lines.next().unwrap_or_default().to_owned();
    assert_eq!([next(), next()], ["ship", "example.org"]);
    let flags = u32::from_str_radix(next().trim_start_matches("0x"), 16).unwrap();
    assert_eq!(flags & 1, 1, "lo is down: {flags:#x}");
    let groups: Vec<&str> = printed.lines().skip(3).collect();
    assert!(!groups.is_empty() && groups.iter().all(|line| line.ends_with(":/")), "{groups:?}");
}

#[test]
fn an_exec_is_in_every_namespace_of_the_container() {
    for mapped in [false, true] {
        let mut bundle = script(&format!("({PRINT_NAMESPACES}) >/init; exec sleep 1000"));
        if mapped {
            bundle.map_ids();
        }
        if known_namespaces().contains(&"time") {
            bundle.namespace("time", Some(json!({"type": "time"})));
        }
        bundle.namespace("cgroup", Some(json!({"type": "cgroup"})));
        bundle.start();
        let file = bundle.rootfs("init");
        crate::support::wait_until("uts line", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.contains("uts"))
        });
        let init = namespaces(&std::fs::read_to_string(&file).unwrap());
        let exec = bundle.exec(&format!("{PRINT_NAMESPACES}; grep Cap /proc/self/status; cat /proc/self/cgroup; pwd"));
        let found = namespaces(&exec);
        for name in known_namespaces() {
            assert_eq!(found[name], init[name], "{name}, mapped {mapped}");
        }
        let groups: Vec<&str> = exec.lines().filter(|line| line.contains(":/")).collect();
        assert!(!groups.is_empty() && groups.iter().all(|line| line.ends_with(":/")), "{exec}");
    }
}

#[test]
fn an_exec_joins_the_namespaces_that_init_joined() {
    let holder = Holder::new(&["--net", "--uts", "--ipc"]);
    let mut bundle = script("exec sleep 1000");
    bundle.config.as_object_mut().unwrap().remove("hostname");
    for (kind, link) in [("network", "net"), ("uts", "uts"), ("ipc", "ipc")] {
        bundle.namespace(kind, Some(json!({"type": kind, "path": holder.path(link)})));
    }
    bundle.start();
    let (found, held) = (namespaces(&bundle.exec(PRINT_NAMESPACES)), namespaces(holder.said()));
    for name in ["net", "uts", "ipc"] {
        assert_eq!(found[name], held[name], "{name}");
    }
}

#[test]
fn an_exec_enters_a_joined_user_namespace() {
    let holder = Holder::new(&["--user", "--map-root-user"]);
    let mut bundle = script("exec sleep 1000");
    join_user(&mut bundle, &holder);
    bundle.start();
    let found = namespaces(&bundle.exec(PRINT_NAMESPACES));
    assert_eq!(found["user"], namespaces(holder.said())["user"]);
    assert_ne!(found["uts"], namespaces(holder.said())["uts"]);
}

/// A container that shares the caller's mount namespace: its root is a chroot(2) alone.
fn without_mount_namespace(bundle: &mut Bundle) {
    bundle.namespace("mount", None);
    bundle.config["mounts"] = json!([]);
    let linux = bundle.config["linux"].as_object_mut().unwrap();
    linux.retain(|name, _| name != "maskedPaths" && name != "readonlyPaths");
}

#[test]
fn exec_enters_the_root_of_a_container_without_a_mount_namespace() {
    for own_pids in [true, false] {
        let mut bundle = script("exec sleep 1000");
        without_mount_namespace(&mut bundle);
        if !own_pids {
            bundle.namespace("pid", None);
        }
        let etc = bundle.rootfs("etc");
        std::fs::create_dir(&etc).unwrap();
        std::fs::write(etc.join("passwd"), "inside:x:7:8::/of-the-image:/bin/sh\n").unwrap();
        std::fs::write(bundle.rootfs("mark"), "").unwrap();
        bundle.start();
        assert_eq!(bundle.exec("ls /mark; pwd"), "/mark\n/\n", "pid namespace: {own_pids}");
        assert_eq!(bundle.ok(&["exec", "--cwd", "/bin", &bundle.id, "pwd"]), "/bin\n");
        // Names and HOME come from the image's files, and the program from its PATH.
        let found = bundle.ok(&["exec", "--user", "inside", &bundle.id, "sh", "-c", "id -u; echo $HOME"]);
        assert_eq!(found, "7\n/of-the-image\n", "pid namespace: {own_pids}");
        let host = bundle.rootfs("mark").display().to_string();
        assert_eq!(bundle.exec(&format!("test -e {host} || echo absent")), "absent\n");
    }
}

/// A user namespace whose ids from 0 are the host's from 100000 on.
fn mapped_holder() -> Holder {
    let holder = Holder::new(&["--user"]);
    for file in ["uid_map", "gid_map"] {
        std::fs::write(holder.file(file), "0 100000 65536\n").unwrap();
    }
    holder
}

/// Runs the bundle by a runtime that is root of the holder's user namespace, as rootless Podman does.
fn run_inside(bundle: &Bundle, holder: &Holder) -> std::process::Output {
    let program = bundle.path().join("brig");
    crate::support::copy_program(BRIG, &program);
    bundle.write();
    let owned = std::process::Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.path()).status().unwrap();
    assert!(owned.success());
    let mut command = std::process::Command::new("nsenter");
    command.args(["--setuid", "0", "--setgid", "0"]).arg(format!("--user={}", holder.path("user"))).arg(program);
    command.arg("--root").arg(bundle.state_root()).args(["run", &bundle.id]).current_dir(bundle.path());
    crate::support::output(command.stdin(std::process::Stdio::null()))
}

#[test]
fn root_of_a_user_namespace_gives_groups_to_a_container_in_another() {
    let holder = mapped_holder();
    let mut bundle = script("cat /proc/self/setgroups; grep Groups /proc/self/status");
    bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [7, 9]});
    bundle.config["linux"].as_object_mut().unwrap().retain(|name, _| name != "cgroupsPath" && name != "resources");
    // As `podman run --userns=keep-id` maps them, for user 1000.
    bundle.namespace("user", Some(json!({"type": "user"})));
    let map = json!([{"containerID": 0, "hostID": 1, "size": 1000}, {"containerID": 1000, "hostID": 0, "size": 1}]);
    bundle.config["linux"]["uidMappings"] = map.clone();
    bundle.config["linux"]["gidMappings"] = map;
    let run = run_inside(&bundle, &holder);
    assert_eq!(String::from_utf8_lossy(&run.stdout), "allow\nGroups:\t7 9 \n", "{}", crate::support::show(&run));
}

/// A container in a user namespace, with a directory above that its users may pass.
fn mapped(text: &str) -> Bundle {
    let mut bundle = script(text);
    bundle.map_ids();
    bundle
}

const REOPEN: &str = "echo out >/proc/self/fd/1; echo err >/proc/self/fd/2";

#[test]
fn a_foreground_process_of_a_user_namespace_reopens_its_streams() {
    // The pipes are brig's own, whatever the caller's streams are: these are files of the host.
    let bundle = mapped(&format!("cat; {REOPEN}; exit 3"));
    let run = bundle.run();
    assert_eq!(run.status.code(), Some(3), "{}", crate::support::show(&run));
    assert_eq!((run.stdout, run.stderr), (b"out\n".to_vec(), b"err\n".to_vec()));

    let bundle = mapped("exec sleep 1000");
    bundle.start();
    for user in ["0", "7", "65534"] {
        let exec = bundle.brig(&["exec", "--user", user, &bundle.id, "sh", "-c", REOPEN]);
        assert!(exec.status.success(), "{}", crate::support::show(&exec));
        assert_eq!((exec.stdout, exec.stderr), (b"out\n".to_vec(), b"err\n".to_vec()), "user {user}");
    }
    // Standard input is forwarded up to its end, and a process that is left behind keeps its output.
    let mut exec = bundle.command(&["exec", &bundle.id, "sh", "-c", "cat; (sleep 0.2; echo late) &"]);
    let mut exec = exec.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut exec.stdin.take().unwrap(), b"in\n").unwrap();
    assert_eq!(exec.wait_with_output().unwrap().stdout, b"in\nlate\n");
}

#[test]
fn a_detached_process_of_a_user_namespace_reopens_pipes_and_owns_no_file() {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;
    let bundle = mapped(&format!("{REOPEN}; exec sleep 1000"));
    bundle.write();
    let path = bundle.path().to_str().unwrap().to_owned();
    let read = |verb: &[&str]| {
        let (mut ours, theirs) = std::io::pipe().unwrap();
        let theirs = OwnedFd::from(theirs);
        let status = bundle.command(verb).stdout(theirs.try_clone().unwrap()).stderr(theirs).status().unwrap();
        assert!(status.success(), "{verb:?}");
        let mut found = [0; 8];
        std::io::Read::read_exact(&mut ours, &mut found).unwrap();
        String::from_utf8_lossy(&found).into_owned()
    };
    assert_eq!(read(&["run", "-d", "-b", &path, &bundle.id]), "out\nerr\n");
    for user in ["0", "7"] {
        assert_eq!(read(&["exec", "-d", "--user", user, &bundle.id, "sh", "-c", REOPEN]), "out\nerr\n", "user {user}");
    }
    let file = tempfile::tempfile().unwrap();
    let mut exec = bundle.command(&["exec", "-d", "--user", "7", &bundle.id, "echo", "plain"]);
    assert!(exec.stdout(file.try_clone().unwrap()).stderr(file.try_clone().unwrap()).status().unwrap().success());
    crate::support::wait_until("the line", || file.metadata().unwrap().len() > 0);
    assert_eq!(file.metadata().unwrap().uid(), 0);
}
