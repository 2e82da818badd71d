//! The process: its user, its rights, and its environment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Command;

use serde_json::{Value, json};

use crate::helpers::script;
use crate::support::{Bundle, output, show, write_program};

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

/// Fields of /proc/self/status.
fn status(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once(":\t").map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

const WHO: &str = "id -u; id -g; id -G; umask; pwd; echo $HOME; echo $A";

#[test]
fn user_groups_umask_directory_and_environment() {
    let mut bundle = script(WHO);
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o027});
    bundle.config["process"]["cwd"] = json!("/made/for/it");
    bundle.config["process"]["env"] = json!(["PATH=/bin", "A=first", "A=second"]);
    assert_eq!(lines(&bundle.run_ok()), ["1000", "1001", "1001 5 6", "0027", "/made/for/it", "/", "second"]);
    fs::create_dir(bundle.rootfs("etc")).unwrap();
    fs::write(bundle.rootfs("etc/passwd"), "root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n").unwrap();
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1001});
    bundle.config["process"]["cwd"] = json!("/");
    assert_eq!(lines(&bundle.run_ok()), ["1000", "1001", "1001", "0022", "/", "/home/me", "second"]);
    // The configuration's values have precedence.
    bundle.config["process"]["env"] = json!(["PATH=/bin", "HOME=/elsewhere"]);
    assert_eq!(lines(&bundle.run_ok())[5], "/elsewhere");
}

#[test]
fn the_program_is_found_in_the_containers_path_and_gets_its_arguments() {
    let mut bundle = Bundle::new(&["tool", "a b", "", "$c"]);
    for (place, name) in [("opt", "opt"), ("work", "work")] {
        fs::create_dir(bundle.rootfs(place)).unwrap();
        let text = format!("#!/bin/sh\necho {name} $# \"$1\" \"$3\" $0\n");
        write_program(&bundle.rootfs(place).join("tool"), &text);
    }
    bundle.config["process"]["env"] = json!(["PATH=/nowhere:/opt:/work"]);
    assert_eq!(bundle.run_ok(), "opt 3 a b $c /opt/tool\n");
    bundle.config["process"]["cwd"] = json!("/work");
    bundle.config["process"]["args"][0] = json!("./tool");
    assert_eq!(bundle.run_ok(), "work 3 a b $c ./tool\n");
    for (program, message) in [
        ("nope", "exec: \\\"nope\\\": executable file not found in $PATH"),
        ("/nope", "exec: \\\"/nope\\\": stat /nope: no such file or directory"),
        ("/opt", "exec: \\\"/opt\\\": is a directory"),
    ] {
        bundle.config["process"]["args"][0] = json!(program);
        let error = bundle.run_fails();
        assert!(error.contains("unable to start container process") && error.contains(message), "{error}");
    }
}

#[test]
fn five_sets_of_capabilities() {
    let mut bundle = script("grep Cap /proc/self/status");
    let bits = |names: &[u32]| format!("{:016x}", names.iter().fold(0u64, |bits, number| bits | 1 << number));
    let sets = |list: Value, ambient: Value| json!({"bounding": list, "effective": list, "permitted": list, "inheritable": ambient, "ambient": ambient});
    bundle.config["process"]["capabilities"] = sets(json!(["CAP_KILL", "CAP_CHOWN"]), json!([]));
    let root = status(&bundle.run_ok());
    for (name, numbers) in
        [("CapInh", &[][..]), ("CapPrm", &[0, 5]), ("CapEff", &[0, 5]), ("CapBnd", &[0, 5]), ("CapAmb", &[])]
    {
        assert_eq!(root[name], bits(numbers), "{name}");
    }
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let user = status(&bundle.run_ok());
    assert_eq!((&user["CapEff"], &user["CapBnd"]), (&bits(&[]), &bits(&[0, 5])));
    bundle.config["process"]["capabilities"] = sets(json!(["CAP_KILL", "CAP_CHOWN"]), json!(["CAP_KILL"]));
    let user = status(&bundle.run_ok());
    for (name, numbers) in
        [("CapInh", &[5][..]), ("CapPrm", &[5]), ("CapEff", &[5]), ("CapBnd", &[0, 5]), ("CapAmb", &[5])]
    {
        assert_eq!(user[name], bits(numbers), "{name}");
    }
    bundle.config["process"].as_object_mut().unwrap().remove("capabilities");
    bundle.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    let none = status(&bundle.run_ok());
    assert!(none.iter().all(|(_, value)| *value == bits(&[])), "{none:?}");
}

