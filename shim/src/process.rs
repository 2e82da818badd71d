//! One process of a container: init, or an exec. Who it is, how far it has come, and how it ended.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brig_engine::Launched;
use brig_engine::error::{Error, ErrorKind, Result};
use brig_sys::process;
use tokio::sync::watch;

use crate::io::{Addresses, Copying, StdinEnds};
use crate::reaper::Ended;

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An exec that was only registered.
    Added,
    /// It is being made, or started.
    Starting,
    /// Init, which waits for its start.
    Created,
    /// It runs.
    Running,
    /// It has ended, and containerd was told.
    Stopped,
}

/// See the module.
#[derive(Debug)]
pub struct Process {
    /// The exec's id; empty for init.
    pub exec_id: String,
    /// Its standard streams, as requested.
    pub addresses: Addresses,
    state: Mutex<State>,
    ended: watch::Sender<Option<Ended>>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    pid: i32,
    pidfd: Option<Arc<OwnedFd>>,
    copying: Option<Copying>,
    /// Standard input has ended; it may be that the process does not exist yet.
    stdin_closed: bool,
}

impl Process {
    /// A process that does not exist yet.
    pub fn new(exec_id: String, addresses: Addresses) -> Process {
        let state = State { phase: Phase::Added, pid: 0, pidfd: None, copying: None, stdin_closed: false };
        Process { exec_id, addresses, state: Mutex::new(state), ended: watch::Sender::new(None) }
    }

    /// The state, whatever happened to its last holder: no method leaves it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// Its pid; 0 before it exists.
    pub fn pid(&self) -> i32 {
        self.state().pid
    }

    /// How it ended.
    pub fn ended(&self) -> Option<Ended> {
        *self.ended.borrow()
    }

    /// From `from` to [`Phase::Starting`]: of two starts at once one goes on.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] when it is in another phase.
    pub fn begin(&self, from: Phase) -> Result<()> {
        let mut state = self.state();
        if state.phase != from {
            let message = match state.phase {
                Phase::Added => "the process has not been created",
                Phase::Starting => "the process is being started already",
                Phase::Created => "the process has not been started",
                Phase::Running => "the process has been started already",
                Phase::Stopped => "the process has ended",
            };
            return Err(Error::new(ErrorKind::InvalidState, message));
        }
        state.phase = Phase::Starting;
        Ok(())
    }

    /// It exists.
    pub fn launched(&self, phase: Phase, launched: Launched, mut copying: Copying) {
        let mut state = self.state();
        if state.stdin_closed {
            copying.close_stdin();
        }
        state.phase = phase;
        state.pid = launched.pid;
        state.pidfd = Some(Arc::new(launched.pidfd));
        state.copying = Some(copying);
    }

    /// The FIFO of standard input, where there is one that its start is to open.
    pub fn unopened_stdin(&self) -> Option<PathBuf> {
        self.state().copying.as_ref().and_then(Copying::unopened_stdin)
    }

    /// Copies from the FIFO of standard input, for its start.
    ///
    /// # Errors
    /// It cannot be polled.
    pub fn copy_stdin(&self, ends: StdinEnds) -> Result<()> {
        match &mut self.state().copying {
            Some(copying) => copying.copy_stdin(ends),
            None => Ok(()),
        }
    }

    /// The end of a start, either way.
    pub fn set_phase(&self, phase: Phase) {
        self.state().phase = phase;
    }

    /// Waits until what it wrote has been read by who is there to read it: to be called after its end, before anyone is
    /// told. containerd's Go client closes its ends of the FIFOs when it hears of it, whatever is in them. The end of a
    /// process whose reader does not read is told all the same, after two seconds.
    pub async fn output_is_read(&self) {
        let reading = self.state().copying.as_mut().map(Copying::process_ended);
        if let Some(reading) = reading
            && !reading.await
        {
            tracing::debug!(exec = self.exec_id, "the end is told, and output has not been read yet");
        }
    }

    /// It has ended: all who wait are told, now and later.
    pub fn end(&self, ended: Ended) {
        let mut state = self.state();
        state.phase = Phase::Stopped;
        state.pidfd = None;
        drop(state);
        self.ended.send_replace(Some(ended));
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The sender is ours, and lives as long as `self`.
            Ok(None) | Err(_) => Ended::now(255),
        }
    }

    /// Sends a signal by the pidfd.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchProcess`] when it has ended, [`ErrorKind::InvalidState`] before it exists.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let gone = || Error::new(ErrorKind::NoSuchProcess, "process already finished");
        let (phase, pidfd) = {
            let state = self.state();
            (state.phase, state.pidfd.clone())
        };
        let Some(pidfd) = pidfd else {
            return match phase {
                Phase::Stopped => Err(gone()),
                _ => Err(Error::new(ErrorKind::InvalidState, "process not started")),
            };
        };
        match process::pidfd_send_signal(pidfd.as_fd(), signal) {
            Err(error) if error.errno() == nix::errno::Errno::ESRCH => Err(gone()),
            other => Ok(other?),
        }
    }

    /// Standard input ends after what was written so far. A client that has little to write may say so before the
    /// process is there.
    pub fn close_stdin(&self) {
        let mut state = self.state();
        state.stdin_closed = true;
        if let Some(copying) = &mut state.copying {
            copying.close_stdin();
        }
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        match &self.state().copying {
            Some(copying) => copying.resize(rows, columns),
            None => Ok(()),
        }
    }

    /// Waits until what it wrote is copied, and closes its streams.
    pub async fn drain(&self) {
        let copying = self.state().copying.take();
        if let Some(copying) = copying
            && !copying.drain().await
        {
            tracing::warn!(exec = self.exec_id, "closing the output although it was not copied to its end in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_starts_one_goes_on_and_an_end_is_told_to_whoever_comes() {
        let process = Process::new("e".into(), Addresses::default());
        process.begin(Phase::Added).unwrap();
        assert_eq!(process.begin(Phase::Added).unwrap_err().kind(), ErrorKind::InvalidState);
        assert_eq!(process.signal(0).unwrap_err().kind(), ErrorKind::InvalidState);
        let ended = Ended::now(7);
        process.end(ended);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(process.wait()), ended);
        assert_eq!(process.signal(0).unwrap_err().kind(), ErrorKind::NoSuchProcess);
        assert_eq!(process.begin(Phase::Added).unwrap_err().kind(), ErrorKind::InvalidState);
    }
}
