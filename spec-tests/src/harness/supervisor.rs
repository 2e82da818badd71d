//! The clean-up of a run that is interrupted or killed.
//!
//! The program that the user calls only waits for its supervisor, a copy of the program in a session of its own, which
//! does all the work. When the program exits, the supervisor reads an end of file on its stdin, kills every process of
//! the run, removes the run's cgroups and exits. Files and mounts are in the workers' mount namespaces (`sandbox`),
//! which the kernel removes with the workers.

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

/// The environment variable that marks the supervisor.
const MARK: &str = "BRIG_SPEC_SUPERVISOR";
/// How long killed processes may take to exit, and their cgroups to become empty.
const KILL_TIMEOUT: Duration = Duration::from_secs(20);

/// Held by the thread that decides how this process exits.
static END: Mutex<()> = Mutex::new(());

/// Runs the supervisor with the same arguments and returns its status; `None` in the supervisor itself.
///
/// # Errors
/// When the supervisor cannot be started.
pub fn supervise() -> anyhow::Result<Option<ExitCode>> {
    if std::env::var_os(MARK).is_some() {
        nix::sys::prctl::set_child_subreaper(true)?;
        setsid()?;
        std::thread::spawn(clean_up_after_caller);
        return Ok(None);
    }
    let mut supervisor = Command::new(std::env::current_exe()?);
    supervisor.args(std::env::args_os().skip(1)).env(MARK, "1").stdin(Stdio::piped());
    let mut supervisor = supervisor.spawn().context("the supervisor")?;
    // Not Child::wait, which would close its stdin first.
    let caller = supervisor.stdin.take();
    let status = supervisor.wait()?;
    drop(caller);
    Ok(Some(ExitCode::from(u8::try_from(command::code_of(status)).unwrap_or(1))))
}

/// Delays the exit while the guard is held: `clean_up_after_caller` does not start then, and if it has started, this
/// call does not return.
pub fn delay_exit() -> MutexGuard<'static, ()> {
    END.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_up_after_caller() {
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    let _end = delay_exit();
    // The caller has exited, so the log is the only place for the error.
    if let Err(error) = kill_all() {
        eprintln!("spec-tests: cleaning up after the caller exited: {error:#}");
    }
    std::process::exit(1);
}

/// Kills every descendant, and removes the cgroups of this run.
fn kill_all() -> anyhow::Result<()> {
    let host = Host::find()?;
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let alive = children()?;
        for pid in &alive {
            match kill(*pid, Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        while waitpid(None, Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some()) {}
        // The processes of a frozen cgroup of v1 do not exit before it is thawed.
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

/// The children of all threads of this process: a thread drives each worker.
pub(super) fn children() -> anyhow::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        // A thread that has exited meanwhile has left its children to the others.
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

/// Whether `run` gave this name to a cgroup of this supervisor's workers.
fn is_of(path: &Path, supervisor: u32) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    ["spec", "base"].iter().any(|kind| name.starts_with(&format!("{kind}-{supervisor}-")))
}
