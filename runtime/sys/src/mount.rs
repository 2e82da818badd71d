//! Mounts by descriptor: open_tree, move_mount, fsopen, mount_setattr, and mount(2) where a kernel lacks them.
//!
//! A mount is made detached, gets its attributes, and is then moved onto an O_PATH descriptor that [`super::path`]
//! found, so that no path is looked up twice. Messages of a file system about its options (from the fsopen context)
//! become part of the error.
//!
//! | call | since | without it |
//! |---|---|---|
//! | open_tree, move_mount, fsopen, fsconfig, fsmount | 5.2 | mount(2) on /proc/self/fd/N |
//! | mount_setattr | 5.12 | mount(2) with MS_REMOUNT, after the mount is attached; recursive attributes fail |

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::mount_attr;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::{SysError, SysResult};

mod mountinfo;

pub use mountinfo::{MountInfo, parse_mountinfo};

// The mask ATTR_ATIME covers RELATIME, NOATIME and STRICTATIME, which are values of one field.
pub use libc::{
    MOUNT_ATTR__ATIME as ATTR_ATIME, MOUNT_ATTR_NOATIME as ATTR_NOATIME, MOUNT_ATTR_NODEV as ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME as ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC as ATTR_NOEXEC, MOUNT_ATTR_NOSUID as ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW as ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY as ATTR_RDONLY, MOUNT_ATTR_RELATIME as ATTR_RELATIME,
    MOUNT_ATTR_STRICTATIME as ATTR_STRICTATIME, MS_LAZYTIME, MS_NOSYMFOLLOW,
};

/// Longest value that fsconfig takes with FSCONFIG_SET_STRING, without its NUL (fs/fsopen.c).
const FSCONFIG_VALUE_MAX: usize = 255;

/// Pairs of an MS_ flag and the attribute of a mount that it sets.
const ATTRIBUTES: [(u64, u64); 6] = [
    (libc::MS_RDONLY, ATTR_RDONLY),
    (libc::MS_NOSUID, ATTR_NOSUID),
    (libc::MS_NODEV, ATTR_NODEV),
    (libc::MS_NOEXEC, ATTR_NOEXEC),
    (libc::MS_NODIRATIME, ATTR_NODIRATIME),
    (MS_NOSYMFOLLOW, ATTR_NOSYMFOLLOW),
];

/// Flags of mount(2) that belong to the super block, with the names that fsconfig has for them (fs/fs_context.c).
const SUPER_FLAGS: [(u64, &str); 5] = [
    (libc::MS_RDONLY, "ro"),
    (libc::MS_SYNCHRONOUS, "sync"),
    (libc::MS_DIRSYNC, "dirsync"),
    (libc::MS_MANDLOCK, "mand"),
    (MS_LAZYTIME, "lazytime"),
];

const ATIME_FLAGS: u64 = libc::MS_NOATIME | libc::MS_NODIRATIME | libc::MS_RELATIME | libc::MS_STRICTATIME;

/// The attributes that flags of mount(2) give a new mount: relatime where no flag concerns access times.
pub fn attributes(flags: u64) -> u64 {
    let plain = ATTRIBUTES.iter().filter(|(flag, _)| flags & flag != 0).fold(0, |set, (_, attribute)| set | attribute);
    plain | atime(flags)
}

fn atime(flags: u64) -> u64 {
    if flags & libc::MS_NOATIME != 0 {
        ATTR_NOATIME
    } else if flags & libc::MS_STRICTATIME != 0 {
        ATTR_STRICTATIME
    } else {
        ATTR_RELATIME
    }
}

/// Sets and clears attributes of the mount whose root is `mount`, and of all mounts below it when `recursive`.
/// `propagation` is one of MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, or 0 to leave it.
///
/// # Errors
/// ENOSYS before Linux 5.12; EINVAL for attributes that the kernel does not know, or a descriptor that is no mount's
/// root; EPERM without CAP_SYS_ADMIN over the mount, or for a locked attribute.
pub fn set_attributes(mount: impl AsFd, set: u64, clear: u64, propagation: u64, recursive: bool) -> SysResult<()> {
    set_attr(mount.as_fd(), &mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 }, recursive)
}

fn set_attr(fd: BorrowedFd<'_>, attr: &mount_attr, recursive: bool) -> SysResult<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the kernel reads an empty path and size_of::<mount_attr>() bytes of `attr`, which is laid out as the
    // kernel's struct; both are borrowed for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<mount_attr>(),
        )
    };
    if result == 0 {
        return Ok(());
    }
    let depth = if recursive { ", AT_RECURSIVE" } else { "" };
    let mount_attr { attr_set, attr_clr, propagation, .. } = attr;
    let shown = format!("set={attr_set:#x}, clear={attr_clr:#x}, propagation={propagation:#x}{depth}");
    Err(SysError::last("mount_setattr", shown))
}

