//! The sealed image that an init executes.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::error::{Context, Result};
use brig_sys::seal;

/// The lifetime of a sealed image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImageUse {
    /// For one launch.
    Once,
    /// Until the exit of this process, for later launches.
    Kept,
}

/// The image for a launch. `beside` is an empty directory on a file system that overlay accepts.
///
/// # Errors
/// When neither an overlay nor a copy in memory can be made.
pub(super) fn open(beside: &Path, image_use: ImageUse) -> Result<seal::Image> {
    match image_use {
        ImageUse::Once => create(beside),
        ImageUse::Kept => cached(beside),
    }
}

/// The image that an earlier launch of this process executed, or a new one. No process can write to it, and therefore
/// launches can share it; a kept overlay saves its creation and both waits for its removal. A copy in memory would take
/// as much memory as this process, and is not kept.
fn cached(beside: &Path) -> Result<seal::Image> {
    static CACHED: Mutex<Option<OwnedFd>> = Mutex::new(None);
    let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &*cached {
        return Ok(seal::Image { file: file.try_clone().context("unable to copy an fd")?, mount: None });
    }
    let image = create(beside)?;
    if image.mount.is_some() {
        *cached = Some(image.file.try_clone().context("unable to copy an fd")?);
    }
    Ok(image)
}

/// A new image: an overlay if the kernel permits it, else a sealed copy in memory.
fn create(beside: &Path) -> Result<seal::Image> {
    match seal::overlay(beside) {
        Ok(image) => Ok(image),
        Err(error) => {
            tracing::debug!("the init stage runs from a copy in memory: {error}");
            Ok(seal::memory_copy(c"brig").context("unable to copy this program's binary")?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_launches_again_reuses_its_image() {
        let beside = tempfile::tempdir().unwrap();
        let first = cached(beside.path()).unwrap();
        let second = cached(beside.path()).unwrap();
        let identity =
            |image: &seal::Image| rustix::fs::fstat(&image.file).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
        // Without the right to mount an overlay each image is a copy of its own.
        assert_eq!(identity(&first) == identity(&second), first.mount.is_some());
        assert!(second.mount.is_none());
    }
}
