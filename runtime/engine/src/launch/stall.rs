//! The wait for init, and its kill when init makes no progress.
//!
//! As soon as init is in a pid namespace that others share, each of their processes with its user id, or with CAP_KILL,
//! can send it SIGSTOP, and the parent would wait for ever. A file system that does not answer (the working directory,
//! the program) blocks it as well. The criterion is init's progress, not the clock: a slow machine, a parent that was
//! stopped itself, and a paused container use up none of the time.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use brig_sys::SysResult;
use brig_sys::procfs::Proc;

/// The default timeout for an init without progress.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of waits that make up the timeout: a stop of the parent, or of the whole machine, uses up only one.
const STEPS: u32 = 20;

/// The number of timeouts after which a running init that sends nothing is killed: a tracer can keep it busy.
const MAX_SILENT_TIMEOUTS: u32 = 6;

/// The criterion for no progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stalled {
    /// Init neither sends anything nor runs.
    Idle,
    /// Init is stopped or traced. This is for create, whose init also waits for hooks, and for mounts of slow file
    /// systems.
    Stopped,
}

/// The limit for an init without progress.
#[derive(Clone, Copy, Debug)]
pub struct StallLimit {
    /// The time without progress.
    pub timeout: Duration,
    /// The criterion for no progress.
    pub counts: Stalled,
}

/// The freezer of the container's cgroup, in which init may stop.
pub trait Freezer {
    /// Checks whether the container is paused: init is frozen until it is resumed, and the launch waits for it.
    fn is_frozen(&self) -> bool {
        false
    }

    /// The frozen cgroup above the container's that stops init. `None` without one.
    fn frozen_ancestor(&self) -> Option<PathBuf> {
        None
    }
}

/// A sample of init's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    /// The state, as in /proc/PID/status.
    state: char,
    /// The number of voluntary and involuntary context switches, which change whenever init runs.
    switches: u64,
}

impl Sample {
    /// Takes a sample; `None` if the process is missing or not visible.
    fn take(pid: i32) -> Option<Sample> {
        Sample::parse(&Proc::open().ok()?.read_to_string(format!("{pid}/status")).ok()?)
    }

    fn parse(status: &str) -> Option<Sample> {
        let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let switches = |name: &str| value(name).and_then(|text| text.parse::<u64>().ok());
        Some(Sample {
            state: value("State:")?.chars().next()?,
            switches: switches("voluntary_ctxt_switches:")?.wrapping_add(switches("nonvoluntary_ctxt_switches:")?),
        })
    }

    fn is_stopped(self) -> bool {
        matches!(self.state, 'T' | 't')
    }
}

/// The progress of one init since its last message.
struct Progress {
    limit: StallLimit,
    last: Option<Sample>,
    /// Consecutive steps without progress.
    stalled: u32,
    /// Steps without a message.
    silent: u32,
}

impl Progress {
    /// Counts a step without a message. Returns true if init is to be killed.
    fn step(&mut self, now: Option<Sample>) -> bool {
        let runs = now.is_some_and(|now| now.state == 'R') || now != self.last;
        let stopped = now.is_some_and(Sample::is_stopped);
        self.last = now;
        match self.limit.counts {
            Stalled::Idle => {
                self.silent += 1;
                self.stalled = if runs && !stopped { 0 } else { self.stalled + 1 };
            }
            Stalled::Stopped => self.stalled = if stopped { self.stalled + 1 } else { 0 },
        }
        self.stalled >= STEPS || self.silent >= STEPS * MAX_SILENT_TIMEOUTS
    }
}

/// Waits for init, the process `pid`, until `poll`, which waits for the given time, has a result.
///
/// # Errors
/// [`ErrorKind::TimedOut`] if init made no progress for the time of `limit`. While the container is paused, nothing is
/// counted. The error names a frozen cgroup above the container's.
pub fn wait<T>(
    limit: StallLimit,
    pid: i32,
    freezer: &(impl Freezer + ?Sized),
    poll: impl Fn(Option<Duration>) -> SysResult<Option<T>>,
) -> Result<T> {
    let step = limit.timeout.checked_div(STEPS).filter(|_| limit.timeout < Duration::MAX);
    let mut progress = Progress { limit, last: None, stalled: 0, silent: 0 };
    loop {
        if let Some(done) = poll(step)? {
            return Ok(done);
        }
        let now = Sample::take(pid);
        if freezer.is_frozen() {
            progress = Progress { limit, last: None, stalled: 0, silent: 0 };
        } else if progress.step(now) {
            return Err(given_up(pid, limit.timeout, now, freezer.frozen_ancestor()));
        }
    }
}

