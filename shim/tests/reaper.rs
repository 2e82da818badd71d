//! Tests of the reaper, in a process of their own, because it reaps every child of its process.

use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use brig_engine::process::Pidfd;
use brig_shim::reaper::Reaper;

fn spawn(script: &str) -> (Child, i32) {
    let child = Command::new("/bin/sh").args(["-c", script]).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    (child, pid)
}

fn pidfd(pid: i32) -> Arc<Pidfd> {
    Arc::new(Pidfd::open(pid).unwrap())
}

fn exists(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

/// Lets the reaper work until `condition` holds.
async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap();
}

/// The only test here, because the children of another one would be reaped too.
#[test]
fn watchers_get_exits_calls_keep_their_children_and_orphans_are_reaped() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let reaper = Arc::new(Reaper::default());
        let task = tokio::spawn(Arc::clone(&reaper).run());
        tokio::task::yield_now().await;

        // A child that exits before it is watched, and another behind it that exits meanwhile.
        let hold = reaper.hold();
        let (mut own, own_pid) = spawn("exit 4");
        let (_, first) = spawn("exit 7");
        let (_, second) = spawn("kill -KILL $$");
        let second = reaper.watch(&hold, second, pidfd(second));
        // The call's own child is the first that a scan finds, and hides no other.
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), second).await.unwrap().unwrap().status, 137);
        assert!(exists(own_pid) && exists(first));
        let first = reaper.watch(&hold, first, pidfd(first));
        assert_eq!(own.wait().unwrap().code(), Some(4));
        drop(hold);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), first).await.unwrap().unwrap().status, 7);
        assert_eq!(reaper.watched(), 0);

        // A process that got the pid of a watched one, which was reaped elsewhere: its status is not reported.
        let hold = reaper.hold();
        let (mut reaped, reaped_pid) = spawn("exit 5");
        let stale = pidfd(reaped_pid);
        reaped.wait().unwrap();
        let (_, stranger) = spawn("exit 6");
        let watched = reaper.watch(&hold, stranger, stale);
        drop(hold);
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), watched).await.unwrap().unwrap().status, 255);
        until(|| !exists(stranger)).await;

        // A child that is not watched.
        let (_, orphan) = spawn("exit 0");
        until(|| !exists(orphan)).await;
        task.abort();
    });
}
