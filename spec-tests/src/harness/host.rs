//! Properties of a run's host, which decide the cases that are meaningful there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Need;

/// The host's facts, found once a run.
#[derive(Clone, Debug)]
pub struct Host {
    /// Controllers that pure v2 offers at its root; empty on v1.
    v2: Option<Vec<String>>,
    /// Controllers and where their v1 hierarchies are mounted.
    v1: Vec<(String, PathBuf)>,
    kernel: (u32, u32),
    capabilities: u64,
}

impl Host {
    /// Looks at this machine.
    ///
    /// # Errors
    /// A file of /proc or /sys cannot be read.
    pub fn find() -> anyhow::Result<Host> {
        let root = Path::new("/sys/fs/cgroup");
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).ok();
        let words = |text: String| text.split_whitespace().map(str::to_owned).collect();
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let mut numbers = release.split(['.', '-']).map_while(|word| word.parse().ok());
        let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let status = fs::read_to_string("/proc/self/status")?;
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap_or("0");
        let capabilities = u64::from_str_radix(mask.trim(), 16)?;
        Ok(Host { v2: controllers.map(words), v1: v1_mounts()?, kernel, capabilities })
    }

    /// Whether it has this.
    pub fn has(&self, need: Need) -> bool {
        match need {
            Need::CgroupV2 => self.is_v2(),
            Need::CgroupV1 => !self.is_v2() && ["memory", "cpu", "pids"].iter().all(|name| self.v1(name).is_some()),
            Need::Controller(name) => match &self.v2 {
                Some(names) => names.iter().any(|one| one == name),
                None => self.v1(on_v1(name)).is_some(),
            },
            Need::NoController(name) => !self.has(Need::Controller(name)),
            Need::Namespace(kind) => fs::symlink_metadata(format!("/proc/self/ns/{kind}")).is_ok(),
            Need::Kernel(major, minor) => self.kernel >= (major, minor),
            Need::AppArmor => fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|it| it == "Y\n"),
            Need::Selinux => Path::new("/sys/fs/selinux/enforce").exists(),
            Need::Systemd => Path::new("/run/systemd/system").is_dir(),
            Need::SysResource => self.capabilities & (1 << 24) != 0,
            Need::Cpus(count) => std::thread::available_parallelism().is_ok_and(|found| found.get() >= count),
            Need::Program(name) => super::command::program(name).is_some(),
            Need::File(path) => Path::new(path).exists(),
            Need::NoFile(path) => !Path::new(path).exists(),
            // Written by beds/common.
            Need::OwnMachine => Path::new("/bed-command").exists(),
            Need::BlockDevice => fs::read_dir("/sys/block").is_ok_and(|mut entries| entries.next().is_some()),
            Need::CgroupFile(controller, files) => self.child_has(controller, files).unwrap_or(false),
            Need::Links => makes_links(),
        }
    }

    /// Whether /sys/fs/cgroup is pure v2.
    pub fn is_v2(&self) -> bool {
        self.v2.is_some()
    }

    /// Where a controller's v1 hierarchy is mounted.
    pub fn v1(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(name, _)| name == controller).map(|(_, path)| path.as_path())
    }

    /// Whether a new cgroup of this controller has one of the files; one is made to see.
    fn child_has(&self, controller: &str, files: &[&str]) -> std::io::Result<bool> {
        let root = match self.is_v2() {
            true => {
                let root = PathBuf::from("/sys/fs/cgroup");
                fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
                root
            }
            false => self.v1(on_v1(controller)).map(Path::to_owned).ok_or(std::io::ErrorKind::NotFound)?,
        };
        let child = root.join(format!("spec-look-{}", std::process::id()));
        fs::create_dir(&child)?;
        let found = files.iter().any(|file| child.join(file).exists());
        fs::remove_dir(&child)?;
        Ok(found)
    }

    /// A process's cgroup in the hierarchy of a v1 controller, or on v2 (where `controller` does not matter).
    pub(crate) fn cgroup_of(&self, pid: i32, controller: &str) -> anyhow::Result<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let of = |name: &str| {
            let lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
            lines.filter(|(names, _)| names.split(',').any(|one| one == name)).map(|(_, path)| path.to_owned()).next()
        };
        let (root, path) = match self.v1(controller) {
            Some(root) if !self.is_v2() => (root.to_owned(), of(controller)),
            _ => ("/sys/fs/cgroup".into(), of("")),
        };
        let path = path.with_context(|| format!("{pid} is in no cgroup of {controller}: {text}"))?;
        Ok(root.join(path.trim_start_matches('/')))
    }

    /// All directories that a cgroup named `path` (absolute, in cgroup terms) can have on this host.
    pub fn cgroup_directories(&self, path: &str) -> Vec<PathBuf> {
        let mut roots: Vec<PathBuf> = self.v1.iter().map(|(_, mount)| mount.clone()).collect();
        roots.extend(["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(PathBuf::from));
        roots.sort();
        roots.dedup();
        let inside = path.trim_start_matches('/');
        roots.into_iter().map(|root| root.join(inside)).filter(|directory| directory.is_dir()).collect()
    }
}

/// Controllers of v1 and their mount points, from /proc/self/mountinfo.
fn v1_mounts() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let mut fields = right.split(' ');
        if fields.next() != Some("cgroup") {
            continue;
        }
        let (point, options) = (left.split(' ').nth(4).unwrap_or(""), fields.nth(1).unwrap_or(""));
        found.extend(options.split(',').map(|name| (name.to_owned(), PathBuf::from(point))));
    }
    Ok(found)
}

/// The name on v1 of a controller of v2.
fn on_v1(controller: &str) -> &str {
    if controller == "io" { "blkio" } else { controller }
}

/// Tries to make a pair of network devices, and takes it away again.
fn makes_links() -> bool {
    let name = format!("l{}", std::process::id());
    let ip = |words: &[&str]| {
        let mut command = std::process::Command::new("ip");
        let done = command.args(words).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
        done.is_ok_and(|status| status.success())
    };
    ip(&["link", "add", &name, "type", "veth", "peer", "name", &format!("{name}p")]) && ip(&["link", "delete", &name])
}
