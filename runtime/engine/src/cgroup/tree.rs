//! A walk over a cgroup and its descendants.
//!
//! A container that may write to its cgroup decides about its descendants: names of any bytes, paths beyond PATH_MAX,
//! any depth, any number, and changes while the walk is under way. Therefore the walk
//!
//! * goes from directory to directory by descriptor and name, never by path;
//! * keeps no descriptor but that of the present directory, and returns to the parent by `..`, which no process can
//!   redirect: cgroup2 has no rename(2), and that of v1 stays below the same parent (kernel/cgroup/cgroup-v1.c,
//!   cgroup1_rename);
//! * does not recurse;
//! * ends at a deadline.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use rustix::io::Errno;

use super::dir::{Dir, is_gone};
use brig_sys::{SysError, SysResult};

/// The visitor of a walk. A cgroup that disappears during the walk is no error.
pub(super) trait Visit {
    /// Visits a cgroup before its children.
    fn enter(&mut self, dir: &Dir) -> SysResult<()>;

    /// Visits a cgroup after its children, by its name and its parent's directory. The root of the walk is left out.
    fn leave(&mut self, _parent: &Dir, _name: &CStr) -> SysResult<()> {
        Ok(())
    }
}

impl<F: FnMut(&Dir) -> SysResult<()>> Visit for F {
    fn enter(&mut self, dir: &Dir) -> SysResult<()> {
        self(dir)
    }
}

/// One level of the walk.
struct Level {
    /// The directory's name in its parent.
    name: CString,
    /// The names of the children that have not been visited.
    pending: Vec<CString>,
}

/// Visits `root` and all its descendants.
///
/// # Errors
/// ETIMEDOUT at `deadline`; else the first error of `visit`, or of a directory that cannot be read.
pub(super) fn walk(root: &Dir, deadline: Instant, visit: &mut impl Visit) -> SysResult<()> {
    let Some(pending) = enter(root, visit)? else { return Ok(()) };
    if pending.is_empty() {
        return Ok(());
    }
    // Messages show `ROOT/.../NAME`, because the whole path grows with the depth.
    let (top, below) = (root.path(), root.path().join("..."));
    let mut here = root.open_at(c".", top.to_owned())?;
    let mut levels = vec![Level { name: c".".to_owned(), pending }];
    while let Some(level) = levels.last_mut() {
        if Instant::now() >= deadline {
            return Err(SysError::new("getdents64", format!("\"{}\"", top.display()), Errno::TIMEDOUT));
        }
        if let Some(name) = level.pending.pop() {
            let parent = if levels.len() == 1 { top } else { &below };
            let child = match here.open_at(&name, parent.join(OsStr::from_bytes(name.to_bytes()))) {
                Err(error) if is_gone(&error) => continue,
                child => child?,
            };
            if let Some(pending) = enter(&child, visit)? {
                levels.push(Level { name, pending });
                here = child;
            }
            continue;
        }
        let Some(done) = levels.pop() else { break };
        if !levels.is_empty() {
            here = here.open_at(c"..", if levels.len() == 1 { top.to_owned() } else { below.clone() })?;
            visit.leave(&here, &done.name)?;
        }
    }
    Ok(())
}

/// Visits `dir` and returns the names of its children; `None` if it was removed.
fn enter(dir: &Dir, visit: &mut impl Visit) -> SysResult<Option<Vec<CString>>> {
    match visit.enter(dir).and_then(|()| dir.children()) {
        Ok(names) => Ok(Some(names)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
