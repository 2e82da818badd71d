//! A worker's own temporary directories, in memory. Files that a runtime leaves there are found, and are removed with
//! the worker. Other programs of this machine write to other directories, so that no case is blamed for their files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use nix::mount::{MsFlags, mount};

/// The directories that every program may write to, and their modes.
const COVERED: &[(&str, &str)] =
    &[("/tmp", "mode=1777"), ("/var/tmp", "mode=1777"), ("/dev/shm", "mode=1777"), ("/run", "mode=755")];

/// The covered directories of a worker.
#[derive(Debug)]
pub(super) struct Sandbox {
    covered: Vec<PathBuf>,
}

impl Sandbox {
    /// Covers the directories in this process's own mount namespace. The `needed` paths stay visible.
    pub(super) fn enter(needed: &[&Path]) -> anyhow::Result<Sandbox> {
        let mut covered: Vec<PathBuf> = Vec::new();
        for (directory, mode) in COVERED {
            let directory = Path::new(directory);
            // systemd's sockets are there.
            if !directory.is_dir() || (directory.ends_with("run") && directory.join("systemd/system").is_dir()) {
                continue;
            }
            let hidden = needed.iter().filter(|path| path.starts_with(directory));
            let hidden: Vec<(&&Path, File)> =
                hidden.map(|path| Ok((path, File::open(path)?))).collect::<std::io::Result<_>>()?;
            // Without flags, because bind mounts of its files show them.
            mount(Some("spec"), directory, Some("tmpfs"), MsFlags::empty(), Some(*mode))
                .with_context(|| format!("a tmpfs on {}", directory.display()))?;
            for (path, file) in hidden {
                show_again(path, &file).with_context(|| format!("{} below a tmpfs", path.display()))?;
            }
            covered.push(directory.to_owned());
        }
        Ok(Sandbox { covered })
    }

    /// Every path below the directories, except below `places`.
    pub(super) fn paths(&self, places: &[&Path]) -> anyhow::Result<BTreeSet<PathBuf>> {
        let mut found = BTreeSet::new();
        for directory in &self.covered {
            walk(directory, places, &mut found).with_context(|| directory.display().to_string())?;
        }
        Ok(found)
    }
}

/// Binds an open file that a new mount hides to its path.
fn show_again(path: &Path, file: &File) -> anyhow::Result<()> {
    match file.metadata()?.is_dir() {
        true => fs::create_dir_all(path)?,
        false => {
            fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
            File::create(path)?;
        }
    }
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

fn walk(directory: &Path, places: &[&Path], found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if places.contains(&path.as_path()) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            walk(&path, places, found)?;
        }
        found.insert(path);
    }
    Ok(())
}
