//! Host files that output is appended to. Their file system may not answer, so no call on one, not even close(2), may
//! run on the server's thread.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

/// An open host file.
#[derive(Debug)]
pub(super) struct HostFile(Option<Arc<File>>);

impl HostFile {
    pub(super) fn new(file: File) -> HostFile {
        HostFile(Some(Arc::new(file)))
    }

    /// Appends `bytes`. A caller that stops waiting leaves a thread behind until the file system answers.
    pub(super) async fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(file) = self.0.clone() else { return Ok(()) };
        let bytes = bytes.to_vec();
        let write = move || (&*file).write_all(&bytes);
        tokio::task::spawn_blocking(write).await.map_err(std::io::Error::other)?
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let file = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}
