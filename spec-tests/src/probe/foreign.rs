//! A watcher that searches the visible processes for files that are not the container's own, and a process with such
//! files, which shows that the watcher sees them.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};

/// Examines every other process, for ever. Prints `looks` at the start; once `foreign PID WHAT TARGET` for each mount
/// namespace, root, working directory and open directory of another mount namespace than this process's; and once
/// `met NAME` for each process that does not (yet) run this program. Skips processes that it may not examine.
pub fn watch() -> anyhow::Result<()> {
    let own = fs::read_link("/proc/self/ns/mnt")?;
    let program = fs::read_to_string("/proc/self/comm")?;
    let mut told = BTreeSet::new();
    let mut mounts = mounts()?;
    ensure!(mount_id(&open(Path::new("/"))?).is_some_and(|id| mounts.contains(&id)), "the root's mount is not known");
    let mut tell = |line: String| -> anyhow::Result<()> {
        if told.insert(line.clone()) {
            writeln!(std::io::stdout().lock(), "{line}")?;
        }
        Ok(())
    };
    tell("looks".to_owned())?;
    loop {
        for pid in numbers("/proc") {
            if pid == std::process::id() {
                continue;
            }
            let place = PathBuf::from(format!("/proc/{pid}"));
            if let Ok(namespace) = fs::read_link(place.join("ns/mnt"))
                && namespace != own
            {
                tell(format!("foreign {pid} ns/mnt {}", namespace.display()))?;
            }
            let descriptors = numbers(place.join("fd")).into_iter().map(|number| format!("fd/{number}"));
            for what in ["root".to_owned(), "cwd".to_owned()].into_iter().chain(descriptors) {
                let Some(id) = open(&place.join(&what)).ok().and_then(|found| mount_id(&found)) else { continue };
                if mounts.contains(&id) {
                    continue;
                }
                // A mount may have been made since.
                mounts = self::mounts()?;
                if !mounts.contains(&id) {
                    let target = fs::read_link(place.join(&what)).unwrap_or_default();
                    tell(format!("foreign {pid} {what} {} of mount {id}", target.display()))?;
                }
            }
            if let Ok(name) = fs::read_to_string(place.join("comm"))
                && name != program
            {
                tell(format!("met {pid} {}", name.trim_end()))?;
            }
        }
    }
}

/// Goes into a mount namespace of its own, with a directory of it open, and waits there.
pub fn stray() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    let _held = open(Path::new("/proc"))?;
    println!("strayed");
    loop {
        std::thread::park();
    }
}

/// Waits with a directory open.
pub fn hold(directory: &str) -> anyhow::Result<()> {
    let _held = open(Path::new(directory))?;
    loop {
        std::thread::park();
    }
}

/// The names in a directory that are numbers; none when it cannot be read.
fn numbers(directory: impl AsRef<Path>) -> Vec<u32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// A directory, whatever link leads there.
fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The mount that it lies on.
fn mount_id(of: &OwnedFd) -> Option<u64> {
    let found = rustix::fs::statx(of.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | StatxFlags::TYPE).ok()?;
    let is_directory = FileType::from_raw_mode(found.stx_mode.into()) == FileType::Directory;
    (is_directory && found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

/// Every mount of this process's namespace.
fn mounts() -> anyhow::Result<BTreeSet<u64>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    text.lines().map(|line| line.split(' ').next().unwrap_or_default().parse().context("mountinfo")).collect()
}
