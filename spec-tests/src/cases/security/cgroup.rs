//! Cgroups of the host cannot be changed from inside.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::ensure;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::json;

use super::{Outside, unless_refused};
use crate::facts::Facts;
use crate::harness::{Bundle, Case, Container, Fixture, Level, Need, wait_until};

const fn case(name: &'static str, section: &'static str, run: fn(&Fixture) -> anyhow::Result<()>) -> Case {
    Case::new(name, section, Level::Security, run)
}

/// By the year of the attack.
pub const CASES: &[Case] = &[
    case("a read-only mount of cgroups cannot be written", "CVE-2022-0492", readonly),
    case("a release_agent cannot be written", "CVE-2022-0492", release_agent).on(&[Need::CgroupV1]),
    case("a release_agent of the container's choice is not run on the host", "CVE-2022-0492", agent)
        .on(&[Need::OwnMachine]),
    case("a mount of cgroups shows no more than the container's own", "CVE-2023-25809", own_only),
    case(
        "no mount of cgroups can be written from a user namespace without a cgroup namespace",
        "CVE-2023-25809",
        in_user,
    )
    .on(&[Need::CgroupV2]),
    case("a limit cannot be raised from inside a delegated cgroup", "CVE-2023-25809", own_limits)
        .on(&[Need::CgroupV2, Need::Controller("pids")]),
    case("a cgroupsPath with dots stays below the cgroup root", "CVE-2023-25809", dots),
];

fn with_mount<'a>(fixture: &'a Fixture, bundle: &mut Bundle, options: &[&str]) -> anyhow::Result<Container<'a>> {
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", options);
    fixture.start(bundle)
}

const FLAGS: [&str; 3] = ["nosuid", "noexec", "nodev"];
const READONLY: [&str; 4] = ["ro", "nosuid", "noexec", "nodev"];

/// All mounts of cgroups, and which of them can be written.
fn mounts(facts: &Facts) -> Vec<(String, bool)> {
    let is_cgroup = |kind: &str| kind == "cgroup" || kind == "cgroup2";
    let of = facts.mounts.iter().filter(|mount| is_cgroup(&mount.kind));
    of.map(|mount| (mount.point.clone(), mount.options.iter().any(|option| option == "rw"))).collect()
}

fn readonly(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = with_mount(fixture, &mut bundle, &READONLY)?;
    let found = mounts(&container.exec_facts(&[])?);
    ensure!(!found.is_empty(), "there is no mount of cgroups");
    for (point, writable) in found {
        let tried = container.attempts(&[&format!("mkdir {point}/spec"), &format!("write {point}/cgroup.procs 0")])?;
        let is_refused = tried.iter().all(|line| !line.starts_with("ok"));
        ensure!(!writable && is_refused, "{point}: expected it read-only, found {tried:?}");
    }
    Ok(())
}

fn release_agent(fixture: &Fixture) -> anyhow::Result<()> {
    for (namespace, options) in [(false, &READONLY[..]), (true, &READONLY), (true, &FLAGS)] {
        let mut bundle = fixture.bundle()?;
        if namespace {
            bundle.namespace("cgroup", None);
        }
        let container = with_mount(fixture, &mut bundle, options)?;
        for (point, _) in mounts(&container.exec_facts(&[])?) {
            // An empty word: should it be taken, it names no program.
            let found = container.attempts(&[&format!("write {point}/release_agent \n")])?;
            ensure!(!found[0].starts_with("ok"), "{point}/release_agent: expected an error, found {found:?}");
        }
    }
    Ok(())
}

/// A v1 hierarchy that the host has beside its own cgroups, and a program that leaves a mark when the kernel runs it,
/// which does so in the first mount namespace. Dropped, all are gone.
struct Hierarchy {
    option: String,
    point: PathBuf,
    agent: PathBuf,
    mark: PathBuf,
}

impl Hierarchy {
    fn mount(fixture: &Fixture) -> anyhow::Result<Hierarchy> {
        let (id, point) = (fixture.id(), fixture.directory().join("hierarchy"));
        let (agent, mark) = (PathBuf::from(format!("/run/{id}-agent")), PathBuf::from(format!("/run/{id}-mark")));
        fs::create_dir(&point)?;
        let hierarchy = Hierarchy { option: format!("none,name={id}"), point, agent, mark };
        let program = hierarchy.on_host(&hierarchy.agent);
        fs::write(&program, format!("#!/bin/sh\nexec touch {}\n", hierarchy.mark.display()))?;
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        mount(Some("spec"), &hierarchy.point, Some("cgroup"), MsFlags::empty(), Some(hierarchy.option.as_str()))?;
        Ok(hierarchy)
    }

