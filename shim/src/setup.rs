//! The server's own attributes, apart from its containers: a subreaper, in its cgroup, with its OOM score.
//!
//! A host may forbid a setting that was not requested explicitly: that is logged. A requested one that fails is an
//! error.

use std::io::Write;
use std::path::Path;

use brig_engine::error::{Context, Error, Result};
use rustix::thread::CoreSchedulingScope;

/// The highest OOM score (proc_pid_oom_score_adj(5)).
const HIGHEST_SCORE: i32 = 1000;
/// The variable that containerd sets, to any value, for a runtime with `sched_core = true`.
const SCHED_CORE: &str = "SCHED_CORE";

/// Makes this process the parent of orphans below it (PR_SET_CHILD_SUBREAPER): a container's init is one when the
/// process that created it has exited.
///
/// # Errors
/// The kernel is older than 3.4.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("cannot become a subreaper (PR_SET_CHILD_SUBREAPER)")
}

/// Makes the kernel kill process `pid`, the shim's server, rather than process `parent`, containerd: its score is that
/// of containerd plus one. Where the host forbids it, the score is unchanged.
pub fn adjust_oom_score(pid: i32, parent: i32) {
    if let Err(error) = set_oom_score(pid, parent) {
        tracing::info!("the OOM score is unchanged: {error}");
    }
}

fn set_oom_score(pid: i32, parent: i32) -> Result<()> {
    let score = (oom_score(&parent.to_string())? + 1).min(HIGHEST_SCORE);
    let path = format!("/proc/{pid}/oom_score_adj");
    let what = || format!("unable to write {path}");
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).with_context(what)?;
    file.write_all(score.to_string().as_bytes()).with_context(what)
}

/// The OOM score of a process: its pid, or `self`.
///
/// # Errors
/// The score cannot be read.
pub fn oom_score(process: &str) -> Result<i32> {
    let path = format!("/proc/{process}/oom_score_adj");
    let text = std::fs::read_to_string(&path).with_context(|| format!("unable to read {path}"))?;
    text.trim().parse().map_err(|_| Error::other(format!("{path}: expected a number, found {text:?}")))
}

/// Moves process `pid` to the cgroup that the options name; with an empty name it stays.
///
/// # Errors
/// There is no such cgroup, or it accepts no processes.
pub fn join_cgroup(name: &str, pid: i32) -> Result<()> {
    match name {
        "" => Ok(()),
        name => brig_engine::cgroup::join(Path::new(name), pid).context("ShimCgroup"),
    }
}

/// If SCHED_CORE is in the environment, gives this process's group a core-scheduling cookie of its own, which children
/// inherit: none of them ever shares a core with a process of another cookie
/// (Documentation/admin-guide/hw-vuln/core-scheduling.rst).
///
/// # Errors
/// The kernel or the machine has no core scheduling.
pub fn share_core() -> Result<()> {
    match std::env::var_os(SCHED_CORE) {
        Some(value) if !value.is_empty() => new_core_cookie(),
        _ => Ok(()),
    }
}

/// Whether systemd is the host's init (sd_booted(3)).
pub fn systemd_is_running() -> bool {
    std::fs::symlink_metadata("/run/systemd/system").is_ok_and(|metadata| metadata.is_dir())
}

fn new_core_cookie() -> Result<()> {
    rustix::thread::create_core_scheduling_cookie(rustix::process::getpid(), CoreSchedulingScope::ProcessGroup)
        .context("prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE)")
        .context("SCHED_CORE is set, and core scheduling is not to be had on this host")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    /// A process that is killed with the test.
    struct Sleeper(Child);

    impl Sleeper {
        fn new() -> Sleeper {
            Sleeper(Command::new("sleep").arg("1000").spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().try_into().unwrap()
        }
    }

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn score(pid: i32) -> i32 {
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn the_score_is_the_parents_and_one_and_never_too_high() {
        let (parent, child) = (Sleeper::new(), Sleeper::new());
        for (of_parent, expected) in [(500, 501), (1000, 1000)] {
            std::fs::write(format!("/proc/{}/oom_score_adj", parent.pid()), of_parent.to_string()).unwrap();
            adjust_oom_score(child.pid(), parent.pid());
            assert_eq!(score(child.pid()), expected);
        }
    }

    #[test]
    fn a_parent_that_is_gone_changes_nothing() {
        let child = Sleeper::new();
        let before = score(child.pid());
        adjust_oom_score(child.pid(), i32::MAX);
        assert_eq!(score(child.pid()), before);
    }

    #[test]
    fn this_process_becomes_a_subreaper() {
        become_subreaper().unwrap();
        assert!(rustix::process::child_subreaper().unwrap().is_some());
    }

    #[test]
    fn a_cgroup_that_was_asked_for_must_be_there() {
        join_cgroup("", 1).unwrap();
        let error =
            join_cgroup("/brig-no-such-cgroup", rustix::process::getpid().as_raw_pid()).unwrap_err().to_string();
        assert!(error.starts_with("ShimCgroup: ") && error.contains("/brig-no-such-cgroup"), "{error}");
        assert!(join_cgroup("/../x", 1).unwrap_err().to_string().contains("expected no .."));
    }

    #[test]
    fn a_process_moves_in_every_hierarchy_that_has_the_cgroup() {
        let root = Path::new("/sys/fs/cgroup");
        let base = if root.join("cgroup.procs").exists() { root.to_owned() } else { root.join("pids") };
        let name = format!("brig-shim-setup-{}", std::process::id());
        let cgroup = base.join(&name);
        if std::fs::create_dir(&cgroup).is_err() {
            return;
        }
        let child = Sleeper::new();
        let joined = join_cgroup(&format!("/{name}"), child.pid());
        let text = std::fs::read_to_string(cgroup.join("cgroup.procs"));
        let pid = child.pid().to_string();
        drop(child);
        std::fs::remove_dir(&cgroup).unwrap();
        joined.unwrap();
        assert_eq!(text.unwrap().trim(), pid);
    }

    #[test]
    fn a_core_cookie_is_made_or_its_want_is_said() {
        if let Err(error) = new_core_cookie() {
            assert!(error.to_string().contains("SCHED_CORE"), "{error}");
        }
    }
}
