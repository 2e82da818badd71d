//! A process's rights: no more capabilities than requested, and in exec no less confinement than init has.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::json;

use super::unless_refused;
use crate::facts::Facts;
use crate::harness::{Bundle, Case, Fixture, Level, wait_until};

/// So many processes come in while one looks; each is there for a fraction of a millisecond before its program runs.
const EXECS: usize = 50;

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// By the year of the attack.
pub const CASES: &[Case] = &[
    case("inheritable capabilities are those that were asked for", "CVE-2022-29162", inheritable),
    case("exec --cap adds no inheritable capability", "CVE-2022-29162", exec_inheritable),
    case("ambient capabilities are those that were asked for", "CVE-2022-27650", ambient),
    case("exec has the container's filter, bounding set and noNewPrivileges", "CVE-2016-3697", exec_confinement),
    case("a startContainer hook has the rights of its container, and no more", "CVE-2016-3697", hook_confinement),
    case("exec is in every namespace of its container", "CVE-2016-9962", exec_namespaces),
    case(
        "no process that a container sees is outside its namespaces or holds a directory of outside",
        "CVE-2016-9962",
        elsewhere,
    ),
    case("a file that the caller's groups may read cannot be read", "CVE-2023-25173", callers_groups),
    case("a group that a file denies access stays, whatever group a program adopts", "CVE-2023-25173", kept_group),
    case("a user by a number that is none is refused", "CVE-2016-3697", numeric_user),
    case("a name in the image's passwd that looks like a number is no user", "CVE-2016-3697", numeric_names),
    case("a user or a group of 4294967295 is refused", "CVE-2016-3697", minus_one),
    case("an exec as the user or with the group 4294967295 is refused", "CVE-2016-3697", exec_minus_one),
    case("an id that is a path is refused", "CVE-2026-30892", ids),
    case("a container of another runtime's root is not found by a path", "CVE-2026-30892", foreign_ids),
    case("root of a user namespace has no privileges outside", "CVE-2022-0492", user_namespace),
    case("a program gets no more privileges by a set-user-id bit", "CVE-2019-5736", no_new_privileges),
    case("the caller's environment is not passed on", "CVE-2016-9962", environment),
];

fn inheritable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let facts = fixture.facts(&bundle)?;
    ensure!(facts.capabilities("CapInh")? == 0, "CapInh: expected none, found {}", facts.status("CapInh")?);
    let facts = fixture.facts(bundle.set("/process/capabilities/inheritable", json!(["CAP_KILL"])))?;
    ensure!(facts.capabilities("CapInh")? == 1 << 5, "CapInh: expected CAP_KILL, found {}", facts.status("CapInh")?);
    Ok(())
}

fn exec_inheritable(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    let plain = container.exec_facts(&[])?;
    ensure!(plain.capabilities("CapInh")? == 0, "CapInh of exec: expected none, found {}", plain.status("CapInh")?);
    let facts = container.exec_facts(&["--cap", "CAP_CHOWN"])?;
    ensure!(
        facts.capabilities("CapEff")? & 1 == 1,
        "CapEff of exec --cap CAP_CHOWN: found {}",
        facts.status("CapEff")?
    );
    let found = facts.capabilities("CapInh")?;
    ensure!(found == 0, "CapInh of exec --cap CAP_CHOWN: expected none, found {found:x}");
    Ok(())
}

fn ambient(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let facts = fixture.facts(&bundle)?;
    let found = (facts.capabilities("CapAmb")?, facts.capabilities("CapEff")?, facts.capabilities("CapPrm")?);
    ensure!(found.0 == 0, "ambient of user 1000: expected none, found {found:x?}");
    Ok(())
}

fn exec_confinement(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let limits = json!([{ "type": "RLIMIT_NOFILE", "soft": 123, "hard": 321 }]);
    bundle.set("/process/rlimits", limits).set("/process/user", json!({ "uid": 12, "gid": 34, "umask": 0o27 }));
    bundle.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO" }] }),
    );
    let expected = fixture.facts(&bundle)?;
    let found = fixture.start(&mut bundle)?.exec_facts(&[])?;
    for name in ["Seccomp", "NoNewPrivs", "CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb", "Uid", "Gid"] {
        let (expected, found) = (expected.status(name)?, found.status(name)?);
        ensure!(found == expected, "{name} of exec: expected {expected} as init has it, found {found}");
    }
    let (expected, found) = (expected.rlimits.get("RLIMIT_NOFILE"), found.rlimits.get("RLIMIT_NOFILE"));
    ensure!(found == expected, "RLIMIT_NOFILE of exec: expected {expected:?} as init has it, found {found:?}");
    Ok(())
}