    fn on_host(&self, path: &Path) -> PathBuf {
        Path::new("/proc/1/root").join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for Hierarchy {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.point.join("escape"));
        for path in [&self.agent, &self.mark] {
            let _ = fs::remove_file(self.on_host(path));
        }
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

/// The output of the attack, in a container with Docker's default capabilities and these.
fn attack(fixture: &Fixture, hierarchy: &Hierarchy, more: &[&str], with_namespace: bool) -> anyhow::Result<String> {
    let mut bundle = fixture.bundle()?;
    fixture.install(&bundle, "escapes")?;
    let default =
        ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"];
    for set in ["bounding", "effective", "permitted"] {
        bundle.set(&format!("/process/capabilities/{set}"), json!([&default[..], more].concat()));
    }
    if with_namespace {
        bundle.namespace("cgroup", None);
    }
    bundle.mount("/sys/fs/cgroup", "cgroup", "cgroup", &FLAGS);
    let (agent, option) = (hierarchy.agent.to_string_lossy(), &*hierarchy.option);
    bundle.args(&["/escapes", "agent", &agent, option, "freezer", "devices", "net_cls", "pids", "memory"]);
    Ok(fixture.run(&bundle)?.ok()?.stdout)
}

fn agent(fixture: &Fixture) -> anyhow::Result<()> {
    let hierarchy = Hierarchy::mount(fixture)?;
    let mark = hierarchy.on_host(&hierarchy.mark);
    for with_namespace in [true, false] {
        let said = attack(fixture, &hierarchy, &[], with_namespace)?;
        let set = fs::read_to_string(hierarchy.point.join("release_agent"))?;
        ensure!(set.trim().is_empty() && !mark.exists(), "a release_agent was set: {set}{said}");
    }
    // The result is significant only if the attack works with the necessary privilege.
    let said = attack(fixture, &hierarchy, &["CAP_SYS_ADMIN"], false)?;
    wait_until(&format!("the host to run the agent of a privileged container, which printed {said}"), || {
        Ok(mark.exists().then_some(()))
    })
}

fn own_only(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    let container = with_mount(fixture, bundle.namespace("cgroup", None), &READONLY)?;
    let facts = container.exec_facts(&[])?;
    for (point, _) in mounts(&facts) {
        let mount = facts.mount(&point)?;
        ensure!(mount.root == "/", "{point}: expected the root of the container's own cgroup, found {}", mount.root);
        let members = container.attempts(&[&format!("read {point}/cgroup.procs")])?;
        ensure!(members[0].starts_with("ok 1\\n"), "{point}/cgroup.procs: expected init first, found {members:?}");
    }
    Ok(())
}

fn in_user(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?.mount("/sys/fs/cgroup", "cgroup", "cgroup", &FLAGS);
    bundle.args(&["/probe", "try", "mkdir", "/sys/fs/cgroup/spec", ",", "write", "/sys/fs/cgroup/cgroup.procs", "0"]);
    if let Some(done) = unless_refused(fixture.run(&bundle)?)? {
        let is_refused = done.stdout.lines().all(|line| !line.starts_with("ok"));
        ensure!(is_refused, "mkdir, write cgroup.procs: expected errors, found {}", done.stdout);
    }
    Ok(())
}

fn own_limits(fixture: &Fixture) -> anyhow::Result<()> {
    let mut bundle = fixture.bundle()?;
    bundle.user_namespace(100_000, 65536)?.namespace("cgroup", None);
    bundle.set("/linux/resources/pids", json!({ "limit": 50 }));
    let container = with_mount(fixture, &mut bundle, &FLAGS)?;
    let found = container.attempts(&["write /sys/fs/cgroup/pids.max max"])?;
    ensure!(!found[0].starts_with("ok"), "the container's own pids.max: expected an error, found {found:?}");
    let limit = container.cgroup_file("pids", "pids.max")?;
    ensure!(limit == "50", "pids.max: expected 50, found {limit}");
    Ok(())
}

fn dots(fixture: &Fixture) -> anyhow::Result<()> {
    if fixture.systemd() {
        return Ok(());
    }
    let outside = Outside::make(fixture)?;
    let mut bundle = fixture.bundle()?;
    let path = format!("{}/../../../../../../../..{}/made", fixture.cgroups_path("dots"), outside.path().display());
    bundle.set("/linux/cgroupsPath", json!(path)).write()?;
    let id = fixture.id();
    let done = fixture.call(&["create", "--bundle", &bundle.path().to_string_lossy(), &id])?;
    if unless_refused(done)?.is_some() {
        fixture.call(&["delete", "--force", &id])?.ok()?;
    }
    outside.is_untouched()?;
    // The outside directory below the cgroup root, if it was created there.
    let mut inside = outside.path().join("made");
    while inside.pop() && inside != Path::new("/") {
        for directory in fixture.host().cgroup_directories(&inside.to_string_lossy()) {
            let _ = fs::remove_dir(directory);
        }
    }
    Ok(())
}