#[test]
fn an_exec_has_the_configured_and_the_added_capabilities() {
    let mut bundle = script("exec sleep 1000");
    bundle.config["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"], "inheritable": [], "ambient": [],
    });
    bundle.start();
    let look = |flags: &[&str]| {
        let line = [&["exec"], flags, &[&bundle.id, "grep", "Cap", "/proc/self/status"]].concat();
        status(&bundle.ok(&line))
    };
    let plain = look(&[]);
    assert_eq!((plain["CapEff"].as_str(), plain["CapBnd"].as_str()), ("0000000000000020", "0000000000000020"));
    let more = look(&["--cap", "CAP_CHOWN"]);
    assert_eq!((more["CapEff"].as_str(), more["CapBnd"].as_str()), ("0000000000000021", "0000000000000021"));
    assert_eq!((more["CapInh"].as_str(), more["CapAmb"].as_str()), ("0000000000000000", "0000000000000000"));
    let user = look(&["--cap", "CAP_CHOWN", "--user", "1000"]);
    assert_eq!((user["CapEff"].as_str(), user["CapInh"].as_str()), ("0000000000000000", "0000000000000000"));
}

#[test]
fn resource_limits() {
    let mut bundle = script("grep -E '^Max (open files|core)' /proc/self/limits");
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
    ]);
    bundle.config["process"]["rlimits"] = limits;
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let expected = words("Max core file size 0 4096 bytes Max open files 100 200 files");
    assert_eq!(words(&bundle.run_ok()), expected);
    bundle.config["process"]["args"][2] = json!("exec sleep 1000");
    bundle.start();
    assert_eq!(words(&bundle.exec("grep -E '^Max (open files|core)' /proc/self/limits")), expected);
}

#[test]
fn a_limit_above_the_callers_is_refused_by_name() {
    let mut bundle = script("true");
    let limits =
        json!([{"type": "RLIMIT_CORE", "soft": 1, "hard": 1}, {"type": "RLIMIT_NOFILE", "soft": 1, "hard": 400}]);
    bundle.config["process"]["rlimits"] = limits;
    bundle.write();
    let caller = ["--nofile=300:300", "--", crate::support::BRIG, "--root"];
    let mut command = Command::new("prlimit");
    command.args(caller).arg(bundle.state_root()).args(["run", "-b"]).arg(bundle.path()).arg(&bundle.id);
    let run = output(command.env_clear().env("PATH", "/bin:/usr/bin"));
    // With CAP_SYS_RESOURCE the limit is raised.
    if run.status.code() != Some(0) {
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(error.contains("process.rlimits[1]") && error.contains("CAP_SYS_RESOURCE"), "{error}");
    }
    bundle.assert_nothing_left();
}