/// The hook is a program of the image, which the image's author wrote.
fn hook_confinement(fixture: &Fixture) -> anyhow::Result<()> {
    for (no_new_privileges, user) in [(true, 12), (false, 12), (true, 0), (false, 0)] {
        let mut bundle = fixture.bundle()?;
        bundle.set("/process/user", json!({ "uid": user, "gid": 34, "additionalGids": [56] }));
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.set(
            "/linux/seccomp",
            json!({ "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO" }] }),
        );
        std::fs::set_permissions(bundle.rootfs("/"), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        bundle.hook("startContainer", "hook", &[]);
        bundle.args(&["/probe", "record", "/log"]);
        let container = fixture.create(&bundle)?;
        container.start()?;
        ensure!(container.wait()? == 0, "the program: {}", container.output()?);
        let (hook, program) = (bundle.record("hook")?.status, bundle.record("/probe")?.status);
        ensure!(hook["Seccomp"] == "2", "Seccomp of the hook: expected 2, found {}", hook["Seccomp"]);
        for name in
            ["NoNewPrivs", "CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb", "Uid", "Gid", "Groups", "Seccomp_filters"]
        {
            let (expected, found) = (program.get(name), hook.get(name));
            ensure!(
                found == expected,
                "{name} of the hook of user {user}, noNewPrivileges {no_new_privileges}: expected {expected:?} as the \
                 program has it, found {found:?}"
            );
        }
    }
    Ok(())
}

fn exec_namespaces(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?.namespace("cgroup", None);
    let container = fixture.start(&mut bundle)?;
    let facts = container.exec_facts(&[])?;
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
        let expected = std::fs::read_link(container.proc(&format!("ns/{kind}")))?.display().to_string();
        let found = facts.namespaces.get(kind).context("a namespace without a file")?;
        ensure!(*found == expected, "{kind} of exec: expected {expected}, found {found}");
    }
    Ok(())
}

/// A container that may look into all that it sees, and does, while processes come into it.
fn elsewhere(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let capabilities = json!(["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"]);
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), capabilities.clone());
    }
    bundle.args(&["/probe", "watch"]);
    let container = fixture.create(&bundle)?;
    container.start()?;
    wait_until("the look", || Ok(container.output()?.starts_with("looks\n").then_some(())))?;
    for number in 0..EXECS {
        // Of root and of another user, whose ids are set before its program runs.
        let user = if number % 2 == 0 { "0" } else { "1000" };
        container.exec_with(&["--user", user], &["/probe", "exit", "0"])?.ok()?;
    }
    let found = container.output()?;
    let foreign: Vec<&str> = found.lines().filter(|line| line.starts_with("foreign ")).collect();
    ensure!(foreign.is_empty(), "expected nothing but the container's own mounts, found {foreign:#?}");
    // The watcher must see such processes: a process of the container's own that has left its namespaces.
    container.exec_with(&["--detach"], &["/probe", "stray"])?.ok()?;
    for what in [" ns/mnt ", " root ", " cwd ", " fd/"] {
        wait_until(&format!("the look to come upon {what:?} of a process that is elsewhere"), || {
            let found = container.output()?;
            let is_seen = found.lines().any(|line| line.starts_with("foreign ") && line.contains(what));
            Ok(is_seen.then_some(()))
        })?;
    }
    Ok(())
}

/// A file of this group and mode, at /secret.
fn secret(bundle: &Bundle, gid: u32, mode: u32) -> anyhow::Result<()> {
    let path = bundle.rootfs("/secret");
    std::fs::write(&path, "of the group")?;
    std::os::unix::fs::chown(&path, Some(0), Some(gid))?;
    Ok(std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?)
}

/// The caller of the runtime is in a group that may read the file, the container is not.
fn callers_groups(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    secret(&bundle, 4242, 0o040)?;
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 }));
    let container = fixture.start(&mut bundle)?;
    let program = ["/probe", "try", "read", "/secret"];
    let mut bundle = fixture.bundle()?;
    secret(&bundle, 4242, 0o040)?;
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).args(&program).write()?;
    let (id, path) = (fixture.id(), bundle.path().to_string_lossy().into_owned());
    let exec = [&["exec", container.id()], &program[..]].concat();
    let exec_as = [&["exec", "--user", "1000:1000", container.id()], &program[..]].concat();
    for words in [&["run", "--bundle", &path, &id][..], &exec, &exec_as] {
        let command = fixture.command(words);
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        let runtime = fixture.runtime().to_string_lossy();
        let words = ["--groups", "4242", "--", &*runtime].into_iter().chain(words.iter().map(String::as_str));
        let found = fixture.tool("setpriv", &words.collect::<Vec<_>>())?.ok()?;
        ensure!(found.stdout.trim() == "EACCES", "{}: expected EACCES, found {}", found.what, found.stdout);
    }
    Ok(())
}

