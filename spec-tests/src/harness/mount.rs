//! Mounts of the case's own on the host's side: gone when the case is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A tmpfs in the worker's mount namespace; unmounted, with all below it, when it is dropped.
#[derive(Debug)]
pub struct HostMount {
    path: PathBuf,
}

impl HostMount {
    /// Mounts a tmpfs with these flags at the path, which is made.
    ///
    /// # Errors
    /// The kernel's.
    pub fn tmpfs(path: PathBuf, flags: MsFlags) -> anyhow::Result<HostMount> {
        fs::create_dir_all(&path)?;
        let data = Some("mode=755,size=1m");
        mount(Some("host"), &path, Some("tmpfs"), flags, data).with_context(|| format!("tmpfs {}", path.display()))?;
        Ok(HostMount { path })
    }

    /// Binds a file or a directory onto another that is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(source: &Path, path: PathBuf) -> anyhow::Result<HostMount> {
        mount(Some(source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind {} onto {}", source.display(), path.display()))?;
        Ok(HostMount { path })
    }

    /// A tmpfs, and another at `sub` in it, each with a file `mark` (names of them: `top` and `sub`).
    ///
    /// # Errors
    /// The kernel's.
    pub fn tree(path: PathBuf, flags: MsFlags) -> anyhow::Result<[HostMount; 2]> {
        let top = HostMount::tmpfs(path, MsFlags::empty())?;
        fs::write(top.path.join("mark"), "top")?;
        let sub = HostMount::tmpfs(top.path.join("sub"), MsFlags::empty())?;
        fs::write(sub.path.join("mark"), "sub")?;
        top.change(flags)?;
        sub.change(flags)?;
        // Dropped in this order: what is mounted below the other comes first.
        Ok([sub, top])
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets its mount flags anew, or its propagation type.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&self, flags: MsFlags) -> anyhow::Result<()> {
        let propagation = MsFlags::MS_SHARED | MsFlags::MS_SLAVE | MsFlags::MS_PRIVATE | MsFlags::MS_UNBINDABLE;
        let how = match flags.intersects(propagation) {
            true => flags,
            false => flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND,
        };
        mount(None::<&str>, &self.path, None::<&str>, how, None::<&str>)
            .with_context(|| format!("{flags:?} for {}", self.path.display()))
    }
}

impl Drop for HostMount {
    fn drop(&mut self) {
        // The search for leaks after the case reports a mount that stays.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}