/// Makes the detached mount `mount`, and all mounts below it when `recursive`, show files' owners as `userns` maps them
/// (MOUNT_ATTR_IDMAP, Linux 5.12; mount_setattr(2), "ID-mapped mounts").
///
/// # Errors
/// EINVAL for a file system without idmapped mounts, or a mount that is attached; EPERM for a mount that is idmapped
/// already, or the initial user namespace; ENOSYS before Linux 5.12.
pub fn set_idmap(mount: impl AsFd, userns: impl AsFd, recursive: bool) -> SysResult<()> {
    let attr = mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        // A borrowed descriptor is never negative.
        userns_fd: userns.as_fd().as_raw_fd().unsigned_abs().into(),
    };
    set_attr(mount.as_fd(), &attr, recursive)
}

/// Changes the propagation of the mount whose root is `mount`: `flags` is a propagation type of mount(2), with MS_REC
/// for the whole tree.
///
/// # Errors
/// EINVAL for more than one type, or a descriptor that is no mount's root; EPERM without CAP_SYS_ADMIN over the mount.
pub fn set_propagation(mount: impl AsFd, flags: u64) -> SysResult<()> {
    let recursive = flags & libc::MS_REC != 0;
    let kind = flags & (libc::MS_SHARED | libc::MS_SLAVE | libc::MS_PRIVATE | libc::MS_UNBINDABLE);
    match set_attributes(mount.as_fd(), 0, 0, kind, recursive) {
        Err(error) if error.errno() == Errno::NOSYS => mount_raw(None, &super::fd::fd_path(mount), None, flags, None),
        other => other,
    }
}

/// Gives the bind mount `mount` exactly the flags of mount(2)'s `flags`, as a remount does (mount(2), "Remounting a
/// bind mount"): others are cleared, and flags of access times stay unless one of them is given.
///
/// In a user namespace, flags of the original mount may be locked (mount_namespaces(7)). Locked flags stay, except that
/// a locked flag in `cleared`, which the caller clears by name, is an error (EPERM).
///
/// # Errors
/// EPERM for a locked flag in `cleared`; ENOSYS before Linux 5.12, where [`remount_bind_legacy`] takes its place.
pub fn remount_bind(mount: impl AsFd, flags: u64, cleared: u64) -> SysResult<()> {
    let set = ATTRIBUTES.iter().filter(|(f, _)| flags & f != 0).fold(0, |set, (_, a)| set | a);
    let wanted = ATTRIBUTES.iter().filter(|(f, _)| cleared & f != 0).fold(0, |set, (_, a)| set | a);
    let (time_set, time_mask) = match (flags | cleared) & ATIME_FLAGS & !libc::MS_NODIRATIME {
        0 => (0, 0),
        _ => (atime(flags), ATTR_ATIME),
    };
    let keep = if (flags | cleared) & ATIME_FLAGS == 0 { ATTR_NODIRATIME } else { 0 };
    let all = ATTRIBUTES.iter().fold(0, |all, (_, a)| all | a) & !keep;
    let change = |clear: u64| {
        let clear = (clear & !set) | time_mask;
        match set_attributes(mount.as_fd(), set | time_set, clear, 0, false) {
            // Linux 5.12 and 5.13 have mount_setattr and no such attribute: no mount there has it.
            Err(error) if error.errno() == Errno::INVAL && clear & ATTR_NOSYMFOLLOW != 0 => {
                set_attributes(mount.as_fd(), set | time_set, clear & !ATTR_NOSYMFOLLOW, 0, false)
            }
            other => other,
        }
    };
    match change(all) {
        Err(error) if error.errno() == Errno::PERM => {
            // The low bits of ST_ flags and of attributes are equal (statfs(2), mount_setattr(2)).
            let fs = rustix::fs::fstatvfs(mount.as_fd()).map_err(|e| SysError::new("fstatfs", "", e))?;
            let lockable = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
            let locked = fs.f_flag.bits() & lockable & !wanted;
            change(all & !locked)
        }
        other => other,
    }
}

