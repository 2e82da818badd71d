//! Layer 2: a container's root file system, from a [`RootfsPlan`] to a process inside it.
//!
//! ```text
//! parent                child, single-threaded, in its own mount namespace
//! open_sources()  ───►  prepare()        propagation, the root, every mount, /dev
//!                       bind_console()   after a terminal was opened in the new devpts
//!                                        (createContainer hooks run here)
//!                       enter()          pivot_root; the old root is gone
//!                       finish()         propagation of /, read-only root, masked and read-only paths
//! ```
//!
//! The image and the activity of other containers in shared volumes are hostile. Every path in the root goes through
//! [`brig_sys::path`], and the result is used by descriptor.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, StatVfsMountFlags};
use rustix::io::Errno;

use crate::error::{Context, Error, Result};
use brig_plan::mounts::{CgroupMounts, MountKind, MountOp, Pivot, RootfsPlan, RuntimeOptions};
use brig_plan::namespaces::NamespaceKind;
use brig_sys::fd::mount_id;
use brig_sys::path::Dir;
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult};
use brig_sys::{mount, ns};

mod cached_namespace;
mod cgroup;
mod copy;
mod dev;
mod host_mounts;
mod host_node;
mod idmap;
mod mask;
mod mounts;
mod pivot;

pub use cached_namespace::cached_namespace;
use host_mounts::HostMounts;
pub use host_node::{MemoryDevice, is_other_device, open_protected, replacement};
use mounts::Source;
pub use pivot::check_root;

/// A process that opens sources of bind mounts for one that may not: the parent of an init.
pub trait OpenSource: Sync {
    /// A detached copy of the source of the plan's mount `index`, as [`open_source_for`] makes it.
    ///
    /// # Errors
    /// The source is missing or cannot be copied, or it cannot be mapped.
    fn open_source(&self, index: usize) -> Result<OwnedFd>;
}

/// The parts of a root that exist at run time alone, beside its plan.
#[derive(Default)]
pub struct RootContext<'a> {
    /// The content of cgroup mounts.
    pub cgroup: CgroupMounts,
    /// The cached empty mount namespace. This process is still in the host's, and creates its own as a copy of the
    /// cached one.
    pub empty_namespace: Option<OwnedFd>,
    /// The sources of [`open_sources`].
    pub sources: BTreeMap<usize, OwnedFd>,
    /// The pid namespace that a procfs shows, when this process is outside of the container's; `None` for this
    /// process's own namespace.
    pub pid_namespace: Option<OwnedFd>,
    /// Opens the sources that this process may not open, or may not map.
    pub parent: Option<&'a dyn OpenSource>,
}

/// The root of a container during its set-up.
#[derive(Debug)]
pub struct Root {
    dir: Dir,
    /// The host's procfs, opened while /proc still is the host's.
    proc: Proc,
    /// The host's mounts, until this root is the process's root.
    host_mounts: HostMounts,
    /// A detached copy of the host's /dev/null, for masked files.
    null: Option<OwnedFd>,
    /// See [`RootContext::pid_namespace`].
    pid_namespace: Option<OwnedFd>,
    /// The content of cgroup mounts.
    cgroup: CgroupMounts,
    /// Mounts that [`Root::finish`] makes read-only.
    deferred_readonly: Vec<OwnedFd>,
}

impl Root {
    /// The root directory, opened with O_PATH.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.fd()
    }

    /// The root directory as the start of lookups.
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Compares `found` with the root directory itself, on the root's own mount: symlinks of the image can lead there
    /// from any path.
    fn is_root(&self, found: &OwnedFd) -> SysResult<bool> {
        let stat = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map_err(|e| SysError::new("fstat", "", e));
        let (top, other) = (stat(self.fd())?, stat(found.as_fd())?);
        if (top.st_dev, top.st_ino) != (other.st_dev, other.st_ino) {
            return Ok(false);
        }
        // The root can be bound below itself as well. On a kernel without mount ids such a mount is treated as the
        // root.
        Ok(match (mount_id(self.fd()), mount_id(found)) {
            (Some(top), Some(other)) => top == other,
            _ => true,
        })
    }

    /// Refuses `found`, the object at `path`, if it is the root directory. A mount on the root directory would be
    /// hidden from init, whose root lies below the mount, and would be the root of every exec, because setns(2) takes
    /// the topmost mount (mntns_install, fs/namespace.c): without the masks, the read-only root and /proc.
    fn refuse_root(&self, path: &Path, found: &OwnedFd) -> Result<()> {
        if self.is_root(found)? {
            return Err(refuse(path, "leads to the top of the rootfs; name a file or directory below it"));
        }
        Ok(())
    }
}

