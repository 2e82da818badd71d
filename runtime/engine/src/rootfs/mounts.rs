//! Executes the operations of a plan's mount list.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::{OpenSource, Root, by_path, cgroup, copy, has_option, refuse};
use crate::error::{Context, Error, Result};
use brig_plan::mounts::{MountKind, MountOp, PROC_FILES, RootfsPlan, RuntimeOptions, options};
use brig_sys::fd::{file_type, mount_id};
use brig_sys::mount::{self, Filesystem};
use brig_sys::path::Links;
use brig_sys::procfs::PROC_SUPER_MAGIC;
use brig_sys::{SysError, SysResult};

/// The flags of a bind mount that need a remount.
const NOT_A_BIND_FLAG: u64 = !(libc::MS_BIND | libc::MS_REC | libc::MS_REMOUNT | libc::MS_SILENT);

/// The name of an operation in errors, in runc's words.
pub(super) fn describe(op: &MountOp) -> String {
    let source = match &op.kind {
        MountKind::Bind { .. } => op.source.clone(),
        _ if !op.source.as_os_str().is_empty() => op.source.clone(),
        kind => PathBuf::from(kind_name(kind)),
    };
    format!("mounts[{}]: error mounting {source:?} to rootfs at {:?}", op.index, op.target)
}

/// The error for a bind mount's source that could not be opened.
pub(super) fn source_error(op: &MountOp, error: SysError) -> Error {
    if error.errno() == Errno::NOENT {
        let what = format!("mounts[{}].source: stat {}: no such file or directory", op.index, op.source.display());
        return Error::other(what).context(format!("error mounting {:?} to rootfs at {:?}", op.source, op.target));
    }
    Error::from(error).context(describe(op))
}

fn kind_name(kind: &MountKind) -> &str {
    match kind {
        MountKind::Bind { .. } => "bind",
        MountKind::Proc => "proc",
        MountKind::Sysfs => "sysfs",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Mqueue => "mqueue",
        MountKind::Cgroup => "cgroup",
        MountKind::Remount => "remount",
        MountKind::Other(name) => name,
    }
}

/// The source of a bind mount.
pub(super) struct Source<'a> {
    /// The detached copy that the parent has made, if it has.
    pub given: Option<OwnedFd>,
    /// Index of the mount in the plan, by which the parent knows it.
    pub index: usize,
    /// The parent, which can be asked for a copy.
    pub parent: Option<&'a dyn OpenSource>,
}

impl Source<'_> {
    /// A detached copy of the source. In a user namespace this process may be unable to reach the source, and may not map
    /// it: its parent does that.
    fn open(self, root: &Root, plan: &RootfsPlan, op: &MountOp, recursive: bool) -> Result<SysResult<OwnedFd>> {
        if let Some(tree) = self.given {
            return Ok(Ok(tree));
        }
        let parent = self.parent.filter(|_| plan.has_user_namespace());
        if let (Some(parent), true) = (parent, op.map.is_some()) {
            return parent.open_source(self.index).map(Ok);
        }
        let follow = !op.own.contains(RuntimeOptions::SOURCE_NOFOLLOW);
        match (root.host_mounts.copy(&op.source, recursive, follow), parent) {
            // EINVAL: mounts below the source, which are locked to it in the mount namespace of a user namespace.
            (Err(error), Some(parent))
                if error.errno() == Errno::ACCESS || error.errno() == Errno::INVAL && !recursive =>
            {
                parent.open_source(self.index).map(Ok)
            }
            (copy, _) => Ok(copy),
        }
    }
}

