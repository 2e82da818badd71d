//! A deadline for each case: the processes that a case waits for are killed, so that it does not delay the others.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};

use super::supervisor;

/// Runs `work`. After `limit`, kills every child of this process until the work is done. Returns whether that was
/// necessary.
pub(super) fn within<T>(limit: Duration, work: impl FnOnce() -> T) -> (T, bool) {
    let (done, waiting) = channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut late = false;
        let mut wait = limit;
        while waiting.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
            late = true;
            wait = Duration::from_millis(100);
            for pid in supervisor::children().unwrap_or_default() {
                // A process that has exited meanwhile needs no signal.
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
    fn a_process_that_holds_a_pipe_open_is_killed() {
        let mut child = Command::new("sleep").arg("1000").stdout(Stdio::piped()).spawn().expect("sleep runs");
        let mut out = child.stdout.take().expect("its stdout");
        let (read, late) = within(Duration::from_millis(50), || out.read_to_end(&mut Vec::new()));
        assert!(late && read.is_ok_and(|bytes| bytes == 0));
        assert!(!child.wait().expect("its status").success());
    }

    #[test]
    fn work_that_is_done_in_time_is_not_interrupted() {
        assert_eq!(within(Duration::from_secs(60), || 5), (5, false));
    }
}
