//! The move of a process into a cgroup that belongs to no container.

use std::path::{Component, Path};

use super::dir::{CGROUP2_MAGIC, Dir, magic};
use super::place::{self, ROOT};
use crate::error::{Context, Error, ErrorKind, Result};

/// Moves process `pid` into the cgroup `path`, which is relative to the root of each hierarchy: cgroup2's, else those
/// of v1 in which it exists.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] for a path that leads up; [`ErrorKind::NotFound`] if no hierarchy has it.
pub fn join(path: &Path, pid: i32) -> Result<()> {
    let mut relative = path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
    if !relative.clone().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::new(ErrorKind::InvalidConfig, format!("cgroup {}: expected no ..", path.display())));
    }
    let unable = || format!("cannot move process {pid} into the cgroup {}", path.display());
    let below = |mount: &Path| relative.clone().fold(mount.to_owned(), |path, part| path.join(part));
    let mounts = match magic(Path::new(ROOT)) {
        Some(CGROUP2_MAGIC) => vec![Path::new(ROOT).to_owned()],
        _ => place::hierarchies()?.into_iter().map(|hierarchy| hierarchy.mount).collect(),
    };
    let found: Vec<_> = mounts.iter().map(|mount| below(mount)).filter(|path| path.is_dir()).collect();
    if found.is_empty() || relative.next().is_none() {
        return Err(Error::new(ErrorKind::NotFound, "no hierarchy has such a cgroup").context(unable()));
    }
    for path in found {
        Dir::open(&path).and_then(|dir| dir.write("cgroup.procs", &pid.to_string())).with_context(unable)?;
    }
    Ok(())
}
