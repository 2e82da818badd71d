//! A false /proc, or one with links to other files: the runtime writes nothing to or through it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{Outside, add_capability, unless_refused, while_exchanged, without_mounts};
use crate::harness::{Bundle, Case, Fixture, Level, Need};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// By the year of the attack.
pub const CASES: &[Case] = &[
    case("a directory in the place of /proc does not receive the sysctls", "CVE-2019-16884", false_proc),
    case("a mount onto a file of /proc is refused", "CVE-2019-19921", below_proc),
    case("a mount of proc onto a link is refused", "CVE-2023-27561", |fixture| onto_link(fixture, "/proc")),
    case("a mount of sysfs onto a link is refused", "CVE-2023-27561", |fixture| onto_link(fixture, "/sys")),
    case("a sysctl is written to the kernel, whatever lies at /proc/sys", "CVE-2025-52881", over_sys),
    case("a sysctl's name that leads to another file is refused", "CVE-2025-52881", sysctl_name),
    case("exec trusts no /proc that the container has covered", "CVE-2019-16884", covered_proc),
    case("an AppArmor profile is applied, whatever lies at /proc", "CVE-2023-28642", apparmor).on(&[Need::AppArmor]),
    case(
        "exec applies an AppArmor profile, whatever the container has laid over /proc",
        "CVE-2025-52881",
        apparmor_exec,
    )
    .on(&[Need::AppArmor]),
    case("an AppArmor profile is applied, whatever is swapped for /proc meanwhile", "CVE-2025-52881", apparmor_swapped)
        .on(&[Need::AppArmor]),
    case("an SELinux label is applied, whatever is swapped for /proc meanwhile", "CVE-2025-52881", selinux_swapped)
        .on(&[Need::Selinux]),
    case(
        "a sysctl is written to the kernel, whatever is swapped for /proc meanwhile",
        "CVE-2025-52881",
        sysctl_swapped,
    ),
    case("nothing below /proc/sys or /sys can be written by default", "CVE-2025-52881", default_is_readonly),
];

/// So many containers are made while names are swapped one way; some beds take seconds for each.
const SWAPS: usize = 6;

/// Files of procfs that the cases' requests are written to, below a false /proc.
const FALSE_FILES: [&str; 5] = [
    "self/attr/exec",
    "self/attr/apparmor/exec",
    "thread-self/attr/exec",
    "thread-self/attr/apparmor/exec",
    "sys/kernel/msgmax",
];

/// Makes [`FALSE_FILES`], empty. A runtime that finds none of them may refuse for that reason alone.
fn make_false_files(directory: &Path) -> anyhow::Result<()> {
    for file in FALSE_FILES.map(|file| directory.join(file)) {
        fs::create_dir_all(file.parent().context("a relative path")?)?;
        fs::write(file, "")?;
    }
    Ok(())
}

/// Checks that nothing was written to those of [`FALSE_FILES`] that lie in `directory`.
fn false_files_are_empty(directory: &Path) -> anyhow::Result<()> {
    for file in FALSE_FILES.map(|file| directory.join(file)).iter().filter(|file| file.is_file()) {
        let found = fs::read_to_string(file)?;
        ensure!(found.is_empty(), "{}, which is not of procfs, was written to: {found:?}", file.display());
    }
    Ok(())
}

/// A bundle whose /proc is a plain directory of the image's choice.
fn with_false_proc(fixture: &Fixture) -> anyhow::Result<(Bundle, PathBuf)> {
    let place = fixture.directory().join("false-proc");
    fs::create_dir_all(place.join("self/fd"))?;
    make_false_files(&place)?;
    let mut bundle = fixture.bundle()?;
    without_mounts(&mut bundle, "/proc");
    bundle.mount("/proc", "bind", &place.to_string_lossy(), &["rbind", "rw"]);
    Ok((bundle, place))
}

/// Taken or refused: no write may land in the false file.
fn false_proc(fixture: &Fixture) -> anyhow::Result<()> {
    let (mut bundle, place) = with_false_proc(fixture)?;
    bundle.set("/linux/sysctl", json!({ "kernel.msgmax": "4321" })).args(&["/probe", "exit", "0"]);
    unless_refused(fixture.run(&bundle)?)?;
    false_files_are_empty(&place)
}

