//! The launch of a process: from stream addresses to a process whose streams are copied.

use std::sync::Arc;

use brig_engine::Launched;
use brig_engine::error::{Error, Result};
use brig_engine::process::Pidfd;

use crate::io::{Addresses, Copying, Opened, Owner};
use crate::reaper::Reaper;
use crate::runtime::{self, Streams, Watched};

/// Opens the streams, starts the process by `make`, and starts copying, standard input too where the process `runs`.
/// The reaper is held throughout.
pub(super) async fn launch(
    reaper: &Arc<Reaper>,
    addresses: &Addresses,
    owner: Owner,
    runs: bool,
    make: impl FnOnce(Streams) -> Result<Launched> + Send + 'static,
) -> Result<(Watched, Copying)> {
    let addresses = addresses.clone();
    let (mut watched, prepared) = runtime::launching(reaper, move || {
        let (streams, mut prepared) = Opened::open(&addresses, &owner)?.split()?;
        let launched = make(streams)?;
        if runs {
            prepared.open_stdin().or_else(|error| kill(&launched.pidfd, error))?;
        }
        Ok((launched, prepared))
    })
    .await?;
    match prepared.start(watched.terminal.take(), reaper) {
        Ok(copying) => Ok((watched, copying)),
        Err(error) => kill(&watched.pidfd, error),
    }
}

/// Kills a process whose streams cannot be copied, and returns `error`.
fn kill<T>(pidfd: &Pidfd, error: Error) -> Result<T> {
    pidfd.send_signal(libc::SIGKILL)?;
    Err(error)
}