/// Executes one mount operation below `root`.
pub(super) fn execute(root: &mut Root, plan: &RootfsPlan, op: &MountOp, source: Source<'_>) -> Result<()> {
    let mounted = match &op.kind {
        MountKind::Bind { .. } => match bind(root, plan, op, source)? {
            Some(mounted) => mounted,
            None => return Ok(()),
        },
        MountKind::Proc | MountKind::Sysfs => {
            let kind = kind_name(&op.kind);
            // CVE-2023-27561: through a symlink, procfs would be mounted where masks and labels are not applied.
            let target = root.dir.mkdir_all(&op.target, 0o755, Links::Refuse).map_err(|error| match error.errno() {
                Errno::LOOP | Errno::NOTDIR => {
                    Error::other(format!("filesystem {kind:?} must be mounted on ordinary directory: {error}"))
                }
                _ => error.into(),
            })?;
            let fs = filesystem(op, kind, op.flags);
            let fs = match &root.pid_namespace {
                Some(namespace) if op.kind == MountKind::Proc => fs.descriptor("pidns", namespace.as_fd()),
                _ => fs,
            };
            mount_at(root, &fs, op, op.flags, target)?
        }
        MountKind::Tmpfs => tmpfs(root, plan, op)?,
        MountKind::Mqueue => mqueue(root, plan, op)?,
        MountKind::Cgroup => cgroup::mount(root, plan, op)?,
        MountKind::Remount => return remount(root, op),
        MountKind::Other(kind) => {
            let target = directory(root, op)?;
            let fs = labelled(filesystem(op, kind, op.flags), plan);
            mount_at(root, &fs, op, op.flags, target)?
        }
    };
    let is_tmpfs = op.kind == MountKind::Tmpfs;
    let whole_tree = op.recursive.map(|(set, clear)| (if is_tmpfs { set & !mount::ATTR_RDONLY } else { set }, clear));
    if let (Some((set, clear)), false) = (whole_tree, matches!(op.kind, MountKind::Bind { .. })) {
        mount::set_attributes(&mounted, set, clear, 0, true)?;
    }
    for &flags in &op.propagation {
        mount::set_propagation(&mounted, flags)?;
    }
    let readonly = op.flags & libc::MS_RDONLY != 0 || whole_tree != op.recursive;
    if is_tmpfs && readonly {
        root.deferred_readonly.push(mounted);
    }
    Ok(())
}

/// Opens the target as a directory, creates it if it is missing, and checks that a mount is allowed there.
pub(super) fn directory(root: &Root, op: &MountOp) -> Result<OwnedFd> {
    let target = root.dir.mkdir_all(&op.target, 0o755, links(op))?;
    check_target(root, op, &target)?;
    Ok(target)
}

fn links(op: &MountOp) -> Links {
    if op.own.contains(RuntimeOptions::TARGET_NOFOLLOW) { Links::NotLast } else { Links::Follow }
}

/// Refuses a target to which a symlink of the image may have led: the root, and procfs except for the files that lxcfs
/// emulates.
fn check_target(root: &Root, op: &MountOp, target: &OwnedFd) -> Result<()> {
    root.refuse_root(&op.target, target)?;
    let fs = rustix::fs::fstatfs(target).map_err(|e| SysError::new("fstatfs", "", e))?;
    if brig_sys::fd::magic(&fs) != PROC_SUPER_MAGIC || op.target == Path::new("/proc") {
        return Ok(());
    }
    let place = |fd: &dyn std::os::fd::AsRawFd| root.proc.read_link(format!("self/fd/{}", fd.as_raw_fd()));
    let inside = place(target)?;
    let base = place(&root.fd())?;
    let below = inside.strip_prefix(&base).map(|below| Path::new("/").join(below)).unwrap_or(inside);
    if PROC_FILES.iter().any(|file| below == Path::new(file)) {
        return Ok(());
    }
    Err(refuse(&below, "cannot be mounted because it is inside /proc"))
}

/// The operation's file system with the operation's options.
pub(super) fn filesystem<'a>(op: &'a MountOp, kind: &'a str, flags: u64) -> Filesystem<'a> {
    // /dev becomes read-only at the end, because its nodes must be created first.
    let fs = Filesystem::new(kind).source(op.source.as_os_str()).flags(writable_dev(op, flags));
    op.data.iter().fold(fs, |fs, (name, value)| fs.parameter(name.as_str(), value.as_deref().map(Cow::from)))
}

fn writable_dev(op: &MountOp, flags: u64) -> u64 {
    if op.target == Path::new("/dev") { flags & !libc::MS_RDONLY } else { flags }
}

/// Adds linux.mountLabel.
pub(super) fn labelled<'a>(fs: Filesystem<'a>, plan: &'a RootfsPlan) -> Filesystem<'a> {
    match &plan.mount_label {
        Some(label) => fs.parameter(label.option.as_str(), Some(label.label.as_str().into())),
        None => fs,
    }
}