/// Opens the sources of bind mounts as detached copies where a child could not: a child in a user namespace may not
/// reach the host's paths, and only a detached copy can be idmapped. Returns the copies by their index in `plan.mounts`.
/// The child opens the sources that may not be opened here (EPERM). A missing source is an error that names it.
///
/// The child copies every other source at the mount's turn: from Linux 6.8 on, /proc/PID/mountinfo lists mounts in the
/// order of their creation, and tools expect the order of the configuration there.
///
/// Runs in the parent, before the clone.
///
/// # Errors
/// A source is missing or cannot be copied, or the kernel refuses the id mapping of one.
pub fn open_sources(plan: &RootfsPlan) -> Result<BTreeMap<usize, OwnedFd>> {
    let mut sources = BTreeMap::new();
    let mut maps = idmap::Maps::default();
    for (index, op) in plan.mounts.iter().enumerate() {
        let MountKind::Bind { recursive } = op.kind else { continue };
        if plan.has_user_namespace() || op.map.is_none() {
            continue;
        }
        if op.own.contains(RuntimeOptions::COPY_SYMLINK) && is_symlink(&op.source) {
            continue;
        }
        let follow = !op.own.contains(RuntimeOptions::SOURCE_NOFOLLOW);
        let tree =
            mount::clone_host_tree(&op.source, recursive, follow).map_err(|error| mounts::source_error(op, error))?;
        // Must precede every attachment, because the kernel maps detached mounts alone.
        maps.apply(op, &tree)?;
        set_spread(plan, op, &tree)?;
        sources.insert(index, tree);
    }
    Ok(sources)
}

/// Opens a bind mount's source for the init `pid`, which has a user namespace and may not open or map it: a detached copy
/// of a mount in init's mount namespace. There, flags of the host's mounts are locked (mount_namespaces(7)): a copy of
/// the host's own mount would let the container make a read-only mount of the host writable.
///
/// Runs in the parent. `pid` must be a child that is not reaped.
///
/// # Errors
/// As for [`open_sources`]; EPERM for a caller that may not enter init's mount namespace.
pub fn open_source_for(plan: &RootfsPlan, index: usize, pid: i32) -> Result<OwnedFd> {
    let op =
        plan.mounts.get(index).ok_or_else(|| Error::other(format!("init requests the source of mount {index}")))?;
    let MountKind::Bind { recursive } = op.kind else {
        return Err(Error::other(format!("mounts[{}] is no bind mount, and has no source", op.index)));
    };
    let proc = Proc::open().context("error opening /proc")?;
    let namespace = proc.open_namespace_of(pid, "mnt")?;
    let top = proc.open_root_of(pid)?;
    let copy = || {
        ns::unshare_root()?;
        ns::join(namespace.as_fd(), NamespaceKind::Mount.clone_flag())?;
        rustix::process::fchdir(&top).map_err(|e| SysError::new("fchdir", "the root of init", e))?;
        rustix::process::chroot(".").map_err(|e| SysError::new("chroot", "\".\"", e))?;
        mount::clone_host_tree(&op.source, recursive, !op.own.contains(RuntimeOptions::SOURCE_NOFOLLOW))
    };
    // setns(2) affects one thread: this thread must not leave the caller's namespace.
    let copied =
        std::thread::scope(|scope| scope.spawn(copy).join().map_err(|_| Error::other("a thread has panicked")))?;
    let tree = match copied {
        Err(error) if error.errno() == Errno::INVAL && !recursive => copy_without_below(plan, op)?,
        other => other.map_err(|error| mounts::source_error(op, error))?,
    };
    // Must precede every attachment, because the kernel maps detached mounts alone.
    idmap::Maps::default().apply(op, &tree)?;
    Ok(tree)
}

/// Gives a copy of the host's own mount, which is a peer of that, the root's propagation, as a mount of the child's own
/// namespace has it: unless that is shared, nothing of the container may propagate to the host.
fn set_spread(plan: &RootfsPlan, op: &MountOp, tree: &OwnedFd) -> Result<()> {
    let spread = plan.spread();
    if spread & libc::MS_SHARED == 0 {
        let kind = if spread & libc::MS_PRIVATE != 0 { libc::MS_PRIVATE } else { libc::MS_SLAVE };
        mount::set_propagation(tree, kind | libc::MS_REC).with_context(|| mounts::describe(op))?;
    }
    Ok(())
}

/// A copy of the host's own mount without the mounts below it, which are locked together in the mount namespace of a
/// user namespace. Its flags are not locked there, so that one with such flags is refused.
fn copy_without_below(plan: &RootfsPlan, op: &MountOp) -> Result<OwnedFd> {
    let tree = mount::clone_host_tree(&op.source, false, !op.own.contains(RuntimeOptions::SOURCE_NOFOLLOW))
        .map_err(|error| mounts::source_error(op, error))?;
    let flags = rustix::fs::fstatvfs(&tree).map_err(|error| SysError::new("fstatfs", "", error))?.f_flag;
    if flags.intersects(
        StatVfsMountFlags::RDONLY | StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::NOEXEC,
    ) {
        return Err(Error::other(format!(
            "mounts[{}].options: bind leaves out the mounts below {}, whose flags ({flags:?}) a user namespace could then \
             change: use rbind",
            op.index,
            op.source.display()
        )));
    }
    set_spread(plan, op, &tree)?;
    Ok(tree)
}

