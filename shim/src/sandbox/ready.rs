//! The pause process's report that it handles signals.
//!
//! The kernel drops a signal for the first process of a pid namespace that neither handles nor blocks it
//! (pid_namespaces(7)): a stop that comes right after the start would be lost. So the process writes one message to its
//! standard output, a FIFO in the bundle, as soon as it blocks signals, and the sandbox's start waits for it.

use std::io;
use std::path::{Path, PathBuf};

use brig_engine::error::{Context, Error, Result};
use rustix::fs::{CWD, FileType, Mode};
use tokio::net::unix::pipe::{OpenOptions, Receiver};

use crate::bundle::remove_if_there;

/// The FIFO's name in the bundle.
const NAME: &str = "ready";

/// The reading end of the FIFO, and its path until that is removed.
#[derive(Debug)]
pub struct ReadyPipe {
    receiver: Receiver,
    path: Option<PathBuf>,
}

impl ReadyPipe {
    /// Creates the FIFO in `bundle`, replacing one that an earlier attempt has left.
    ///
    /// # Errors
    /// The FIFO cannot be created or opened.
    pub fn open(bundle: &Path) -> Result<ReadyPipe> {
        let path = bundle.join(NAME);
        let unable = || format!("unable to make {}", path.display());
        remove_if_there(&path)?;
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .map_err(io::Error::from)
            .with_context(unable)?;
        let receiver = OpenOptions::new().open_receiver(&path).with_context(unable)?;
        Ok(ReadyPipe { receiver, path: Some(path) })
    }

    /// The address of the process's standard output.
    pub fn address(&self) -> String {
        self.path.as_ref().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Removes the FIFO's path, which is unused once the process has its streams.
    ///
    /// # Errors
    /// The FIFO cannot be removed.
    pub fn unlink(&mut self) -> Result<()> {
        self.path.take().map_or(Ok(()), |path| remove_if_there(&path))
    }

    /// Waits for the process's message.
    ///
    /// # Errors
    /// The FIFO cannot be read, or its writer has closed it without a message.
    pub async fn wait(&self) -> Result<()> {
        let unable = "unable to read the message of the pause process";
        loop {
            self.receiver.readable().await.context(unable)?;
            match self.receiver.try_read(&mut [0; 16]) {
                Ok(0) => return Err(Error::other("the pause process has closed its output before it was ready")),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context(unable),
            }
        }
    }
}

impl Drop for ReadyPipe {
    fn drop(&mut self) {
        if let Err(error) = self.unlink() {
            tracing::warn!("{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn the_word_is_heard_and_a_writer_that_goes_without_one_is_an_error() {
        let bundle = tempfile::tempdir().unwrap();
        // The state that an earlier attempt leaves.
        std::fs::write(bundle.path().join(NAME), "").unwrap();
        let mut ready = ReadyPipe::open(bundle.path()).unwrap();
        let mut writer = File::options().write(true).open(ready.address()).unwrap();
        ready.unlink().unwrap();
        assert_eq!(std::fs::read_dir(bundle.path()).unwrap().count(), 0);
        writer.write_all(b"ready\n").unwrap();
        ready.wait().await.unwrap();
        drop(writer);
        assert!(ready.wait().await.unwrap_err().to_string().contains("before it was ready"));
    }
}