/// [`remount_bind`] by mount(2), for kernels without mount_setattr. `mount` must be attached; `path` leads to it.
///
/// # Errors
/// EPERM for a locked flag in `cleared`; EINVAL when `path` leads to no mount point.
pub fn remount_bind_legacy(mount: impl AsFd, path: &Path, flags: u64, cleared: u64) -> SysResult<()> {
    let plain = flags & (ATTRIBUTES.iter().fold(0, |all, (f, _)| all | f) | ATIME_FLAGS);
    match mount_raw(None, path, None, plain | libc::MS_REMOUNT | libc::MS_BIND, None) {
        Err(error) if error.errno() == Errno::PERM => {
            // The low bits of ST_ and MS_ flags are equal except for relatime (statfs(2)).
            let fs = rustix::fs::fstatvfs(mount.as_fd()).map_err(|e| SysError::new("fstatfs", "", e))?;
            let present = fs.f_flag.bits();
            let same = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let time = libc::MS_NOATIME | libc::MS_NODIRATIME;
            let relatime = if present & 0x1000 != 0 { libc::MS_RELATIME } else { 0 };
            let kept = (present & (same | time) & !cleared) | relatime;
            mount_raw(None, path, None, plain | kept | libc::MS_REMOUNT | libc::MS_BIND, None)
        }
        other => other,
    }
}

/// A detached copy of the mount at `path` below `dir`, and of the mounts below it when `recursive`.
///
/// # Errors
/// ENOENT for a path that does not exist; EINVAL for an unbindable mount, or one of another mount namespace; EPERM
/// without CAP_SYS_ADMIN; ENOSYS before Linux 5.2.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, recursive: bool, follow: bool) -> SysResult<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_SYMLINK_NOFOLLOW, !follow);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    rustix::mount::open_tree(dir, path, flags)
        .map_err(|e| SysError::new("open_tree", format!("{path:?}, {flags:?}"), e))
}

/// [`clone_tree`] of a path of the host.
///
/// # Errors
/// As for [`clone_tree`].
pub fn clone_host_tree(path: &Path, recursive: bool, follow: bool) -> SysResult<OwnedFd> {
    clone_tree(CWD, path, recursive, follow)
}

/// [`clone_tree`] of an open file or directory.
///
/// # Errors
/// As for [`clone_tree`].
pub fn clone_fd_tree(fd: impl AsFd, recursive: bool) -> SysResult<OwnedFd> {
    clone_tree(fd.as_fd(), Path::new(""), recursive, true)
}

/// Moves the mount `mount` onto the file or directory `target`.
///
/// # Errors
/// EINVAL for a mount that is not detached and shares its parent's propagation, ENOTDIR for a directory on a file or
/// the reverse, ELOOP for a mount onto itself, ENOSYS before Linux 5.2.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> SysResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, "", target, "", flags).map_err(|e| SysError::new("move_mount", "", e))
}

/// Moves the mount `mount` onto a path of the host, whose symlinks are followed.
///
/// # Errors
/// ENOENT for a path that does not exist; else as for [`attach`].
pub fn attach_host(mount: impl AsFd, path: &Path) -> SysResult<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    rustix::mount::move_mount(mount, "", CWD, path, flags)
        .map_err(|e| SysError::new("move_mount", format!("{path:?}"), e))
}

/// A new instance of a file system, before it is mounted.
#[derive(Clone, Debug)]
pub struct Filesystem<'a> {
    kind: &'a str,
    source: Option<&'a OsStr>,
    flags: u64,
    parameters: Vec<(Cow<'a, str>, Option<Cow<'a, str>>)>,
    descriptor: Option<(&'a str, BorrowedFd<'a>)>,
}

impl<'a> Filesystem<'a> {
    /// A new instance of the type `kind`, a name in /proc/filesystems.
    pub fn new(kind: &'a str) -> Filesystem<'a> {
        Filesystem { kind, source: None, flags: 0, parameters: Vec::new(), descriptor: None }
    }

    /// Sets the source of the mount, which /proc/PID/mountinfo shows.
    pub fn source(mut self, source: &'a OsStr) -> Filesystem<'a> {
        self.source = (!source.is_empty()).then_some(source);
        self
    }

    /// Sets MS_ flags, of which those of the super block are used (ro, sync, dirsync, mand, lazytime).
    pub fn flags(mut self, flags: u64) -> Filesystem<'a> {
        self.flags = flags;
        self
    }

    /// Adds a parameter, `name=value` or a bare `name`.
    pub fn parameter(mut self, name: impl Into<Cow<'a, str>>, value: Option<Cow<'a, str>>) -> Filesystem<'a> {
        self.parameters.push((name.into(), value));
        self
    }