#[test]
fn no_new_privileges_and_the_score_of_the_memory_killer() {
    let mut bundle = script("grep NoNewPrivs /proc/self/status; cat /proc/self/oom_score_adj");
    bundle.config["process"]["noNewPrivileges"] = json!(true);
    bundle.config["process"]["oomScoreAdj"] = json!(321);
    assert_eq!(lines(&bundle.run_ok()), ["NoNewPrivs:\t1", "321"]);
    bundle.config["process"]["noNewPrivileges"] = json!(false);
    let line = bundle.config["process"]["args"][2].take();
    bundle.config["process"]["args"][2] = json!("exec sleep 1000");
    bundle.start();
    let look = |flags: &[&str]| {
        let text = bundle.ok(&[&["exec"], flags, &[&bundle.id, "sh", "-c", line.as_str().unwrap()]].concat());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(look(&[]), ["NoNewPrivs:\t0", "321"]);
    assert_eq!(look(&["--no-new-privs"]), ["NoNewPrivs:\t1", "321"]);
}

#[test]
fn scheduler_io_priority_and_personality() {
    let mut bundle = script("uname -m; exec sleep 1000");
    bundle.config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    bundle.config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    bundle.config["linux"]["personality"] = json!({"domain": "LINUX32"});
    bundle.start();
    let file = bundle.path().join("pid");
    bundle.ok(&["exec", "-d", "--pid-file", file.to_str().unwrap(), &bundle.id, "sleep", "1001"]);
    for pid in [bundle.state()["pid"].to_string(), fs::read_to_string(file).unwrap()] {
        let host = |line: &[&str]| {
            let output = Command::new(line[0]).args(&line[1..]).arg(&pid).output().expect("util-linux is installed");
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(host(&["chrt", "-p"]).contains("SCHED_BATCH"), "{}", host(&["chrt", "-p"]));
        assert_eq!(host(&["ionice", "-p"]).trim(), "best-effort: prio 6");
        assert_eq!(host(&["ps", "-o", "ni=", "-p"]).trim(), "7");
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/personality")).unwrap().trim(), "00000008");
    }
}

#[test]
fn an_exec_runs_on_its_own_processors() {
    let mut bundle = script("exec sleep 1000");
    let mut process = bundle.config["process"].clone();
    process["args"] = json!(["grep", "Cpus_allowed_list", "/proc/self/status"]);
    process["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    bundle.config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    bundle.start();
    let file = bundle.path().join("process.json");
    let look = |process: &Value| {
        fs::write(&file, process.to_string()).unwrap();
        let text = bundle.ok(&["exec", "-p", file.to_str().unwrap(), &bundle.id]);
        text.split_whitespace().nth(1).unwrap_or_default().to_owned()
    };
    if std::thread::available_parallelism().is_ok_and(|count| count.get() > 1) {
        assert_eq!(look(&process), "1");
        let init = fs::read_to_string(format!("/proc/{}/status", bundle.state()["pid"])).unwrap();
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(status(&init)["Cpus_allowed_list"], status(&own)["Cpus_allowed_list"]);
    }
    process["execCPUAffinity"] = json!({"final": "0"});
    assert_eq!(look(&process), "0");
}

#[test]
fn standard_streams_belong_to_the_user() {
    let mut bundle =
        script("stat -L -c %u /proc/self/fd/1; echo again >/proc/self/fd/1; stat -L -c %u /proc/self/fd/0");
    bundle.config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    let printed = bundle.run_ok();
    // The reopened file starts at offset 0.
    assert!(printed.starts_with("again"), "{printed}");
    use std::os::unix::fs::MetadataExt;
    let null = fs::metadata("/dev/null").unwrap();
    assert_eq!((null.uid(), null.mode() & 0o777), (0, 0o666), "the host's /dev/null was changed");
}

/// Runs brig with inherited fds: all others are close-on-exec in this process.
fn with_fds(bundle: &Bundle, environment: &str, line: &str) -> String {
    let root = bundle.state_root();
    let line = format!(
        "exec 3</dev/zero 4</dev/full 5</dev/null 9</etc/passwd; {environment} exec {} --root {} {line}",
        crate::support::BRIG,
        root.display()
    );
    let run = output(Command::new("sh").args(["-c", &line]).current_dir(bundle.path()));
    assert!(run.status.success(), "{}", show(&run));
    String::from_utf8(run.stdout).unwrap()
}

#[test]
fn only_preserved_descriptors_are_inherited() {
    let look = "exec ls -l /proc/self/fd";
    let mut bundle = script(look);
    bundle.write();
    // "mode links owner group size month day time 3 -> /dev/zero"; ls has one of its own, for the directory.
    let found = |text: &str| -> Vec<String> {
        let link = |line: &str| {
            let (before, target) = line.split_once(" -> ")?;
            let number: u32 = before.rsplit(' ').next()?.parse().ok()?;
            (number > 2 && !target.ends_with("/fd")).then(|| format!("{number} {target}"))
        };
        text.lines().filter_map(link).collect()
    };
    let id = bundle.id.clone();
    assert_eq!(found(&with_fds(&bundle, "", &format!("run {id}"))), [""; 0]);
    assert_eq!(found(&with_fds(&bundle, "", &format!("run --preserve-fds 2 {id}"))), ["3 /dev/zero", "4 /dev/full"]);
    let text = with_fds(&bundle, "LISTEN_FDS=1 LISTEN_PID=$$", &format!("run --preserve-fds 1 {id}"));
    assert_eq!(found(&text), ["3 /dev/zero", "4 /dev/full"]);
    bundle.config["process"]["args"][2] = json!("echo $LISTEN_FDS $LISTEN_PID");
    bundle.write();
    assert_eq!(with_fds(&bundle, "LISTEN_FDS=2 LISTEN_PID=$$", &format!("run {id}")), "2 1\n");
    bundle.config["process"]["args"][2] = json!("exec sleep 1000");
    bundle.start();
    let exec = |flags: &str| found(&with_fds(&bundle, "", &format!("exec {flags} {id} sh -c '{look}'")));
    assert_eq!(exec(""), [""; 0]);
    assert_eq!(exec("--preserve-fds 1"), ["3 /dev/zero"]);
}

#[test]
fn a_session_keyring_of_its_own_which_an_exec_shares() {
    if !fs::exists("/proc/keys").unwrap() {
        return; // A kernel without keyrings.
    }
    let mut bundle = script("cat /proc/keys >/keys; exec sleep 1000");
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.start();
    let name = format!("_ses.{}", bundle.id);
    let serial = |text: &str| {
        let line = text.lines().find(|line| line.contains(&name));
        line.and_then(|line| line.split(' ').next()).map(str::to_owned)
    };
    let init = || serial(&fs::read_to_string(bundle.rootfs("keys")).unwrap_or_default());
    crate::support::wait_until("keyring", || init().is_some());
    assert_eq!(serial(&bundle.exec("cat /proc/keys")), init());
    let mut bundle = script("cat /proc/keys");
    bundle.config["linux"]["maskedPaths"] = json!([]);
    bundle.write();
    let keys = bundle.ok(&["run", "--no-new-keyring", "-b", bundle.path().to_str().unwrap(), &bundle.id]);
    assert!(!keys.contains(&format!("_ses.{}", bundle.id)), "{keys}");
}

#[test]
fn names_of_users_are_looked_up_in_the_container() {
    let bundle = script("exec sleep 1000");
    fs::create_dir(bundle.rootfs("etc")).unwrap();
    fs::write(bundle.rootfs("etc/passwd"), "root:x:0:0::/root:/bin/sh\nme:x:1000:1001::/home/me:/bin/sh\n").unwrap();
    fs::write(bundle.rootfs("etc/group"), "wheel:x:10:me\nmine:x:1001:\n").unwrap();
    bundle.start();
    let look = |flags: &[&str]| {
        let text = bundle.ok(&[&["exec"], flags, &[&bundle.id, "sh", "-c", WHO]].concat());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(look(&["-u", "me"])[..3], ["1000", "1001", "1001 10"]);
    assert_eq!(look(&["-u", "me"])[5], "/home/me");
    assert_eq!(look(&["-u", "1000:5", "-g", "7", "-g", "8"])[..3], ["1000", "5", "5 7 8"]);
    let other = look(&["-u", "0:wheel", "-e", "A=x", "--cwd", "/etc"]);
    assert_eq!(other[..2], ["0", "10"]);
    assert_eq!(other[4..], ["/etc", "/root", "x"]);
    let output = bundle.brig(&["exec", "-u", "nobody-here", &bundle.id, "true"]);
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody-here"), "{}", show(&output));
}

#[test]
fn the_callers_groups_stay_when_that_is_asked_for() {
    let own = |text: String| text.lines().find(|line| line.starts_with("Groups:")).map(str::to_owned);
    let mut bundle = script("cat /proc/self/status");
    bundle.config["process"]["user"]["additionalGids"] = json!([7]);
    assert_eq!(own(bundle.run_ok()).unwrap().split_whitespace().nth(1), Some("7"));
    bundle.config["annotations"] = json!({"run.oci.keep_original_groups": "1"});
    let ours = fs::read_to_string("/proc/self/status").unwrap();
    let words = |line: Option<String>| line.unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(own(bundle.run_ok())), words(own(ours)));
}

#[test]
fn memory_comes_from_where_the_policy_says() {
    // Each mapping shows the policy that its memory comes by (proc(5), numa_maps).
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        return;
    }
    let policy = |text: &str| text.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    for (value, shown) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "interleave=static:0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        bundle.config["linux"]["memoryPolicy"] = value;
        bundle.start();
        let pid = bundle.state()["pid"].as_i64().unwrap();
        let init = fs::read_to_string(format!("/proc/{pid}/numa_maps")).unwrap();
        assert_eq!(policy(&init), shown, "init");
        assert_eq!(policy(&bundle.exec("head -n 1 /proc/self/numa_maps")), shown, "exec");
        bundle.ok(&["delete", "-f", &bundle.id]);
    }
}

#[test]
fn a_closed_standard_stream_stays_closed_to_the_host() {
    let mut bundle = script("echo $(readlink /proc/self/fd/0) >/seen");
    bundle.write();
    bundle.config["process"]["args"] = json!(["true"]);
    let line = format!(
        "exec {} --root {} run {} <&- >&- 2>&-",
        crate::support::BRIG,
        bundle.state_root().display(),
        bundle.id
    );
    let run = output(Command::new("sh").args(["-c", &line]).current_dir(bundle.path()));
    assert!(run.status.success(), "{}", show(&run));
    let seen = fs::read_to_string(bundle.rootfs("seen")).unwrap();
    assert!(["/dev/null\n", "\n"].contains(&seen.as_str()), "{seen:?}");
    drop(File::open("/dev/null").unwrap());
}

/// `brig ARGS` by a caller that may only use CPU 0; the CPUs that the program may use.
fn cpus_of(bundle: &Bundle, args: &[&str]) -> String {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", crate::support::BRIG, "--root"]).arg(bundle.state_root()).args(args);
    let done = output(command.stdin(std::process::Stdio::null()));
    assert!(done.status.success(), "{args:?}: {done:?}");
    let text = String::from_utf8(done.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

#[test]
fn the_callers_cpu_affinity_does_not_reach_a_container() {
    let all = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap().trim().to_owned();
    if all == "0" {
        return;
    }
    let status = ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"];
    let mut bundle = Bundle::new(&status);
    bundle.config["linux"]["resources"] = json!({});
    bundle.write();
    let path = bundle.path().to_str().unwrap().to_owned();
    assert_eq!(cpus_of(&bundle, &["run", "-b", &path, &bundle.id]), all);
    let has_cpuset = std::path::Path::new("/sys/fs/cgroup/cpuset").is_dir();
    if has_cpuset {
        bundle.config["linux"]["resources"] = json!({"cpu": {"cpus": "1"}});
        bundle.write();
        assert_eq!(cpus_of(&bundle, &["run", "-b", &path, &bundle.id]), "1");
        bundle.config["linux"]["resources"] = json!({"cpu": {"cpus": all}});
    }
    bundle.config["process"]["args"] = json!(["sleep", "1000"]);
    bundle.start();
    let exec = |words: &[&str]| cpus_of(&bundle, &[&["exec"], words, &[&bundle.id], &status].concat());
    assert_eq!(exec(&[]), all);
    // execCPUAffinity has precedence.
    let process = bundle.path().join("process.json");
    let pinned = json!({"args": status, "cwd": "/", "execCPUAffinity": {"final": "1"}});
    std::fs::write(&process, pinned.to_string()).unwrap();
    assert_eq!(cpus_of(&bundle, &["exec", "-p", process.to_str().unwrap(), &bundle.id]), "1");
}

#[test]
fn an_exec_has_the_containers_cpu_affinity_unless_its_process_has_one() {
    let status = ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"];
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.config["process"]["execCPUAffinity"] = json!({"final": "0"});
    bundle.start();
    let process = bundle.path().join("process.json");
    std::fs::write(&process, json!({"args": status, "cwd": "/"}).to_string()).unwrap();
    assert_eq!(cpus_of(&bundle, &["exec", "-p", process.to_str().unwrap(), &bundle.id]), "0");
}

#[test]
fn the_reason_why_a_file_cannot_be_executed_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let mut bundle = script("exec sleep 1000");
    let write = |name: &str, bytes: &[u8], mode: u32| {
        std::fs::write(bundle.rootfs(name), bytes).unwrap();
        std::fs::set_permissions(bundle.rootfs(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write("script", b"#!/usr/bin/python9 -u\n", 0o755);
    write("dos", b"#!/bin/sh\r\necho\r\n", 0o755);
    write("plain", b"echo hello\n", 0o755);
    write("unset", b"#!/bin/sh\n", 0o644);
    write("dynamic", &std::fs::read("/bin/ls").unwrap(), 0o755);
    let mut foreign = std::fs::read("/bin/busybox").unwrap();
    // e_machine (elf(5)): EM_S390.
    foreign[18..20].copy_from_slice(&22u16.to_le_bytes());
    write("foreign", &foreign, 0o755);
    let fixed = bundle.path().join("fixed");
    std::fs::create_dir(&fixed).unwrap();
    std::fs::write(fixed.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(fixed.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let mount = json!({"destination": "/fixed", "type": "bind", "source": fixed, "options": ["bind", "noexec"]});
    bundle.config["mounts"].as_array_mut().unwrap().push(mount);
    let cases = [
        (
            "/script",
            "no such file or directory",
            "the interpreter /usr/bin/python9 of this script is not in the container",
        ),
        ("/dos", "no such file or directory", "carriage return"),
        ("/plain", "exec format error", "/plain is no ELF program, and no script"),
        ("/unset", "permission denied", "/unset has no execute permission (mode 0644)"),
        ("/dynamic", "no such file or directory", "the loader /lib"),
        ("/foreign", "exec format error", "the program is for another machine, s390x"),
        ("/fixed/run", "permission denied", "/fixed/run is on a file system that is mounted noexec"),
    ];
    bundle.start();
    for (path, words, reason) in cases {
        let exec = bundle.brig(&["exec", &bundle.id, path]);
        let said = String::from_utf8_lossy(&exec.stderr).into_owned();
        assert_eq!(exec.status.code(), Some(255), "{path}: {said}");
        assert!(said.contains(words) && said.contains(reason), "{path}: {said}");
    }
    bundle.ok(&["delete", "-f", &bundle.id]);
    // The reason is also found under a filter that forbids the inspection.
    let forbidden =
        json!([{"names": ["openat", "open", "access", "faccessat", "faccessat2"], "action": "SCMP_ACT_KILL_PROCESS"}]);
    bundle.config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": forbidden});
    for (path, words, reason) in cases {
        bundle.config["process"]["args"] = json!([path]);
        let error = bundle.run_fails();
        assert!(error.contains(words) && error.contains(reason), "{path}: {error}");
    }
}

#[test]
fn a_long_error_of_init_is_truncated_and_reported() {
    let name = "x".repeat(130_000);
    let mut bundle = script("exec sleep 1000");
    bundle.start();
    let exec = bundle.brig(&["exec", &bundle.id, &name]);
    let said = String::from_utf8_lossy(&exec.stderr).into_owned();
    assert_eq!(exec.status.code(), Some(255));
    bundle.ok(&["delete", "-f", &bundle.id]);
    for path in [name.clone(), format!("/{name}")] {
        bundle.config["process"]["args"] = json!([path]);
        let error = bundle.run_fails();
        let reason = if path.starts_with('/') { "ile name too long" } else { "executable file not found in $PATH" };
        for said in [&error, &said].into_iter().take(if path.starts_with('/') { 1 } else { 2 }) {
            assert!(said.len() < 20_000 && said.contains(reason) && !said.contains("Message too long"), "{said}");
        }
    }
}