/// Mounts `fs` on `target` and returns the new mount's root.
pub(super) fn mount_at(root: &Root, fs: &Filesystem<'_>, op: &MountOp, flags: u64, target: OwnedFd) -> Result<OwnedFd> {
    let flags = writable_dev(op, flags);
    if fs.fits_fsconfig() {
        match fs.mount(mount::attributes(flags)) {
            Ok(mounted) => {
                mount::attach(&mounted, &target)?;
                return Ok(mounted);
            }
            Err(error) if mount::is_missing(&error) => {}
            Err(error) => return Err(explain(op, error)),
        }
    }
    by_path(root, |path| fs.mount_legacy(&path(target.as_fd()), flags))?;
    reopen_mounted(root, op, &target)
}

/// Adds the field and a hint to a file system's error, where the cause is known.
fn explain(op: &MountOp, error: SysError) -> Error {
    let kind = kind_name(&op.kind);
    if error.call() == "fsopen" && error.errno() == Errno::NODEV {
        let hint =
            "correct the name, or load the kernel's module for it (/proc/filesystems lists those that are there)";
        let what = format!("mounts[{}].type: this kernel knows no file system {kind:?}; {hint}", op.index);
        return Error::from(error).context(what);
    }
    if error.call() == "fsconfig" && error.errno() == Errno::INVAL {
        let text = error.to_string();
        let is_meant = |name: &str| text.contains(&format!("\"{name}")) || text.contains("; given: ");
        let similar = |(name, _): &(String, Option<String>)| {
            is_meant(name).then(|| Some((name.clone(), options::similar(name)?))).flatten()
        };
        if let Some((name, known)) = op.data.iter().find_map(similar) {
            let what =
                format!("mounts[{}].options: {name:?} is no option of {kind}; did you mean {known:?}?", op.index);
            return Error::from(error).context(what);
        }
    }
    error.into()
}

/// Looks the target up again after mount(2), which returns no descriptor, and checks that a mount is found there.
fn reopen_mounted(root: &Root, op: &MountOp, below: &OwnedFd) -> Result<OwnedFd> {
    let mounted = root.dir.open(&op.target, rustix::fs::OFlags::PATH, links(op))?;
    match (mount_id(&mounted), mount_id(below)) {
        (Some(new), Some(old)) if new == old => Err(refuse(&op.target, "was changed while it was mounted on")),
        _ => Ok(mounted),
    }
}

