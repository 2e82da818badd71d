//! One process of a container, init or an exec: its identity, its phase, and its exit.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use brig_engine::error::{Error, ErrorKind, Result};
use brig_engine::process::Pidfd;
use tokio::sync::watch;

use crate::io::{Addresses, Copying, StdinEnds};
use crate::reaper::Exit;
use crate::runtime::Watched;

/// The phase of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// An exec that is registered and not started.
    Added,
    /// The process is being created or started.
    Starting,
    /// Init, which waits for its start.
    Created,
    /// The process is running.
    Running,
    /// The process has exited, and the exit was published.
    Stopped,
}

/// A process of a container; the module describes it.
#[derive(Debug)]
pub struct Process {
    /// The exec's id; empty for init.
    pub exec_id: String,
    /// The addresses of its standard streams, as requested.
    pub addresses: Addresses,
    state: Mutex<State>,
    exit: watch::Sender<Option<Exit>>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    pid: i32,
    pidfd: Option<Arc<Pidfd>>,
    copying: Option<Copying>,
    /// Whether standard input has ended, which may precede the process.
    stdin_closed: bool,
}

impl Process {
    /// Creates a process that has no pid yet.
    pub fn new(exec_id: String, addresses: Addresses) -> Process {
        let state = State { phase: Phase::Added, pid: 0, pidfd: None, copying: None, stdin_closed: false };
        Process { exec_id, addresses, state: Mutex::new(state), exit: watch::Sender::new(None) }
    }

    /// Locks the state, and ignores poisoning: no method leaves it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current phase.
    pub fn phase(&self) -> Phase {
        self.state().phase
    }

    /// The pid; 0 before the process exists.
    pub fn pid(&self) -> i32 {
        self.state().pid
    }

    /// The exit, once the process has exited.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Moves from `from` to [`Phase::Starting`]: of two concurrent starts one succeeds.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidState`] when the process is in another phase.
    pub fn begin(&self, from: Phase) -> Result<()> {
        let mut state = self.state();
        if state.phase != from {
            let message = match state.phase {
                Phase::Added => "the process has not been created",
                Phase::Starting => "the process is being started already",
                Phase::Created => "the process has not been started",
                Phase::Running => "the process has been started already",
                Phase::Stopped => "the process has exited",
            };
            return Err(Error::new(ErrorKind::InvalidState, message));
        }
        state.phase = Phase::Starting;
        Ok(())
    }

    /// Records the launched process and its streams.
    pub fn launched(&self, phase: Phase, process: &Watched, mut copying: Copying) {
        let mut state = self.state();
        if state.stdin_closed {
            copying.close_stdin();
        }
        state.phase = phase;
        state.pid = process.pid;
        state.pidfd = Some(Arc::clone(&process.pidfd));
        state.copying = Some(copying);
    }

    /// The FIFO of standard input that the start must open, if any.
    pub fn unopened_stdin(&self) -> Option<PathBuf> {
        self.state().copying.as_ref().and_then(Copying::unopened_stdin)
    }

    /// Copies from the FIFO of standard input, for the process's start.
    ///
    /// # Errors
    /// The FIFO cannot be polled.
    pub fn copy_stdin(&self, ends: StdinEnds) -> Result<()> {
        match &mut self.state().copying {
            Some(copying) => copying.copy_stdin(ends),
            None => Ok(()),
        }
    }

    /// Sets the phase after a start, successful or not.
    pub fn set_phase(&self, phase: Phase) {
        self.state().phase = phase;
    }

    /// Waits until readers have read the output of the exited process. Must precede the publication of its exit:
    /// containerd's Go client closes its ends of the FIFOs when the exit is published, whatever they contain. The exit
    /// of a process whose reader does not read is published anyway, after two seconds.
    pub async fn wait_output_read(&self) {
        let reading = self.state().copying.as_mut().map(Copying::process_exited);
        if let Some(reading) = reading
            && !reading.await
        {
            tracing::debug!(
                exec = self.exec_id,
                "publishing the exit event although stdout or stderr has unread output"
            );
        }
    }

    /// Records the exit, and reports it to all waiters, present and future.
    pub fn set_exited(&self, exit: Exit) {
        let mut state = self.state();
        state.phase = Phase::Stopped;
        state.pidfd = None;
        drop(state);
        self.exit.send_replace(Some(exit));
    }

    /// Waits for the process's exit.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        match exit.wait_for(Option::is_some).await.map(|exit| *exit) {
            Ok(Some(exit)) => exit,
            // The sender belongs to `self` and is dropped with it.
            Ok(None) | Err(_) => Exit::now(255),
        }
    }

    /// Sends a signal by the pidfd.
    ///
    /// # Errors
    /// [`ErrorKind::NoSuchProcess`] when it has exited, [`ErrorKind::InvalidState`] before it exists.
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
        match pidfd.send_signal(signal) {
            Err(error) if error.kind() == ErrorKind::NoSuchProcess => Err(gone()),
            other => other,
        }
    }

    /// Ends standard input after the bytes written so far. A client that has little to write may call this before the
    /// process exists.
    pub fn close_stdin(&self) {
        let mut state = self.state();
        state.stdin_closed = true;
        if let Some(copying) = &mut state.copying {
            copying.close_stdin();
        }
    }

    /// Sets the size of the process's terminal.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        match &self.state().copying {
            Some(copying) => copying.resize(rows, columns),
            None => Ok(()),
        }
    }

    /// Waits until the output is copied, and closes the streams.
    pub async fn drain(&self) {
        let copying = self.state().copying.take();
        if let Some(copying) = copying
            && !copying.drain().await
        {
            tracing::warn!(
                exec = self.exec_id,
                "closing stdout and stderr before all output was copied: the timeout has expired"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_starts_one_succeeds_and_the_exit_is_reported_to_late_waiters() {
        let process = Process::new("e".into(), Addresses::default());
        process.begin(Phase::Added).unwrap();
        assert_eq!(process.begin(Phase::Added).unwrap_err().kind(), ErrorKind::InvalidState);
        assert_eq!(process.signal(0).unwrap_err().kind(), ErrorKind::InvalidState);
        let exit = Exit::now(7);
        process.set_exited(exit);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(runtime.block_on(process.wait()), exit);
        assert_eq!(process.signal(0).unwrap_err().kind(), ErrorKind::NoSuchProcess);
        assert_eq!(process.begin(Phase::Added).unwrap_err().kind(), ErrorKind::InvalidState);
    }
}
