//! config.md, Linux Process: labels, privileges, priorities and processors.

use std::fs;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::facts::Facts;
use crate::harness::{Case, Fixture, Level, Need};

const SECTION: &str = "config.md#linux-process";

const fn must(name: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, SECTION, Level::Must, run)
}

/// In the order of the text.
pub const CASES: &[Case] = &[
    must("process.apparmorProfile is the program's profile", apparmor)
        .on(&[Need::AppArmor, Need::Program("apparmor_parser")]),
    Case::new(
        "an apparmorProfile that cannot be applied is refused",
        "config.md#valid-values",
        Level::Must,
        no_apparmor,
    ),
    must("noNewPrivileges true sets no_new_privs", |fixture| no_new_privileges(fixture, json!(true), "1")),
    must("noNewPrivileges false leaves no_new_privs alone", |fixture| no_new_privileges(fixture, json!(false), "0")),
    must("noNewPrivileges left out leaves no_new_privs alone", |fixture| no_new_privileges(fixture, Value::Null, "0")),
    must("oomScoreAdj is the program's oom_score_adj", |fixture| oom_score(fixture, "", Some(345), "345")),
    must("oomScoreAdj may be lowered to the runtime's initial value", |fixture| {
        oom_score(fixture, "echo 0 >/proc/self/oom_score_adj", Some(0), "0")
    }),
    must("oomScoreAdj may be negative", |fixture| oom_score(fixture, "", Some(-500), "-500")).on(&[Need::SysResource]),
    must("without oomScoreAdj the program's oom_score_adj is the runtime's own", |fixture| {
        oom_score(fixture, "echo 77 >/proc/self/oom_score_adj", None, "77")
    }),
    Case::new("an oomScoreAdj out of range is refused", "config.md#valid-values", Level::Must, |fixture| {
        fixture.refused(fixture.bundle()?.set("/process/oomScoreAdj", json!(1001)))?;
        fixture.refused(fixture.bundle()?.set("/process/oomScoreAdj", json!(-1001))).map(drop)
    }),
    must("selinuxLabel is the program's context", labelled).on(&[Need::Selinux]),
    must("selinuxLabel of an exec is its program's context", labelled_exec).on(&[Need::Selinux]),
    Case::new("a selinuxLabel that cannot be applied is refused", "config.md#valid-values", Level::Must, no_selinux),
    must("ioPriority of the class RT is set", |fixture| io_priority(fixture, "IOPRIO_CLASS_RT", 3, "realtime: prio 3")),
    must("ioPriority of the class BE is set", |fixture| {
        io_priority(fixture, "IOPRIO_CLASS_BE", 6, "best-effort: prio 6")
    }),
    must("ioPriority of the class IDLE is set", |fixture| io_priority(fixture, "IOPRIO_CLASS_IDLE", 0, "idle")),
    must("ioPriority applies to programs that are started later too", io_priority_of_exec),
    Case::new(
        "an ioPriority that the kernel does not have is refused",
        "config.md#valid-values",
        Level::Must,
        bad_io_priority,
    ),
    must("execCPUAffinity.final is the set of CPUs of an exec", final_affinity).on(&[Need::Cpus(2)]),
    must("execCPUAffinity does not apply to the container's first process", affinity_of_init).on(&[Need::Cpus(2)]),
    Case::new(
        "without execCPUAffinity.final an exec keeps the CPUs of initial",
        SECTION,
        Level::Should,
        initial_affinity,
    )
    .on(&[Need::Cpus(2), Need::Kernel(6, 2)]),
    Case::new("an execCPUAffinity that is no list is refused", "config.md#valid-values", Level::Must, bad_affinity),
];

fn apparmor(fixture: &Fixture) -> anyhow::Result<()> {
    let name = format!("spec-{}", fixture.id());
    let text =
        format!("profile {name} flags=(attach_disconnected) {{\n  file,\n  signal,\n  deny /etc/secret r,\n}}\n");
    let path = fixture.directory().join("profile");
    fs::write(&path, text)?;
    let path = path.to_string_lossy();
    fixture.tool("apparmor_parser", &["--replace", "--skip-cache", &path])?.ok()?;
    let judged = confined(fixture, &name);
    fixture.tool("apparmor_parser", &["--remove", &path])?.ok()?;
    judged
}

fn confined(fixture: &Fixture, name: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    fs::write(bundle.rootfs("/etc/secret"), "secret")?;
    bundle.set("/process/apparmorProfile", json!(name));
    let found = fixture.tries(&mut bundle, &["read", "/proc/self/attr/current", ",", "read", "/etc/secret"])?;
    let wanted = [format!("ok {name} (enforce)"), "EACCES".to_owned()];
    ensure!(found == wanted, "the program's profile and a file that it denies: expected {wanted:?}, found {found:?}");
    Ok(())
}

/// Without AppArmor any profile; with AppArmor one that is not loaded.
fn no_apparmor(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.run(fixture.bundle()?.set("/process/apparmorProfile", json!("spec-of-nobody")))?.refused().map(drop)
}

const LABEL: &str = "system_u:system_r:container_t:s0:c1,c2";

fn labelled(fixture: &Fixture) -> anyhow::Result<()> {
    for no_new_privileges in [true, false] {
        let mut bundle = fixture.bundle()?;
        bundle.set("/process/selinuxLabel", json!(LABEL)).set("/process/noNewPrivileges", json!(no_new_privileges));
        let found = fixture.tries(&mut bundle, &["read", "/proc/self/attr/current"])?;
        // The kernel ends a context with a NUL byte.
        ensure!(
            found == [format!("ok {LABEL}\0")],
            "noNewPrivileges {no_new_privileges}: expected {LABEL}, found {found:?}"
        );
    }
    Ok(())
}