/// The file is closed to the container's group, and open to all others: a program that takes on another group has the
/// first one still, where config.json has it among the additional ones too, as every manager writes it by now.
fn kept_group(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    secret(&bundle, 1000, 0o604)?;
    let path = bundle.rootfs("/setgid");
    std::fs::copy(bundle.rootfs("/probe"), &path)?;
    std::os::unix::fs::chown(&path, Some(0), Some(7))?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o2755))?;
    bundle.set("/process/noNewPrivileges", json!(false));
    let program = ["/setgid", "try", "read", "/secret"];
    // Without it the attack works, which is what the managers were blamed for.
    bundle.set("/process/user", json!({ "uid": 2000, "gid": 1000 })).args(&program);
    let found = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(found == "ok of the group\n", "without additionalGids: expected the attack to work, found {found}");
    bundle.set("/process/user", json!({ "uid": 2000, "gid": 1000, "additionalGids": [1000] }));
    let found = fixture.run(&bundle)?.ok()?.stdout;
    ensure!(found.trim() == "EACCES", "in run: expected EACCES, found {found}");
    let found = fixture.start(&mut bundle)?.exec(&program)?.ok()?.stdout;
    ensure!(found.trim() == "EACCES", "in exec: expected EACCES, found {found}");
    Ok(())
}

fn numeric_user(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    for user in ["0x0", "+0", "-1", "4294967296", "18446744073709551616", "1 000", "0:0x0", "1:+0"] {
        let done = container.exec_with(&["--user", user], &["/probe", "facts"])?;
        ensure!(done.code != 0, "exec --user {user:?}: expected a refusal, found it taken");
    }
    let facts = container.exec_facts(&["--user", "12:34"])?;
    ensure!(facts.status("Uid")?.starts_with("12\t"), "exec --user 12:34: found {}", facts.status("Uid")?);
    Ok(())
}

/// Each of these names is root, says the image.
fn numeric_names(fixture: &Fixture) -> anyhow::Result<()> {
    const NAMES: [&str; 10] =
        ["4294967296", "8589934592", "01000", "-1", "+5", "0x10", " 5", "1e3", "4294967295", "18446744073709551616"];
    let mut bundle = fixture.bundle()?;
    let lines = |ids: &str| NAMES.map(|name| format!("{name}:x:{ids}\n")).concat();
    fs::write(bundle.rootfs("/etc/passwd"), lines("0:0::/:/bin/sh"))?;
    fs::write(bundle.rootfs("/etc/group"), lines("0:"))?;
    let container = fixture.start(&mut bundle)?;
    for name in NAMES {
        for (user, field) in [(name.to_owned(), "Uid"), (format!("7:{name}"), "Gid")] {
            let done = container.exec_with(&[&format!("--user={user}")], &["/probe", "facts"])?;
            if let Some(done) = unless_refused(done)? {
                let found = Facts::parse(&done.stdout)?.status(field)?.to_owned();
                ensure!(!found.starts_with("0\t"), "exec --user {user:?}: it became {field} 0");
            }
        }
    }
    Ok(())
}

/// (uid_t)-1 makes setresuid(2) and chown(2) keep the current id, which is root.
fn minus_one(fixture: &Fixture) -> anyhow::Result<()> {
    let id = json!(u32::MAX);
    let map = json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let device = |field: &str| {
        let mut device = json!({ "path": "/dev/spec", "type": "c", "major": 1, "minor": 3 });
        device[field] = id.clone();
        json!([device])
    };
    let tmpfs = |option: &str| json!({ "destination": "/tmp", "type": "tmpfs", "options": [option] });
    for (pointer, value) in [
        ("/process/user/uid", id.clone()),
        ("/process/user/gid", id.clone()),
        ("/process/user/additionalGids", json!([1, id])),
        ("/linux/uidMappings", map.clone()),
        ("/linux/gidMappings", map),
        ("/linux/devices", device("uid")),
        ("/linux/devices", device("gid")),
        ("/mounts/100", tmpfs("uid=4294967295")),
        ("/mounts/100", tmpfs("gid=-1")),
    ] {
        let mut bundle = fixture.bundle()?;
        if pointer.ends_with("Mappings") {
            bundle.user_namespace(100_000, 65536)?;
        }
        bundle.set(pointer, value.clone());
        let done = fixture.run(&bundle)?;
        ensure!(done.code != 0, "{pointer} = {value}: expected a refusal, found it taken");
    }
    Ok(())
}