    /// Sets the parameter `name` to an open file (FSCONFIG_SET_FD).
    pub fn descriptor(mut self, name: &'a str, file: BorrowedFd<'a>) -> Filesystem<'a> {
        self.descriptor = Some((name, file));
        self
    }

    /// Checks the parameters with the kernel, without making an instance.
    ///
    /// # Errors
    /// EINVAL for a parameter that this kernel does not know; ENOSYS without fsopen.
    pub fn check_parameters(&self) -> SysResult<()> {
        self.context().map(drop)
    }

    /// Whether fsconfig can express the parameters: every value is short enough, and MS_I_VERSION is not set.
    pub fn fits_fsconfig(&self) -> bool {
        let long = |value: &Cow<'_, str>| value.len() > FSCONFIG_VALUE_MAX;
        self.flags & libc::MS_I_VERSION == 0
            && !self.parameters.iter().any(|(_, value)| value.as_ref().is_some_and(long))
            && self.source.is_none_or(|source| source.len() <= FSCONFIG_VALUE_MAX)
    }

    /// A context that has the parameters (fsopen(2)).
    fn context(&self) -> SysResult<OwnedFd> {
        let context = rustix::mount::fsopen(self.kind, FsOpenFlags::FSOPEN_CLOEXEC)
            .map_err(|e| SysError::new("fsopen", format!("{:?}", self.kind), e))?;
        let failed = |key: &str, value: &str, e| {
            let shown = if value.is_empty() { key.to_owned() } else { format!("{key}={value}") };
            SysError::new("fsconfig", format!("{}, {shown:?}{}", self.kind, messages(&context)), e)
        };
        if let Some(source) = self.source {
            rustix::mount::fsconfig_set_string(&context, "source", source)
                .map_err(|e| failed("source", &source.to_string_lossy(), e))?;
        }
        for (_, name) in SUPER_FLAGS.iter().filter(|(flag, _)| self.flags & flag != 0) {
            rustix::mount::fsconfig_set_flag(&context, *name).map_err(|e| failed(name, "", e))?;
        }
        for (name, value) in &self.parameters {
            match value {
                Some(value) => rustix::mount::fsconfig_set_string(&context, name.as_ref(), value.as_ref()),
                None => rustix::mount::fsconfig_set_flag(&context, name.as_ref()),
            }
            .map_err(|e| failed(name, value.as_deref().unwrap_or(""), e))?;
        }
        if let Some((name, file)) = self.descriptor {
            rustix::mount::fsconfig_set_fd(&context, name, file).map_err(|e| failed(name, "", e))?;
        }
        Ok(context)
    }

    /// Makes the instance and a detached mount with the given attributes (ATTR_).
    ///
    /// # Errors
    /// ENODEV for a file system that the kernel lacks, EINVAL for a parameter or an attribute that it refuses, EPERM
    /// without the privilege to mount it, ENOSYS before Linux 5.2. The message has what the file system said.
    pub fn mount(&self, attributes: u64) -> SysResult<OwnedFd> {
        let context = self.context()?;
        rustix::mount::fsconfig_create(&context).map_err(|e| {
            // File systems of the old interface give no message, so that the error lists all options.
            let said = Some(messages(&context)).filter(|said| !said.is_empty());
            let given = || format!("; given: {:?}", self.data());
            SysError::new("fsconfig", format!("{}, \"create\"{}", self.kind, said.unwrap_or_else(given)), e)
        })?;
        let failed = |e| SysError::new("fsmount", format!("{}{}", self.kind, messages(&context)), e);
        // fsmount(2) takes 32 bits of attributes, and refuses those that it does not know.
        let bits = u32::try_from(attributes).map_err(|_| failed(rustix::io::Errno::INVAL))?;
        let attributes = MountAttrFlags::from_bits_retain(bits);
        rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
    }

    /// The parameters in the form of mount(2)'s data.
    fn data(&self) -> String {
        let mut data = String::new();
        for (name, value) in &self.parameters {
            if !data.is_empty() {
                data.push(',');
            }
            data.push_str(name);
            if let Some(value) = value {
                data.push('=');
                // Only SELinux contexts are quoted: the kernel strips quotes from those (security/selinux/hooks.c).
                let quote = if name.ends_with("context") { "\"" } else { "" };
                data.extend([quote, value, quote]);
            }
        }
        data
    }

    /// Mounts the instance on `target` by mount(2), which uses all of `flags`.
    ///
    /// # Errors
    /// ENOSYS for an instance with a [descriptor](Filesystem::descriptor), which mount(2) cannot take; else as
    /// mount(2).
    pub fn mount_legacy(&self, target: &Path, flags: u64) -> SysResult<()> {
        if let Some((name, _)) = self.descriptor {
            return Err(SysError::new("mount", format!("{}, {name:?}: takes fsconfig(2)", self.kind), Errno::NOSYS));
        }
        let data = self.data();
        let data = (!data.is_empty()).then_some(data);
        mount_raw(self.source, target, Some(self.kind), flags | self.flags, data.as_deref())
    }
}