fn given_up(pid: i32, timeout: Duration, now: Option<Sample>, frozen_ancestor: Option<PathBuf>) -> Error {
    let seconds = timeout.as_secs_f64();
    if let Some(cgroup) = frozen_ancestor {
        return Error::new(
            ErrorKind::TimedOut,
            format!(
                "init (pid {pid}) made no progress for {seconds} s, and its kill takes effect when it is thawed: it is \
                 below the frozen cgroup {} (write THAWED to its freezer.state)",
                cgroup.display()
            ),
        );
    }
    let why = match now.map(|now| now.state) {
        Some('T') => "it is stopped, as a process of the container with its user id can do by SIGSTOP".to_owned(),
        Some('t') => "another process traces it".to_owned(),
        Some('D') => "it waits in the kernel, for a file system or device that does not answer".to_owned(),
        Some(state) => format!("its state is {state}, proc_pid_status(5)"),
        None => "its state is not known".to_owned(),
    };
    Error::new(ErrorKind::TimedOut, format!("init (pid {pid}) made no progress for {seconds} s, and was killed: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const IDLE: StallLimit = StallLimit { timeout: STALL_TIMEOUT, counts: Stalled::Idle };

    struct Paused(bool, Option<PathBuf>);

    impl Freezer for Paused {
        fn is_frozen(&self) -> bool {
            self.0
        }

        fn frozen_ancestor(&self) -> Option<PathBuf> {
            self.1.clone()
        }
    }

    fn sample(state: char, switches: u64) -> Option<Sample> {
        Some(Sample { state, switches })
    }

    fn steps(limit: StallLimit, samples: impl Iterator<Item = Option<Sample>>) -> Option<usize> {
        let mut progress = Progress { limit, last: None, stalled: 0, silent: 0 };
        samples.take(1000).position(|now| progress.step(now))
    }

    #[test]
    fn a_stopped_or_sleeping_init_times_out_and_a_running_one_much_later() {
        assert_eq!(steps(IDLE, std::iter::repeat(sample('T', 5))), Some(STEPS as usize - 1));
        assert_eq!(steps(IDLE, std::iter::repeat(sample('D', 5))), Some(STEPS as usize));
        assert_eq!(steps(IDLE, std::iter::repeat(sample('R', 5))), Some((STEPS * MAX_SILENT_TIMEOUTS) as usize - 1));
        assert_eq!(steps(IDLE, (0..).map(|step| sample('S', step))), Some((STEPS * MAX_SILENT_TIMEOUTS) as usize - 1));
    }

    #[test]
    fn for_create_only_a_stopped_init_counts() {
        let limit = StallLimit { counts: Stalled::Stopped, ..IDLE };
        assert_eq!(steps(limit, std::iter::repeat(sample('S', 5))), None);
        assert_eq!(steps(limit, std::iter::repeat(sample('D', 5))), None);
        assert_eq!(steps(limit, std::iter::repeat(sample('t', 5))), Some(STEPS as usize - 1));
        // An init that is stopped and continued in turn runs.
        assert_eq!(steps(limit, (0..).map(|step| sample(if step % 2 == 0 { 'T' } else { 'S' }, step))), None);
    }

    #[test]
    fn no_time_is_counted_while_the_container_is_frozen() {
        let limit = StallLimit { timeout: Duration::from_millis(20), counts: Stalled::Idle };
        let polls = Cell::new(0);
        let poll = |_| {
            polls.set(polls.get() + 1);
            Ok((polls.get() > 200).then_some(()))
        };
        wait(limit, i32::MAX, &Paused(true, None), poll).unwrap();
        polls.set(0);
        let error = wait(limit, i32::MAX, &Paused(false, None), poll).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("made no progress for 0.02 s"), "{error}");
        polls.set(0);
        let error = wait(limit, i32::MAX, &Paused(false, Some("/above".into())), poll).unwrap_err();
        assert!(error.to_string().contains("below the frozen cgroup /above"), "{error}");
    }

    #[test]
    fn a_sample_is_read_from_the_status_of_a_process() {
        let status = "Name:\tbrig\nState:\tT (stopped)\nvoluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t4\n";
        assert_eq!(Sample::parse(status), sample('T', 7));
        assert!(Sample::take(rustix::process::getpid().as_raw_pid()).is_some());
        assert!(Sample::take(i32::MAX).is_none());
    }
}