fn exec_minus_one(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    for flag in ["--user=4294967295", "--user=0:4294967295", "--additional-gids=4294967295"] {
        let done = container.exec_with(&[flag], &["/probe", "facts"])?;
        ensure!(done.code != 0, "exec {flag}: expected a refusal, found it taken");
    }
    for (field, value) in [("uid", json!(u32::MAX)), ("gid", json!(u32::MAX)), ("additionalGids", json!([u32::MAX]))] {
        let mut process = bundle.config["process"].clone();
        process["user"] = json!({ "uid": 0, "gid": 0 });
        process["user"][field] = value;
        process["args"] = json!(["/probe", "facts"]);
        let file = fixture.directory().join("process.json");
        fs::write(&file, process.to_string())?;
        let done = container.exec_with(&["--process", &file.to_string_lossy()], &[])?;
        ensure!(done.code != 0, "process.json with user.{field} of 4294967295: expected a refusal, found it taken");
    }
    Ok(())
}

fn ids(fixture: &Fixture) -> anyhow::Result<()> {
    let bundle = fixture.bundle()?;
    bundle.write()?;
    let path = bundle.path().to_string_lossy().into_owned();
    for id in ["..", ".", "../spec", "a/b", "/spec", "", "a b", "a\nb", "ü", "a%00", "a;b"] {
        let done = fixture.call(&["create", "--bundle", &path, id])?;
        if done.code == 0 {
            fixture.call(&["delete", "--force", id])?;
        }
        ensure!(done.code != 0, "create with the id {id:?}: expected a refusal, found it taken");
    }
    let escaped = fixture.root().join("../spec");
    ensure!(!escaped.exists(), "{} was made", escaped.display());
    Ok(())
}

fn foreign_ids(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = fixture.start(&mut bundle)?;
    let by_path = format!("../{}/{}", fixture.root().file_name().context("root")?.to_string_lossy(), container.id());
    for (verb, words) in [("state", &[][..]), ("kill", &["KILL"]), ("delete", &["--force"])] {
        let done = fixture.call(&[&[verb, &by_path], words].concat())?;
        let is_harmless = done.code != 0 || (verb == "delete" && container.status()? == "running");
        ensure!(is_harmless, "{verb} {by_path}: expected a refusal, found {}", done.stdout);
    }
    let status = container.status()?;
    ensure!(status == "running", "the container after that: expected running, found {status}");
    Ok(())
}

fn user_namespace(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let capabilities = json!(["CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_MKNOD", "CAP_SYS_CHROOT"]);
    bundle.set(
        "/process/capabilities",
        json!({
            "bounding": capabilities, "effective": capabilities, "permitted": capabilities
        }),
    );
    std::fs::write(bundle.rootfs("/of-root"), "of the host's root")?;
    std::fs::set_permissions(bundle.rootfs("/of-root"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    bundle.user_namespace(100_000, 65536)?;
    std::os::unix::fs::chown(bundle.rootfs("/of-root"), Some(0), Some(0))?;
    let tried = [
        "read /of-root",
        "chown /of-root 0 0",
        "mknod /tmp/node c 1 3",
        "write /proc/sys/kernel/core_uses_pid 0",
        "write /proc/sysrq-trigger h",
        "mount cgroup /tmp",
    ];
    let found = fixture.attempts(&mut bundle, &tried)?;
    ensure!(found.iter().all(|line| !line.starts_with("ok")), "{tried:?}: expected errors only, found {found:?}");
    Ok(())
}

fn no_new_privileges(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let path = bundle.rootfs("/suid");
    std::fs::copy(bundle.rootfs("/probe"), &path)?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o4755))?;
    bundle.set("/process/user", json!({ "uid": 1000, "gid": 1000 })).args(&["/suid", "facts"]);
    let facts = fixture.facts(&bundle)?;
    let found = facts.status("Uid")?;
    ensure!(found == "1000\t1000\t1000\t1000", "under noNewPrivileges: expected the ids 1000, found {found}");
    ensure!(facts.capabilities("CapEff")? == 0, "CapEff: expected none, found {}", facts.status("CapEff")?);
    Ok(())
}

fn environment(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.args(&["/probe", "wait"]).write()?;
    let (id, pid_file) = (fixture.id(), fixture.directory().join("init.pid"));
    let mut command = fixture.command(&[
        "create",
        "--bundle",
        &bundle.path().to_string_lossy(),
        "--pid-file",
        &pid_file.to_string_lossy(),
        &id,
    ]);
    command.env("SPEC_SECRET", "of-the-caller").stdin(std::process::Stdio::null());
    let status = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status()?;
    ensure!(status.success(), "create: {status}");
    fixture.call(&["start", &id])?.ok()?;
    let pid: i32 = std::fs::read_to_string(&pid_file)?.trim().parse()?;
    crate::harness::wait_until("the program to run", || {
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
        Ok(words.starts_with("/probe\0").then_some(()))
    })?;
    let found = std::fs::read_to_string(format!("/proc/{pid}/environ"))?;
    ensure!(!found.contains("SPEC_SECRET"), "the program's environment has what the caller has: {found:?}");
    Ok(())
}
