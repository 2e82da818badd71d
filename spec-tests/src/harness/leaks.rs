//! Leaks of a case: processes, mounts, cgroups, records, files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::sandbox::Sandbox;
use super::{Fixture, wait_until};

/// How long what is on its way out may take.
const GRACE: Duration = Duration::from_secs(15);

/// The state before a case.
#[derive(Debug)]
pub(super) struct Baseline<'a> {
    mounts: BTreeSet<u64>,
    sandbox: &'a Sandbox,
    files: BTreeSet<PathBuf>,
}

impl<'a> Baseline<'a> {
    pub(super) fn take(fixture: &Fixture, sandbox: &'a Sandbox) -> anyhow::Result<Baseline<'a>> {
        let mounts = mounts()?.into_iter().map(|(id, _)| id).collect();
        Ok(Baseline { mounts, sandbox, files: sandbox.paths(&places(fixture))? })
    }

    /// Lists every leak, one line each, and removes it, so that the next case is not blamed.
    pub(super) fn leaks(&self, fixture: &Fixture) -> anyhow::Result<Vec<String>> {
        let mut found = processes()?;
        let now = mounts()?;
        // By their ids, because a parent directory may be renamed meanwhile. Inner mounts come first.
        for (_, point) in now.iter().rev().filter(|(id, _)| !self.mounts.contains(id)) {
            found.push(format!("a mount at {point}"));
            nix::mount::umount2(point.as_str(), nix::mount::MntFlags::MNT_DETACH)?;
        }
        for fixture in fixture.all() {
            found.extend(records(fixture)?);
            found.extend(cgroups(fixture)?);
        }
        found.extend(self.files(fixture)?);
        Ok(found)
    }

    /// Removes and names every file and directory that came into the sandbox; of a tree its top.
    fn files(&self, fixture: &Fixture) -> anyhow::Result<Vec<String>> {
        let now = self.sandbox.paths(&places(fixture))?;
        let new: BTreeSet<&PathBuf> = now.difference(&self.files).collect();
        let top = |path: &&&PathBuf| !path.parent().is_some_and(|parent| new.contains(&parent.to_path_buf()));
        let mut found = Vec::new();
        for path in new.iter().filter(top) {
            found.push(format!("the file {}", path.display()));
            match path.symlink_metadata()?.is_dir() {
                true => fs::remove_dir_all(path)?,
                false => fs::remove_file(path)?,
            }
        }
        Ok(found)
    }
}

/// The directories of the run itself.
fn places(fixture: &Fixture) -> Vec<&Path> {
    fixture.all().into_iter().map(Fixture::worker_directory).collect()
}

/// Removes and names every container on record.
fn records(fixture: &Fixture) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    if fixture.root().exists() {
        for entry in fs::read_dir(fixture.root())? {
            let path = entry?.path();
            // A lock file of the runtime's own may stay; a record may not.
            if path.is_dir() && !is_hidden(&path) {
                found.push(format!("a record at {}", path.display()));
                fs::remove_dir_all(&path)?;
            }
        }
    }
    Ok(found)
}

fn is_hidden(path: &std::path::Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// Kills and names every descendant that still runs. We are a subreaper, so none of them can hide.
fn processes() -> anyhow::Result<Vec<String>> {
    let deadline = Instant::now() + GRACE;
    let alive = loop {
        reap()?;
        let alive = children()?;
        if alive.is_empty() || Instant::now() > deadline {
            break alive;
        }
        let mut first = true;
        wait_until("a child to end", || Ok((!std::mem::take(&mut first)).then_some(())))?;
    };
    let mut found = Vec::new();
    for pid in alive {
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        found.push(format!("the process {pid} ({})", words.trim()));
        match kill(Pid::from_raw(pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let _ = waitpid(Pid::from_raw(pid), None);
    }
    Ok(found)
}

/// Reaps every child that has exited.
fn reap() -> anyhow::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn children() -> anyhow::Result<Vec<i32>> {
    let text = fs::read_to_string("/proc/thread-self/children")?;
    Ok(text.split_whitespace().filter_map(|word| word.parse().ok()).collect())
}

/// Ids of mounts, and where they are, in the order of /proc/self/mountinfo.
fn mounts() -> anyhow::Result<Vec<(u64, String)>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let one = |line: &str| {
        let mut words = line.split(' ');
        Some((words.next()?.parse().ok()?, words.nth(3)?.to_owned()))
    };
    Ok(text.lines().filter_map(one).collect())
}

/// Cgroups below the worker's parent, in every hierarchy; the parents go too.
fn cgroups(fixture: &Fixture) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut parents = fixture.host().cgroup_directories(fixture.cgroup_parent());
    parents.extend(scopes(fixture)?);
    for parent in parents {
        let mut below = Vec::new();
        walk(parent.clone(), &mut below)?;
        let own = parent.ends_with(fixture.cgroup_parent());
        for directory in below {
            if !(own && directory == parent) {
                found.push(format!("the cgroup {}", directory.display()));
            }
            match fs::remove_dir(&directory) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    found.push(format!("{}: {error}", directory.display()));
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The scopes of systemd that belong to this worker.
fn scopes(fixture: &Fixture) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for slice in fixture.host().cgroup_directories("system.slice") {
        for entry in fs::read_dir(slice)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.strip_prefix(fixture.cgroup_parent()).is_some_and(|rest| rest.starts_with('-')) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// Children before parents.
pub(super) fn walk(directory: PathBuf, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let entries = match fs::read_dir(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(entry.path(), found)?;
        }
    }
    found.push(directory);
    Ok(())
}
