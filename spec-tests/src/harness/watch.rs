//! A case that does not come to its end must not hold up the others: what it waits for is killed under it.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::keeper;

/// Runs `work`; from `limit` on, every process that this one has started is killed until the work is done. Says whether
/// that came to pass.
pub(super) fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> (T, bool) {
    let (done, waiting) = channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut late = false;
        let mut wait = limit;
        while waiting.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            late = true;
            wait = Duration::from_millis(100);
            for pid in keeper::children().unwrap_or_default() {
                // One that has ended meanwhile needs no signal.
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        late
    });
    let result = work();
    drop(done);
    (result, watch.join().unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_holds_a_pipe_open_is_killed() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().expect("sleep runs");
        let mut out = child.stdout.take().expect("its stdout");
        let (read, late) = within(Duration::from_millis(50), || out.read_to_end(&mut Vec::new()));
        assert!(late && read.is_ok_and(|bytes| bytes == 0));
        assert!(!child.wait().expect("its status").success());
    }

    #[test]
    fn what_is_done_in_time_is_left_alone() {
        assert_eq!(within(Duration::from_secs(60), || 5), (5, false));
    }
}
