//! The FIFO of standard input.

use std::os::fd::OwnedFd;
use std::path::Path;

use brig_engine::error::{Context, Result};

use super::fd::open_fifo;

/// The FIFO of standard input, open at both ends.
#[derive(Debug)]
pub struct StdinEnds {
    pub(super) reader: OwnedFd,
    pub(super) writer: OwnedFd,
}

impl StdinEnds {
    /// Opens the FIFO. Must not run on the server's thread, because its file system may not answer.
    ///
    /// # Errors
    /// The FIFO cannot be opened. The call can be repeated then.
    pub fn open(path: &Path) -> Result<StdinEnds> {
        let unable = || format!("unable to open standard input {}", path.display());
        // The reader is opened first: without one a non-blocking writer is refused (fifo(7)).
        let reader = open_fifo(path, true, false).with_context(unable)?;
        let writer = open_fifo(path, false, true).with_context(unable)?;
        Ok(StdinEnds { reader, writer })
    }
}
