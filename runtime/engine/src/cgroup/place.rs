//! The mount points of the host's hierarchies, and the caller's cgroups in them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::dir::{CGROUP_MAGIC, CGROUP2_MAGIC, magic};
use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::cgroup::{Base, CgroupPath};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult};

/// The conventional directory of cgroup file systems (file-hierarchy(7)).
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// One hierarchy of a process, which mostly is the caller.
#[derive(Debug)]
pub(super) struct Hierarchy {
    /// The controllers; `name=systemd` for a named hierarchy; a single empty name for cgroup2.
    pub controllers: Vec<String>,
    pub mount: PathBuf,
    /// The process's cgroup, relative to the hierarchy's root.
    pub own: PathBuf,
}

impl Hierarchy {
    /// The directory of `path` in this hierarchy.
    pub(super) fn resolve(&self, path: &CgroupPath) -> PathBuf {
        match path.base {
            Base::Root => self.mount.join(&path.path),
            Base::Own => {
                // In a container, /proc/self/cgroup may name directories above the root of the mount.
                let own = self.mount.join(&self.own);
                let base = if own.is_dir() { own } else { self.mount.clone() };
                base.join(&path.path)
            }
        }
    }
}

/// Reads lines of /proc/PROCESS/cgroup: `ID:controllers:path` (cgroups(7)). `process` is a pid, or `self`. A container
/// may have chosen a part of the path: it consists of bytes. The kernel cannot show a path beyond PATH_MAX, and fails
/// with ENAMETOOLONG (kernel/cgroup/cgroup.c, proc_cgroup_show).
fn cgroups_of(process: &str) -> SysResult<Vec<u8>> {
    Proc::open()?.read(format!("{process}/cgroup"))
}

fn own_cgroups() -> Result<Vec<u8>> {
    cgroups_of("self").context("cannot read the caller's cgroups")
}

fn lines(text: &[u8]) -> impl Iterator<Item = (&str, &Path)> {
    text.split(|&byte| byte == b'\n').filter_map(split)
}

fn split(line: &[u8]) -> Option<(&str, &Path)> {
    let mut fields = line.splitn(3, |&byte| byte == b':').skip(1);
    let controllers = std::str::from_utf8(fields.next()?).ok()?;
    let path = Path::new(OsStr::from_bytes(fields.next()?));
    Some((controllers, path.strip_prefix("/").unwrap_or(path)))
}

/// The mounted v1 hierarchies, and cgroup2 beside them.
pub(super) fn hierarchies() -> Result<Vec<Hierarchy>> {
    hierarchies_of(&own_cgroups()?)
}

/// The directories of process `pid`, by controller as in a record.
pub(super) fn paths_of(pid: i32) -> Result<BTreeMap<String, PathBuf>> {
    let root = Path::new(ROOT);
    let what = || format!("cannot read the cgroups of process {pid}");
    if magic(root) == Some(CGROUP2_MAGIC) {
        let own = v2_path_of(pid, root).with_context(what)?;
        return Ok(BTreeMap::from([(String::new(), own)]));
    }
    let mut paths = BTreeMap::new();
    for hierarchy in hierarchies_of(&cgroups_of(&pid.to_string()).with_context(what)?)? {
        let directory = hierarchy.mount.join(&hierarchy.own);
        paths.extend(hierarchy.controllers.into_iter().map(|name| (name, directory.clone())));
    }
    Ok(paths)
}

/// The hierarchies of a text of /proc/PID/cgroup.
fn hierarchies_of(text: &[u8]) -> Result<Vec<Hierarchy>> {
    let mut list = Vec::new();
    let mut elsewhere = None;
    for (controllers, own) in lines(text) {
        let mount = if controllers.is_empty() {
            Some(Path::new(ROOT).join("unified")).filter(|path| magic(path) == Some(CGROUP2_MAGIC))
        } else {
            mount_of(controllers, &mut elsewhere)
        };
        if let Some(mount) = mount {
            list.push(Hierarchy {
                controllers: controllers.split(',').map(str::to_owned).collect(),
                mount,
                own: own.to_owned(),
            });
        }
    }
    if list.is_empty() {
        return Err(Error::new(ErrorKind::Unsupported, format!("no cgroup hierarchy is mounted below {ROOT}")));
    }
    Ok(list)
}

/// The mount of the hierarchy of `controllers`: under its full name, or that of one of them, below [`ROOT`]; else
/// according to the mount table. `elsewhere` caches the table, which is read at most once.
fn mount_of(controllers: &str, elsewhere: &mut Option<Vec<PathBuf>>) -> Option<PathBuf> {
    let plain = controllers.strip_prefix("name=").unwrap_or(controllers);
    let names = || std::iter::once(plain).chain(plain.split(','));
    let here = names().map(|name| Path::new(ROOT).join(name)).find(|path| magic(path) == Some(CGROUP_MAGIC));
    here.or_else(|| {
        let table =
            elsewhere.get_or_insert_with(|| libcgroups::v1::util::list_subsystem_mount_points().unwrap_or_default());
        table.iter().find(|mount| names().any(|name| mount.ends_with(name))).cloned()
    })
}

/// The directory of `path` on a pure v2 host.
pub(super) fn v2_path(path: &CgroupPath) -> Result<PathBuf> {
    let root = Path::new(ROOT);
    match path.base {
        Base::Root => Ok(root.join(&path.path)),
        Base::Own => {
            let text = own_cgroups()?;
            let own = lines(&text).find(|(controllers, _)| controllers.is_empty());
            // Without a line the kernel has no cgroup2; the mkdir(2) that follows reports that.
            let parent = own.and_then(|(_, own)| own.parent()).unwrap_or(Path::new(""));
            Ok(root.join(parent).join(&path.path))
        }
    }
}

/// The cgroup2 directory of process `pid`.
///
/// # Errors
/// ENAMETOOLONG if its path is longer than the kernel can show; ENOENT if it is in none.
pub(super) fn v2_path_of(pid: i32, root: &Path) -> SysResult<PathBuf> {
    let text = cgroups_of(&pid.to_string())?;
    let own = lines(&text).find(|(controllers, _)| controllers.is_empty());
    own.map(|(_, path)| root.join(path))
        .ok_or_else(|| SysError::new("read", format!("\"/proc/{pid}/cgroup\", no cgroup2 entry"), Errno::NOENT))
}