fn is_symlink(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink())
}

/// Builds the root with all its mounts. Runs in the child. The umask is 0 until [`Root::finish`].
///
/// # Errors
/// The root cannot be mounted, or a mount or a node of /dev cannot be created; the message names it.
pub fn prepare(plan: &RootfsPlan, context: RootContext) -> Result<Root> {
    let RootContext { cgroup, empty_namespace, mut sources, pid_namespace, parent } = context;
    rustix::process::umask(Mode::empty());
    // Must precede the mounts, because /proc may be the image's afterwards.
    let proc = Proc::open().context("error opening /proc")?;
    let (dir, host_mounts) = pivot::attach_root(plan, empty_namespace, &proc)?;
    let mut root = Root { dir, proc, host_mounts, null: None, pid_namespace, cgroup, deferred_readonly: Vec::new() };
    for (index, op) in plan.mounts.iter().enumerate() {
        let source = Source { given: sources.remove(&index), index, parent };
        mounts::execute(&mut root, plan, op, source).with_context(|| mounts::describe(op))?;
    }
    if plan.setup_dev {
        dev::set_up(&root, plan).context("error setting up /dev")?;
    }
    if !plan.masked_paths.is_empty() {
        // Must happen while the host's /dev can still be reached: the container's own /dev could hold anything.
        root.null = mask::host_null(&root.host_mounts)?;
    }
    Ok(root)
}

/// Opens /dev/pts/ptmx below a container's root for reading and writing, with O_NOCTTY, after a check that the node
/// belongs to a devpts.
///
/// # Errors
/// The node is missing, or does not belong to a devpts.
pub fn open_ptmx(root: &Dir, proc: &Proc) -> Result<OwnedFd> {
    dev::open_ptmx(root, proc)
        .context("error opening /dev/pts/ptmx of the container (is a devpts mounted on /dev/pts?)")
}

impl Root {
    /// Mounts the terminal whose slave side is `slave` on /dev/console, by descriptor. Called between [`prepare`] and
    /// [`Root::enter`]. The terminal must come from a devpts of this mount namespace, such as the container's own: see
    /// [`open_ptmx`].
    ///
    /// # Errors
    /// `slave` is no terminal of a devpts, or it cannot be mounted.
    pub fn bind_console(&self, slave: impl AsFd) -> Result<()> {
        dev::bind_console(self, slave.as_fd()).context("error mounting the terminal on /dev/console")
    }

    /// Opens /dev/pts/ptmx below this root: see [`open_ptmx`].
    ///
    /// # Errors
    /// The node is missing, or does not belong to a devpts.
    #[cfg(feature = "internals")]
    pub fn open_ptmx(&self) -> Result<OwnedFd> {
        open_ptmx(&self.dir, &self.proc)
    }

    /// Makes this root the process's root and working directory; no path leads to the old root afterwards.
    ///
    /// # Errors
    /// The kernel refuses the change of the root (pivot_root(2)).
    pub fn enter(&self, plan: &RootfsPlan) -> Result<()> {
        let how = match plan.pivot {
            Pivot::Pivot => pivot::pivot(self, plan),
            Pivot::Move => pivot::move_root(self, plan),
            Pivot::Chroot => pivot::change_root(self),
        };
        how.context("error jailing process inside rootfs")
    }

    /// Applies the settings that need the new root: its propagation, read-only mounts, masked and read-only paths, in
    /// that order. Sets the umask to 0022.
    ///
    /// # Errors
    /// A path cannot be hidden or made read-only, or the root's propagation cannot be set; the message names the path.
    pub fn finish(&self, plan: &RootfsPlan) -> Result<()> {
        pivot::finish_root(self, plan)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        // Read-only paths precede masks: a path may be in both lists, and the mask must be on top.
        for path in &plan.readonly_paths {
            mask::make_readonly(self, path).with_context(|| format!("error making {path:?} read-only"))?;
        }
        mask::hide(self, plan)
    }
}

/// Calls mount(2), which takes paths alone, with descriptors: from the host's /proc as working directory, the relative
/// path of each descriptor leads to the very file, inside the new root and outside. Afterwards the working directory is
/// the root of this process.
fn by_path<T>(root: &Root, call: impl FnOnce(&dyn Fn(BorrowedFd<'_>) -> PathBuf) -> SysResult<T>) -> Result<T> {
    rustix::process::fchdir(root.proc.fd()).map_err(|e| SysError::new("fchdir", "/proc", e))?;
    let done = call(&|fd| PathBuf::from(format!("self/fd/{}", fd.as_raw_fd())));
    rustix::process::chdir("/").map_err(|e| SysError::new("chdir", "\"/\"", e))?;
    Ok(done?)
}

/// The error for a refused path.
fn refuse(path: &Path, reason: &str) -> Error {
    Error::other(format!("{path:?} {reason}"))
}

/// Searches [`MountOp::data`] for the option `name`.
fn has_option(op: &MountOp, name: &str) -> bool {
    op.data.iter().any(|(known, _)| known == name)
}
