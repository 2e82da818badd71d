//! A run that is ended in the middle leaves nothing either, not even when it is killed.
//!
//! The program that was called only waits for its keeper, a copy of it in a session of its own that does all the work.
//! When the caller is gone, the keeper reads the end of its stdin; it ends every process of the run, removes the run's
//! cgroups and ends too. Files and mounts are the workers' own (`shelter`) and go with them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, setsid};

use super::{Host, command, leaks};

/// Set in the keeper's environment.
const MARK: &str = "BRIG_SPEC_KEEPER";
/// How long what was killed may take to go.
const GRACE: Duration = Duration::from_secs(20);

/// Held by who decides how this process ends.
static END: Mutex<()> = Mutex::new(());

/// In the program that was called: runs the keeper with the same arguments, and gives its status. In the keeper: None.
///
/// # Errors
/// When it cannot be started.
pub fn keep() -> anyhow::Result<Option<ExitCode>> {
    if std::env::var_os(MARK).is_some() {
        nix::sys::prctl::set_child_subreaper(true)?;
        setsid()?;
        std::thread::spawn(when_the_caller_is_gone);
        return Ok(None);
    }
    let mut keeper = Command::new(std::env::current_exe()?);
    keeper.args(std::env::args_os().skip(1)).env(MARK, "1").stdin(Stdio::piped());
    let mut keeper = keeper.spawn().context("the keeper")?;
    // Not Child::wait, which would close its stdin first.
    let caller = keeper.stdin.take();
    let status = keeper.wait()?;
    drop(caller);
    Ok(Some(ExitCode::from(u8::try_from(command::code_of(status)).unwrap_or(1))))
}

/// To be held when the work is done, before the status is told: it waits for good when the run is being ended.
pub fn done() -> MutexGuard<'static, ()> {
    END.lock().unwrap_or_else(PoisonError::into_inner)
}

fn when_the_caller_is_gone() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let _end = done();
    // Nobody is left to be told but by the log.
    if let Err(error) = end_all() {
        eprintln!("spec-tests: after its caller was gone: {error:#}");
    }
    std::process::exit(1);
}

/// Ends every descendant, and removes the cgroups of this run.
fn end_all() -> anyhow::Result<()> {
    let host = Host::find()?;
    let deadline = Instant::now() + GRACE;
    loop {
        let alive = children()?;
        for pid in &alive {
            match kill(*pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        // What a frozen cgroup of v1 holds does not die before it is thawed.
        let cgroups = cgroups(&host)?;
        for freezer in cgroups.iter().map(|cgroup| cgroup.join("freezer.state")).filter(|file| file.exists()) {
            let _ = fs::write(freezer, "THAWED");
        }
        let stays = |cgroup: &&PathBuf| fs::remove_dir(cgroup).is_err() && cgroup.exists();
        let left: Vec<&PathBuf> = cgroups.iter().filter(stays).collect();
        if alive.is_empty() && left.is_empty() {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "these are left: {alive:?}, {left:?}");
        std::thread::yield_now();
    }
}

/// Children of all threads of this process: each worker has one that attends it.
pub(super) fn children() -> anyhow::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that has ended meanwhile has left its children to the others.
        let text = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|word| word.parse().ok()).map(Pid::from_raw));
    }
    Ok(found)
}

/// The cgroups of the run, in every hierarchy, children first.
fn cgroups(host: &Host) -> anyhow::Result<Vec<PathBuf>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for root in host.cgroup_directories("") {
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if is_of(&path, own) {
                leaks::walk(path, &mut found)?;
            }
        }
    }
    Ok(found)
}

/// Whether a cgroup's name is one that `run` gives to the workers of this keeper.
fn is_of(path: &Path, keeper: u32) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["spec", "peer"].iter().any(|kind| name.starts_with(&format!("{kind}-{keeper}-")))
}