fn below_proc(fixture: &Fixture) -> anyhow::Result<()> {
    for (point, kind) in [("/proc/self/attr", "tmpfs"), ("/proc/sys", "tmpfs"), ("/proc/sysrq-trigger", "bind")] {
        let mut bundle = fixture.bundle()?;
        let source = fixture.directory().join("source");
        fs::write(&source, "")?;
        match kind {
            "bind" => bundle.mount(point, "bind", &source.to_string_lossy(), &["bind"]),
            _ => bundle.mount(point, "tmpfs", "tmpfs", &[]),
        };
        fixture.refused(&bundle).map_err(|error| error.context(format!("a mount at {point}")))?;
    }
    Ok(())
}

fn onto_link(fixture: &Fixture, path: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fs::remove_dir(bundle.rootfs(path))?;
    fs::create_dir(bundle.rootfs("/other"))?;
    symlink("other", bundle.rootfs(path))?;
    fixture.refused(bundle.set("/linux/maskedPaths", json!([]))).map(drop)
}

fn over_sys(fixture: &Fixture) -> anyhow::Result<()> {
    let place = fixture.directory().join("false-sys");
    fs::create_dir_all(place.join("kernel"))?;
    fs::write(place.join("kernel/msgmax"), "")?;
    let mut bundle = fixture.bundle()?;
    bundle.mount("/proc/sys", "bind", &place.to_string_lossy(), &["bind", "rw"]);
    bundle.set("/linux/sysctl", json!({ "kernel.msgmax": "4321" }));
    unless_refused(fixture.run(&bundle)?)?;
    let found = fs::read_to_string(place.join("kernel/msgmax"))?;
    ensure!(found.is_empty(), "the sysctl went to a file that is none: {found:?}");
    Ok(())
}

fn sysctl_name(fixture: &Fixture) -> anyhow::Result<()> {
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    for name in [
        format!("net/../../..{}", outside.path().join("mark").display()),
        "net/../kernel/domainname".to_owned(),
        "kernel/shm_rmid_forced/../msgmax".to_owned(),
    ] {
        let mut sysctl = json!({});
        sysctl[name.as_str()] = json!("changed");
        fixture.refused(bundle.set("/linux/sysctl", sysctl)).map_err(|error| error.context(name))?;
    }
    outside.is_untouched()
}