/// The messages of an fsopen context, as `; kernel: "..."`. Each begins with a letter for its level.
fn messages(context: &OwnedFd) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0_u8; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        if length == 0 {
            break;
        }
        let text = String::from_utf8_lossy(&buffer[..length]);
        lines.push(text.trim_end().trim_start_matches(['e', 'w', 'i']).trim_start().to_owned());
    }
    if lines.is_empty() { String::new() } else { format!("; kernel: {:?}", lines.join("; ")) }
}

/// Calls mount(2) with paths and flags as they are.
///
/// # Errors
/// EINVAL for a text with a NUL byte; else as mount(2).
pub fn mount_raw(
    source: Option<&OsStr>,
    target: &Path,
    kind: Option<&str>,
    flags: u64,
    data: Option<&str>,
) -> SysResult<()> {
    let shown = || format!("{source:?}, {target:?}, {kind:?}, {flags:#x}, {data:?}");
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| SysError::new("mount", shown(), Errno::INVAL));
    let source_text = source.map(|s| text(s.as_bytes())).transpose()?;
    let target_text = text(target.as_os_str().as_bytes())?;
    let kind_text = kind.map(|k| text(k.as_bytes())).transpose()?;
    let data_text = data.map(|d| text(d.as_bytes())).transpose()?;
    let pointer = |text: &Option<CString>| text.as_ref().map_or(std::ptr::null(), |t| t.as_ptr());
    // SAFETY: every pointer comes from a CString that lives to the end of this function, or is null, which mount(2)
    // allows for all arguments but the target.
    let result = unsafe {
        libc::mount(pointer(&source_text), target_text.as_ptr(), pointer(&kind_text), flags, pointer(&data_text).cast())
    };
    if result == 0 { Ok(()) } else { Err(SysError::last("mount", shown())) }
}

/// Detaches the mount at `path` (MNT_DETACH): the kernel frees it after its last use.
///
/// # Errors
/// EINVAL when `path` is no mount point, ENOENT when it does not exist, EPERM without CAP_SYS_ADMIN.
pub fn detach(path: &Path) -> SysResult<()> {
    rustix::mount::unmount(path, UnmountFlags::DETACH)
        .map_err(|e| SysError::new("umount2", format!("{path:?}, MNT_DETACH"), e))
}

/// Makes the working directory, which is the root of a mount, the root of this mount namespace. The old root is then
/// mounted on top of it, where [`detach`] of "." removes it (pivot_root(2), `pivot_root(".", ".")`).
///
/// # Errors
/// EINVAL when the working directory is no mount point, or a mount above it is shared; EPERM without CAP_SYS_ADMIN.
pub fn pivot_here() -> SysResult<()> {
    rustix::process::pivot_root(".", ".").map_err(|e| SysError::new("pivot_root", "\".\", \".\"", e))
}

/// Whether an error of the new mount calls means that this kernel lacks them.
pub fn is_missing(error: &SysError) -> bool {
    error.errno() == Errno::NOSYS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_attributes() {
        assert_eq!(attributes(libc::MS_RDONLY | libc::MS_NOSUID), ATTR_RDONLY | ATTR_NOSUID);
        assert_eq!(attributes(libc::MS_NOATIME | libc::MS_NODIRATIME), ATTR_NOATIME | ATTR_NODIRATIME);
        assert_eq!(attributes(libc::MS_STRICTATIME), ATTR_STRICTATIME);
        assert_eq!(attributes(MS_NOSYMFOLLOW), ATTR_NOSYMFOLLOW);
    }

    #[test]
    fn an_option_too_long_for_fsconfig_does_not_fit() {
        let long = "x".repeat(256);
        assert!(!Filesystem::new("overlay").parameter("lowerdir", Some(long.into())).fits_fsconfig());
        assert!(Filesystem::new("overlay").parameter("lowerdir", Some("/a:/b".into())).fits_fsconfig());
    }

    #[test]
    fn a_refused_option_carries_the_kernels_message() {
        let refused = Filesystem::new("tmpfs").parameter("nonsense", Some("1".into())).mount(0);
        let text = refused.expect_err("tmpfs has no such option").to_string();
        assert!(text.contains("nonsense"), "{text}");
        assert!(text.contains("kernel: "), "{text}");
    }
}
