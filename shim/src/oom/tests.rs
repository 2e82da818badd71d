//! Tests with the kernel's own OOM killer, in cgroups of this host's version.

use super::*;
use brig_engine::cgroup::{Cgroup, CgroupKind, CgroupRecord};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const TIMEOUT: Duration = Duration::from_secs(20);

/// A cgroup with little memory, removed with this value.
struct Small {
    path: PathBuf,
    unified: bool,
}

impl Small {
    /// Creates the cgroup; `None` where this test lacks the permission.
    fn new(name: &str) -> Option<Small> {
        let root = Path::new("/sys/fs/cgroup");
        let legacy = root.join("memory");
        let unified = !legacy.is_dir();
        let base = if unified { root.to_owned() } else { legacy };
        let path = base.join(format!("brig-shim-oom-{name}-{}", std::process::id()));
        if unified {
            let _ = std::fs::write(root.join("cgroup.subtree_control"), "+memory");
        }
        std::fs::create_dir(&path).ok()?;
        let small = Small { path, unified };
        let limits: &[&str] = match unified {
            true => &["memory.max", "memory.swap.max"],
            // The limit of memory and swap together, where swap is counted, can only be set after that of memory.
            false => &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"],
        };
        for (index, limit) in limits.iter().enumerate() {
            let bytes = if unified && index == 1 { "0" } else { "8388608" };
            let written = std::fs::write(small.path.join(limit), bytes);
            if index == 0 {
                written.ok()?;
            }
        }
        Some(small)
    }

    fn watch(&self) -> OomWatch {
        let (kind, name) = if self.unified { (CgroupKind::V2, "") } else { (CgroupKind::V1, "memory") };
        let paths = [(name.to_owned(), self.path.clone())].into();
        let cgroup = Cgroup::from_record(&CgroupRecord { kind, paths, ..CgroupRecord::default() });
        cgroup.oom_watch().unwrap().unwrap()
    }

    /// Starts a process that stays in the cgroup, as a container's init does.
    fn occupy(&self) -> Occupant {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let occupant = Occupant(child);
        std::fs::write(self.path.join("cgroup.procs"), occupant.0.id().to_string()).unwrap();
        occupant
    }

    /// Runs a shell in the cgroup, and waits for its exit.
    fn run(&self, script: &str) -> std::process::ExitStatus {
        let procs = self.path.join("cgroup.procs");
        let script = format!("echo $$ > {}; {script}", procs.display());
        Command::new("sh").args(["-c", &script]).status().unwrap()
    }

    /// Runs a process that needs more memory than the limit.
    fn exhaust(&self) {
        assert!(!self.run("exec tail /dev/zero").success());
    }
}

/// A process that is killed with this value.
struct Occupant(std::process::Child);

impl Drop for Occupant {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if self.path.exists() {
            std::fs::remove_dir(&self.path).unwrap();
        }
    }
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(TIMEOUT, test).await.unwrap() })
}

/// Waits for the next report.
async fn next(reports: &mut UnboundedReceiver<String>) -> String {
    reports.recv().await.unwrap()
}

#[test]
fn the_container_that_ran_out_is_named_and_no_other() {
    let (Some(one), Some(two)) = (Small::new("one"), Small::new("two")) else { return };
    run(async {
        let (send, mut reports) = unbounded_channel();
        let watcher = Watcher::start(send).unwrap();
        let _inits = [one.occupy(), two.occupy()];
        watcher.add("one", one.watch()).unwrap();
        watcher.add("two", two.watch()).unwrap();
        two.exhaust();
        assert_eq!(next(&mut reports).await, "two");
        two.exhaust();
        one.exhaust();
        let mut more = [next(&mut reports).await, next(&mut reports).await];
        more.sort();
        assert_eq!(more, ["one", "two"]);
        watcher.check("one");
        watcher.check("two");
        assert!(reports.try_recv().is_err());
    });
}

#[test]
fn a_check_reports_before_anyone_is_notified() {
    let Some(small) = Small::new("check") else { return };
    run(async {
        let (send, mut reports) = unbounded_channel();
        let watcher = Watcher::start(send).unwrap();
        watcher.add("box", small.watch()).unwrap();
        // The task cannot run meanwhile: this one does not yield.
        small.exhaust();
        watcher.check("box");
        assert_eq!(reports.try_recv().unwrap(), "box");
        watcher.check("box");
        assert!(reports.try_recv().is_err());
    });
}

#[test]
fn a_cgroup_that_is_removed_is_forgotten() {
    let Some(small) = Small::new("gone") else { return };
    run(async {
        let (send, mut reports) = unbounded_channel();
        let watcher = Watcher::start(send).unwrap();
        let init = small.occupy();
        watcher.add("box", small.watch()).unwrap();
        watcher.add("removed", small.watch()).unwrap();
        watcher.remove("removed");
        watcher.remove("never there");
        assert_eq!(watcher.count(), 1);
        // On cgroup2 it is enough that the cgroup becomes empty: the kernel notifies of that, 10 ms later if it has
        // just notified of something else, and drops the notification when the directory is removed before.
        drop(init);
        if !small.unified {
            std::fs::remove_dir(&small.path).unwrap();
        }
        while watcher.count() > 0 {
            tokio::task::yield_now().await;
            // v1's eventfd is notified of the removal from a work queue.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(reports.try_recv().is_err());
    });
}

#[test]
fn a_clean_end_is_no_report() {
    let Some(small) = Small::new("clean") else { return };
    run(async {
        let (send, mut reports) = unbounded_channel();
        let watcher = Watcher::start(send).unwrap();
        watcher.add("box", small.watch()).unwrap();
        assert!(small.run("true").success());
        watcher.check("box");
        assert!(reports.try_recv().is_err());
        drop(watcher);
        assert!(reports.recv().await.is_none());
    });
}