/// A container with the right to mount covers its own /proc; an exec still has no more rights than the container.
fn covered_proc(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    add_capability(&mut bundle, "CAP_SYS_ADMIN");
    bundle.set(
        "/linux/seccomp",
        json!({ "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{ "names": ["getpriority"], "action": "SCMP_ACT_ERRNO" }] }),
    );
    let container = fixture.start(&mut bundle)?;
    let before = container.exec_facts(&[])?;
    let made = container.attempts(&["mount tmpfs /proc", "mkdir /proc/self", "create /proc/self/status"])?;
    ensure!(made[0] == "ok", "covering /proc: expected success, found {made:?}");
    // The exec may be refused. Else its process has the container's limits, as seen from outside.
    let mut child = fixture.command(&["exec", container.id(), "/probe", "wait"]);
    let mut child = child.stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
    let found = (|| -> anyhow::Result<()> {
        let place = container.cgroup("pids")?.join("cgroup.procs");
        let status = crate::harness::wait_until("a second process of the container, or a refusal", || {
            let pids = fs::read_to_string(&place)?;
            let of = |pid: &str| fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let others = pids.lines().filter(|pid| *pid != container.pid().to_string());
            let running = others.map(of).find(|status| status.starts_with("Name:\tprobe"));
            Ok(match child.try_wait()? {
                Some(_) => Some(String::new()),
                None => running,
            })
        })?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        for name in ["Seccomp", "NoNewPrivs", "CapEff", "CapBnd", "CapInh"] {
            let (expected, found) = (before.status(name)?, value(name));
            ensure!(status.is_empty() || found == expected, "{name}: expected {expected} as before, found {found}");
        }
        Ok(())
    })();
    container.kill("KILL")?;
    child.wait()?;
    found
}

/// A profile that denies one file, loaded while the case runs. Profiles are the whole machine's: another worker must
/// not remove this one, so that its name is the case's own.
fn with_profile(fixture: &Fixture, check: impl Fn(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let file = fixture.directory().join("profile");
    let profile = format!("deny-{}", fixture.id());
    let rules = "  file,\n  capability,\n  network,\n  mount,\n  signal,\n  deny /denied rw,\n";
    fs::write(&file, format!("profile {profile} flags=(attach_disconnected,mediate_deleted) {{\n{rules}}}\n"))?;
    let file = file.to_string_lossy().into_owned();
    fixture.tool("apparmor_parser", &["--replace", &file])?.ok()?;
    let outcome = check(&profile);
    fixture.tool("apparmor_parser", &["--remove", &file])?.ok()?;
    outcome
}

fn apparmor(fixture: &Fixture) -> anyhow::Result<()> {
    with_profile(fixture, |profile| {
        let (mut bundle, place) = with_false_proc(fixture)?;
        fs::write(bundle.rootfs("/denied"), "of the image")?;
        bundle.set("/process/apparmorProfile", json!(profile)).args(&["/probe", "try", "read", "/denied"]);
        if let Some(done) = unless_refused(fixture.run(&bundle)?)? {
            ensure!(done.stdout.trim() == "EACCES", "under the profile: expected EACCES, found {}", done.stdout);
        }
        false_files_are_empty(&place)?;
        fs::remove_dir_all(&place)?;
        Ok(())
    })
}

fn apparmor_exec(fixture: &Fixture) -> anyhow::Result<()> {
    with_profile(fixture, |profile| {
        let mut bundle = fixture.bundle()?;
        fs::write(bundle.rootfs("/denied"), "of the image")?;
        add_capability(&mut bundle, "CAP_SYS_ADMIN");
        let container = fixture.start(bundle.set("/process/apparmorProfile", json!(profile)))?;
        // False files, since a runtime that finds none may refuse for that reason alone.
        let attrs = ["self", "thread-self"].map(|task| format!("/proc/{task}/attr"));
        let mut operations = vec!["mount tmpfs /proc".to_owned()];
        for attr in &attrs {
            let task = attr.trim_end_matches("/attr");
            operations.extend([task, attr, &format!("{attr}/apparmor")].map(|path| format!("mkdir {path}")));
            operations.extend(["exec", "apparmor/exec"].map(|file| format!("create {attr}/{file}")));
        }
        operations.push("read /denied".to_owned());
        let covered = container.attempts(&operations.iter().map(String::as_str).collect::<Vec<_>>())?;
        let (denied, made) = covered.split_last().context("no answer")?;
        ensure!(made.iter().all(|line| line == "ok"), "covering /proc: expected success, found {made:?}");
        ensure!(denied == "EACCES", "under the profile: expected EACCES, found {denied}");
        if let Some(done) = unless_refused(container.exec(&["/probe", "try", "read", "/denied"])?)? {
            ensure!(done.stdout.trim() == "EACCES", "in exec: expected EACCES, found {}", done.stdout);
        }
        for file in attrs.iter().flat_map(|attr| [format!("{attr}/exec"), format!("{attr}/apparmor/exec")]) {
            let found = fs::read_to_string(container.proc(&format!("root{file}")))?;
            ensure!(found.is_empty(), "{file}, which is none of procfs, was written to: {found:?}");
        }
        container.call_with_flags("delete", &["--force"])?.ok().map(drop)
    })
}

/// Containers whose image another process writes to. It swaps /proc for a directory of false files, and for a link to
/// one, at the mount of procfs (from a hook, so that the time is certain), and repeatedly before and after it. The
/// runtime may write to none of the false files. `check` checks a container that was not refused, and runs the probe's
/// `wait`.
fn with_swapped_proc(
    fixture: &Fixture,
    bundle: &mut Bundle,
    check: impl Fn(&crate::harness::Container) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let [proc, directory, there] = ["/proc", "/false", "/there"].map(|path| bundle.rootfs(path));
    make_false_files(&directory)?;
    symlink("/false", &there)?;
    bundle.args(&["/probe", "wait"]);
    let create = |bundle: &Bundle| -> anyhow::Result<()> {
        bundle.write()?;
        let (path, pid_file) = (bundle.path().to_string_lossy(), fixture.directory().join("init.pid"));
        let id = fixture.id();
        let words = ["create", "--bundle", &path, "--pid-file", &*pid_file.to_string_lossy(), &id];
        if unless_refused(fixture.call(&words)?)?.is_none() {
            return Ok(());
        }
        let container = fixture.container(&id, fs::read_to_string(&pid_file)?.trim().parse()?)?;
        check(&container)?;
        container.call_with_flags("delete", &["--force"])?.ok().map(drop)
    };
    let untouched = || [&proc, &directory].iter().try_for_each(|place| false_files_are_empty(place));
    for false_proc in [&directory, &there] {
        let (from, to, aside) = (false_proc.display(), proc.display(), bundle.path().join("aside"));
        let swap = format!("mv {to} {aside} && mv {from} {to}", aside = aside.display());
        bundle.set("/hooks", json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", swap] }] }));
        let outcome = create(bundle);
        ensure!(aside.exists(), "expected the hook to swap /proc, and it did not run");
        untouched()?;
        fs::rename(&proc, false_proc)?;
        fs::rename(&aside, &proc)?;
        outcome?;
    }
    bundle.set("/hooks", json!({}));
    for false_proc in [&directory, &there] {
        while_exchanged(&[(&proc, false_proc)], || (0..SWAPS).try_for_each(|_| create(bundle)))?;
        untouched()?;
    }
    Ok(())
}

/// Checks that the program has this label, unless the runtime refused to start it.
fn has_label(container: &crate::harness::Container, expected: &str) -> anyhow::Result<()> {
    if unless_refused(container.call("start", &[])?)?.is_none() {
        return Ok(());
    }
    let runs = crate::harness::wait_until("the program to run, or to end", || {
        // Unreadable once the process has exited.
        let words = fs::read(container.proc("cmdline")).unwrap_or_default();
        if words.starts_with(b"/probe\0") {
            return Ok(Some(true));
        }
        Ok((container.status()? == "stopped").then_some(false))
    })?;
    if !runs {
        return Ok(());
    }
    let found = fs::read_to_string(container.proc("attr/current"))?;
    let found = found.trim_end_matches(['\n', '\0']);
    ensure!(found == expected, "the program's label: expected {expected}, found {found}");
    Ok(())
}

fn apparmor_swapped(fixture: &Fixture) -> anyhow::Result<()> {
    with_profile(fixture, |profile| {
        let mut bundle = fixture.bundle()?;
        bundle.set("/process/apparmorProfile", json!(profile));
        with_swapped_proc(fixture, &mut bundle, |container| has_label(container, &format!("{profile} (enforce)")))
    })
}

fn selinux_swapped(fixture: &Fixture) -> anyhow::Result<()> {
    let label = "system_u:system_r:container_t:s0:c1,c2";
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/selinuxLabel", json!(label));
    with_swapped_proc(fixture, &mut bundle, |container| has_label(container, label))
}

fn sysctl_swapped(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/linux/sysctl", json!({ "kernel.msgmax": "4321" }));
    with_swapped_proc(fixture, &mut bundle, |_| Ok(()))
}

/// The read-only paths of `runc spec`.
fn default_is_readonly(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle
        .set("/linux/readonlyPaths", json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]));
    add_capability(&mut bundle, "CAP_DAC_OVERRIDE");
    let tried = [
        "write /proc/sys/kernel/domainname x",
        "write /proc/sys/kernel/msgmax 8192",
        "write /sys/kernel/profiling x",
        "mount proc /tmp",
        "remount /proc/sys",
        "umount /proc/sys",
    ];
    let found = fixture.attempts(&mut bundle, &tried)?;
    ensure!(found.iter().all(|line| !line.starts_with("ok")), "{tried:?}: expected errors only, found {found:?}");
    Ok(())
}