fn labelled_exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/selinuxLabel", json!(LABEL));
    let container = fixture.start(&mut bundle)?;
    let own = "system_u:system_r:container_t:s0:c2";
    for (flags, expected) in [(&[][..], LABEL), (&["--process-label", own], own)] {
        let found = container.exec_with(flags, &["/probe", "try", "read", "/proc/self/attr/current"])?.ok()?.stdout;
        ensure!(found.trim_end() == format!("ok {expected}\0"), "exec {flags:?}: expected {expected}, found {found:?}");
    }
    Ok(())
}

/// Without SELinux any label; with it, one that no policy knows.
fn no_selinux(fixture: &Fixture) -> anyhow::Result<()> {
    fixture.run(fixture.bundle()?.set("/process/selinuxLabel", json!("no:such:label:s0")))?.refused().map(drop)
}

fn no_new_privileges(fixture: &Fixture, value: Value, wanted: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.remove("/process/noNewPrivileges");
    if !value.is_null() {
        bundle.set("/process/noNewPrivileges", value);
    }
    let facts = fixture.facts(&bundle)?;
    let found = facts.status("NoNewPrivs")?;
    ensure!(found == wanted, "NoNewPrivs: expected {wanted}, found {found}");
    Ok(())
}

fn oom_score(fixture: &Fixture, prelude: &str, value: Option<i64>, wanted: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    if let Some(value) = value {
        bundle.set("/process/oomScoreAdj", json!(value));
    }
    let facts = fixture.facts_after(prelude, &bundle)?;
    let found = facts.files.get("/proc/self/oom_score_adj").context("no oom_score_adj")?.trim();
    ensure!(found == wanted, "oom_score_adj: expected {wanted}, found {found}");
    Ok(())
}

fn io_priority(fixture: &Fixture, class: &str, level: u8, wanted: &str) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/ioPriority", json!({ "class": class, "priority": level }));
    let container = fixture.start(&mut bundle)?;
    let found = fixture.tool("ionice", &["-p", &container.pid().to_string()])?.ok()?.stdout;
    ensure!(found.trim() == wanted, "ionice -p of the program: expected {wanted:?}, found {:?}", found.trim());
    Ok(())
}

fn io_priority_of_exec(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/ioPriority", json!({ "class": "IOPRIO_CLASS_BE", "priority": 7 }));
    let container = fixture.start(&mut bundle)?;
    let pid_file = fixture.directory().join("exec.pid");
    let flags = ["--detach", "--pid-file", &*pid_file.to_string_lossy()];
    container.exec_with(&flags, &["/probe", "wait"])?.ok()?;
    let pid = fs::read_to_string(&pid_file)?;
    let found = fixture.tool("ionice", &["-p", pid.trim()])?.stdout;
    container.kill("KILL")?;
    // Nobody else reaps it, and its pid namespace lasts as long as it does.
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid.trim().parse()?), None)?;
    ensure!(
        found.trim() == "best-effort: prio 7",
        "ionice -p of an exec: expected best-effort: prio 7, found {found:?}"
    );
    Ok(())
}

fn bad_io_priority(fixture: &Fixture) -> anyhow::Result<()> {
    for value in [
        json!({ "class": "IOPRIO_CLASS_BE", "priority": 8 }),
        json!({ "class": "IOPRIO_CLASS_BE", "priority": -1 }),
        json!({ "class": "IOPRIO_CLASS_NEVER", "priority": 0 }),
    ] {
        fixture.refused(fixture.bundle()?.set("/process/ioPriority", value))?;
    }
    Ok(())
}

/// Where a program may run that is started by exec in a container with these settings.
fn affinity(fixture: &Fixture, settings: Value) -> anyhow::Result<(Facts, String)> {
    let mut bundle = fixture.bundle()?;
    bundle.set("/process/execCPUAffinity", settings);
    let container = fixture.start(&mut bundle)?;
    let init = fs::read_to_string(container.proc("status"))?;
    let list = init.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("Cpus_allowed_list")?;
    Ok((container.exec_facts(&[])?, list.trim().to_owned()))
}

fn final_affinity(fixture: &Fixture) -> anyhow::Result<()> {
    for (initial, last) in [("0", "1"), ("1", "0"), ("0-1", "1")] {
        let (facts, _) = affinity(fixture, json!({ "initial": initial, "final": last }))?;
        let found = facts.status("Cpus_allowed_list")?;
        ensure!(found == last, "the processors of an exec, initially {initial}: expected {last}, found {found}");
    }
    Ok(())
}

fn affinity_of_init(fixture: &Fixture) -> anyhow::Result<()> {
    let own = fs::read_to_string("/proc/self/status")?;
    let own = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).context("Cpus_allowed_list")?.trim();
    let (_, init) = affinity(fixture, json!({ "initial": "1", "final": "1" }))?;
    ensure!(init == own, "the processors of the first process: expected the caller's {own}, found {init}");
    Ok(())
}

fn initial_affinity(fixture: &Fixture) -> anyhow::Result<()> {
    let (facts, _) = affinity(fixture, json!({ "initial": "1" }))?;
    let found = facts.status("Cpus_allowed_list")?;
    ensure!(found == "1", "the processors of an exec, initially 1: expected 1 still, found {found}");
    Ok(())
}

fn bad_affinity(fixture: &Fixture) -> anyhow::Result<()> {
    for list in ["one", "0-", "3-1", "0;1"] {
        fixture.refused(fixture.bundle()?.set("/process/execCPUAffinity", json!({ "initial": list })))?;
    }
    Ok(())
}
