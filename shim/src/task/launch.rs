//! The launch of a process: from stream addresses to a process whose streams are copied.

use std::os::fd::AsFd;
use std::sync::Arc;

use brig_engine::Launched;
use brig_engine::error::{Error, Result};
use tokio::sync::oneshot;

use crate::io::{Addresses, Copying, Opened, Owner};
use crate::reaper::{Ended, Reaper};
use crate::runtime::{self, Streams};

/// A launched process, whose streams are copied and whose exit is watched.
pub(super) type Started = (Launched, Copying, oneshot::Receiver<Ended>);

/// Opens the streams, starts the process by `make`, and starts copying, standard input too where the process `runs`.
/// The reaper is held throughout.
pub(super) async fn launch(
    reaper: &Arc<Reaper>,
    addresses: &Addresses,
    owner: Owner,
    runs: bool,
    make: impl FnOnce(Streams) -> Result<Launched> + Send + 'static,
) -> Result<Started> {
    let addresses = addresses.clone();
    let (mut launched, prepared, ended) = runtime::launching(reaper, move || {
        let (streams, mut prepared) = Opened::open(&addresses, &owner)?.split()?;
        let launched = make(streams)?;
        if runs {
            prepared.open_stdin().or_else(|error| kill(&launched, error))?;
        }
        Ok((launched, prepared))
    })
    .await?;
    match prepared.start(launched.terminal.take(), reaper) {
        Ok(copying) => Ok((launched, copying, ended)),
        Err(error) => kill(&launched, error),
    }
}

/// Kills a process whose streams cannot be copied, and returns `error`.
fn kill<T>(launched: &Launched, error: Error) -> Result<T> {
    brig_sys::process::pidfd_send_signal(launched.pidfd.as_fd(), libc::SIGKILL)?;
    Err(error)
}