/// Mounts a tmpfs. It stays writable until [`Root::finish`]: targets of later mounts, tmpcopyup's files and the working
/// directory may have to be created in it.
fn tmpfs(root: &Root, plan: &RootfsPlan, op: &MountOp) -> Result<OwnedFd> {
    let flags = op.flags & !libc::MS_RDONLY;
    let mut fs = labelled(filesystem(op, "tmpfs", flags), plan);
    let mut found = None;
    if !has_option(op, "mode") {
        // Must precede the creation of a directory, because only a directory of the image has a mode to preserve.
        if let Some(existing) = root.dir.try_find(&op.target, links(op))? {
            let stat = rustix::fs::fstat(&existing).map_err(|e| SysError::new("fstat", "", e))?;
            fs = fs.parameter("mode", Some(format!("{:04o}", stat.st_mode & 0o7777).into()));
            found = (FileType::from_raw_mode(stat.st_mode) == FileType::Directory).then_some(existing);
        }
    }
    let target = match found {
        Some(found) => {
            check_target(root, op, &found)?;
            found
        }
        // Also reports a target that is no directory.
        None => directory(root, op)?,
    };
    if !op.own.contains(RuntimeOptions::COPY_UP) {
        return mount_at(root, &fs, op, flags, target);
    }
    let from = rustix::fs::openat(
        &target,
        ".",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .map_err(|e| SysError::new("openat", format!("{:?}", op.target), e))?;
    // On new kernels the copy is complete before any process can reach the mount.
    let mounted = if fs.fits_fsconfig() { fs.mount(mount::attributes(flags)).map(Some) } else { Ok(None) };
    match mounted {
        Ok(Some(mounted)) => {
            copy_up(op, &from, &mounted)?;
            mount::attach(&mounted, &target)?;
            Ok(mounted)
        }
        Err(error) if !mount::is_missing(&error) => Err(explain(op, error)),
        _ => {
            let mounted = mount_at(root, &fs, op, flags, target)?;
            copy_up(op, &from, &mounted)?;
            Ok(mounted)
        }
    }
}

fn copy_up(op: &MountOp, from: &OwnedFd, mounted: &OwnedFd) -> Result<()> {
    let top = copy::TopOptions { uid: has_option(op, "uid"), gid: has_option(op, "gid") };
    copy::tree(from, mounted, top).context("tmpcopyup")
}

/// Makes an attached mount read-only and preserves its other flags.
pub(super) fn make_readonly(root: &Root, mounted: impl AsFd) -> Result<()> {
    match mount::set_attributes(mounted.as_fd(), mount::ATTR_RDONLY, 0, 0, false) {
        Err(error) if mount::is_missing(&error) => {
            let fs = rustix::fs::fstatvfs(mounted.as_fd()).map_err(|e| SysError::new("fstatfs", "", e))?;
            // ST_NOSUID, ST_NODEV, ST_NOEXEC, ST_NOATIME and ST_NODIRATIME have the values of their MS_ flags.
            let kept = fs.f_flag.bits()
                & (libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOATIME | libc::MS_NODIRATIME);
            let mounted = mounted.as_fd();
            by_path(root, |path| mount::remount_bind_legacy(mounted, &path(mounted), kept | libc::MS_RDONLY, 0))
        }
        other => Ok(other?),
    }
}

fn mqueue(root: &Root, plan: &RootfsPlan, op: &MountOp) -> Result<OwnedFd> {
    let target = directory(root, op)?;
    let plain = filesystem(op, "mqueue", op.flags);
    if plan.mount_label.is_none() {
        return mount_at(root, &plain, op, op.flags, target);
    }
    // Older kernels accept no label for mqueue.
    let again = target.try_clone().context("error duplicating a descriptor")?;
    mount_at(root, &labelled(plain.clone(), plan), op, op.flags, target)
        .or_else(|_| mount_at(root, &plain, op, op.flags, again))
}

/// Changes the options of the mount at the target.
fn remount(root: &Root, op: &MountOp) -> Result<()> {
    let target = root.dir.open(&op.target, rustix::fs::OFlags::PATH, links(op))?;
    root.refuse_root(&op.target, &target)?;
    by_path(root, |path| filesystem(op, "none", op.flags).mount_legacy(&path(target.as_fd()), op.flags))?;
    for &flags in &op.propagation {
        mount::set_propagation(&target, flags)?;
    }
    Ok(())
}

/// Binds the operation's source. Returns `None` for a symlink that was copied instead.
fn bind(root: &Root, plan: &RootfsPlan, op: &MountOp, source: Source<'_>) -> Result<Option<OwnedFd>> {
    let recursive = matches!(op.kind, MountKind::Bind { recursive: true });
    if op.own.contains(RuntimeOptions::COPY_SYMLINK) && copy_symlink(root, op)? {
        return Ok(None);
    }
    let tree = match source.open(root, plan, op, recursive)? {
        Ok(tree) => tree,
        Err(error) if mount::is_missing(&error) && !op.own.contains(RuntimeOptions::SOURCE_NOFOLLOW) => {
            return bind_legacy(root, op, recursive).map(Some);
        }
        Err(error) if error.errno() == Errno::NOENT => return Err(source_missing(op)),
        Err(error) => return Err(error.into()),
    };
    check_proc_source(op, &tree)?;
    let target = bind_target(root, op, file_type(&tree)? == FileType::Directory)?;
    let mut late = false;
    if op.flags & NOT_A_BIND_FLAG != 0 || op.cleared != 0 {
        match mount::remount_bind(&tree, op.flags, op.cleared) {
            Err(error) if mount::is_missing(&error) => late = true,
            other => other?,
        }
    }
    if let Some((set, clear)) = op.recursive {
        mount::set_attributes(&tree, set, clear, 0, true)?;
    }
    mount::attach(&tree, &target)?;
    if late {
        by_path(root, |path| mount::remount_bind_legacy(&tree, &path(tree.as_fd()), op.flags, op.cleared))?;
    }
    Ok(Some(tree))
}

fn source_missing(op: &MountOp) -> Error {
    Error::other(format!("mounts[{}].source: stat {}: no such file or directory", op.index, op.source.display()))
}

/// Refuses any other file system than procfs as a bind mount over /proc.
fn check_proc_source(op: &MountOp, tree: &OwnedFd) -> Result<()> {
    if op.target != Path::new("/proc") {
        return Ok(());
    }
    let fs = rustix::fs::fstatfs(tree).map_err(|e| SysError::new("fstatfs", "", e))?;
    if brig_sys::fd::magic(&fs) == PROC_SUPER_MAGIC {
        return Ok(());
    }
    Err(refuse(&op.target, "cannot be mounted because it is not of type proc"))
}

fn bind_target(root: &Root, op: &MountOp, is_directory: bool) -> Result<OwnedFd> {
    if is_directory {
        return directory(root, op);
    }
    let target = root.dir.make_file(&op.target, 0o755, links(op))?;
    check_target(root, op, &target)?;
    if file_type(&target)? == FileType::Directory {
        // Managers match on the last three words.
        let what = format!("{:?} is a directory in the container, and the source {:?} is", op.target, op.source);
        return Err(Error::other(format!("mounts[{}].destination: {what} not a directory", op.index)));
    }
    Ok(target)
}

/// Performs [`bind`] on kernels without open_tree(2).
fn bind_legacy(root: &Root, op: &MountOp, recursive: bool) -> Result<OwnedFd> {
    let source = rustix::fs::stat(&op.source).map_err(|e| match e {
        rustix::io::Errno::NOENT => source_missing(op),
        e => SysError::new("stat", format!("{:?}", op.source), e).into(),
    })?;
    let target = bind_target(root, op, FileType::from_raw_mode(source.st_mode) == FileType::Directory)?;
    let flags = libc::MS_BIND | if recursive { libc::MS_REC } else { 0 };
    by_path(root, |path| mount::mount_raw(Some(op.source.as_os_str()), &path(target.as_fd()), None, flags, None))?;
    let mounted = reopen_mounted(root, op, &target)?;
    check_proc_source(op, &mounted)?;
    if op.flags & NOT_A_BIND_FLAG != 0 || op.cleared != 0 {
        by_path(root, |path| mount::remount_bind_legacy(&mounted, &path(mounted.as_fd()), op.flags, op.cleared))?;
    }
    if let Some((set, clear)) = op.recursive {
        mount::set_attributes(&mounted, set, clear, 0, true)?;
    }
    Ok(mounted)
}

/// Creates a copy of the source symlink, for copy-symlink. Returns false if the source is no symlink.
fn copy_symlink(root: &Root, op: &MountOp) -> Result<bool> {
    let unable = |call| move |e| SysError::new(call, format!("{:?}", op.source), e);
    let read = || {
        let stat = rustix::fs::lstat(&op.source).map_err(unable("lstat"))?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        is_link.then(|| rustix::fs::readlink(&op.source, Vec::new()).map_err(unable("readlink"))).transpose()
    };
    let link = match root.host_mounts.run_on_host(read) {
        Ok(Some(link)) => link,
        Ok(None) => return Ok(false),
        Err(error) if error.errno() == Errno::NOENT => return Err(source_missing(op)),
        Err(error) => return Err(error.into()),
    };
    let (parent, name) = root.dir.parent(&op.target)?;
    symlink(&parent, &name, &link, &op.target)?;
    Ok(true)
}

/// Creates a symlink; accepts an existing one with the same target.
fn symlink(parent: &OwnedFd, name: &std::ffi::OsStr, link: &std::ffi::CStr, shown: &Path) -> SysResult<()> {
    match rustix::fs::symlinkat(link, parent, name) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::EXIST) if is_same_link(parent, name, link) => Ok(()),
        Err(e) => Err(SysError::new("symlinkat", format!("{link:?}, {shown:?}"), e)),
    }
}

fn is_same_link(parent: &OwnedFd, name: &std::ffi::OsStr, link: &std::ffi::CStr) -> bool {
    let is_link = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
    is_link && rustix::fs::readlinkat(parent, name, Vec::new()).is_ok_and(|there| there.as_c_str() == link)
}
