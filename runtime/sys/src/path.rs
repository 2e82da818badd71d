//! Paths inside a container: the only way to open files that an image or a process in a container controls.
//!
//! A [`Dir`] is the root of such a tree. The kernel resolves every path below it in one step (openat2(2),
//! RESOLVE_IN_ROOT), so that a symlink out of the root, or one that is swapped during the lookup, stays inside. The
//! result is an O_PATH descriptor, and later operations (a mount, a device node) use that descriptor instead of the
//! path.
//!
//! On a kernel without openat2 (before 5.6), and where parts of the path are created, the lookup takes one component at
//! a time: each is opened by its name, without following it, from the descriptor of the component before, and `..`
//! returns to the descriptor before that.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::fd::file_type;
use super::{SysError, SysResult};

/// The most links that the kernel follows in one path (MAXSYMLINKS, include/linux/namei.h).
const MAX_LINKS: u32 = 40;

/// The most repetitions of a lookup that lost a race against a rename (openat2(2), EAGAIN).
const MAX_RACES: u32 = 64;

/// Whether openat2 was found missing, which saves each later lookup the call.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// The treatment of symlinks by a lookup. The target is always inside the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Follow every one.
    Follow,
    /// Follow all but the last component, which is opened itself.
    NotLast,
    /// Any symlink on the way is an error (ELOOP).
    Refuse,
}

/// The treatment of missing components by a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Fail,
    MakeDirs(u32),
    /// Creates directories of mode 0755, and an empty file of this mode as the last component.
    MakeFile(u32),
}

/// The root of a tree in which paths are resolved.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl Dir {
    /// Opens a directory of the host by its path. Symlinks are followed as usual: the host is trusted.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, EACCES or ELOOP of the path's lookup.
    pub fn open_host(path: &Path) -> SysResult<Dir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| SysError::new("open", format!("{path:?}, O_PATH|O_DIRECTORY"), e))?;
        Ok(Dir { fd })
    }

    /// Wraps an open directory.
    pub fn from_fd(fd: OwnedFd) -> Dir {
        Dir { fd }
    }

    /// The descriptor of the root itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor, by value.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Opens `path` as O_PATH, following symlinks inside the root.
    ///
    /// # Errors
    /// As for [`Dir::open`].
    pub fn find(&self, path: &Path) -> SysResult<OwnedFd> {
        self.open(path, OFlags::PATH, Links::Follow)
    }

    /// Opens `path` as O_PATH; `None` when a component does not exist.
    ///
    /// # Errors
    /// As for [`Dir::open`], except ENOENT and ENOTDIR.
    pub fn try_find(&self, path: &Path, links: Links) -> SysResult<Option<OwnedFd>> {
        match self.open(path, OFlags::PATH, links) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens an existing `path` with `flags` (O_CLOEXEC is added). Magic links of procfs are refused (ELOOP).
    ///
    /// Without O_PATH, the open of a device, a FIFO or a terminal has effects: check the type of an O_PATH descriptor
    /// first, and reopen that with [`super::procfs::Proc::reopen`].
    ///
    /// # Errors
    /// ENOENT for a missing component, ENOTDIR for one that is no directory, ELOOP for a magic link, too many symlinks,
    /// or one that `links` refuses; EAGAIN when renames disturb every attempt.
    pub fn open(&self, path: &Path, flags: OFlags, links: Links) -> SysResult<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | nofollow(links);
        match self.openat2(path, flags, links) {
            Err(error) if matches!(error.errno(), Errno::NOSYS | Errno::AGAIN) => {
                let fd = self.walk(path, links, Missing::Fail)?;
                if flags.contains(OFlags::PATH) {
                    return if flags.contains(OFlags::DIRECTORY) { require_directory(fd, path) } else { Ok(fd) };
                }
                reopen_found(fd, path, flags)
            }
            other => other,
        }
    }

    fn openat2(&self, path: &Path, flags: OFlags, links: Links) -> SysResult<OwnedFd> {
        let error = |e| SysError::new("openat2", format!("root, {path:?}, {flags:?}, RESOLVE_IN_ROOT"), e);
        if NO_OPENAT2.load(Ordering::Relaxed) {
            return Err(error(rustix::io::Errno::NOSYS));
        }
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refuse {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let path: Cow<'_, Path> = if path.as_os_str().is_empty() { Path::new(".").into() } else { path.into() };
        let mut races = 0;
        loop {
            match rustix::fs::openat2(&self.fd, path.as_ref(), flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if races < MAX_RACES => races += 1,
                Err(e) => {
                    if e == rustix::io::Errno::NOSYS {
                        NO_OPENAT2.store(true, Ordering::Relaxed);
                    }
                    return Err(error(e));
                }
            }
        }
    }

    /// Opens the directory `path` as O_PATH, and creates missing components with `mode` (less the umask).
    ///
    /// The missing target of a symlink is created: with /var/run -> /run and no /run, `/var/run/x` creates `/run/x`
    /// inside the root.
    ///
    /// # Errors
    /// ENOTDIR for a component that is no directory, EROFS or EACCES where a missing one cannot be created; else as for
    /// [`Dir::open`].
    pub fn mkdir_all(&self, path: &Path, mode: u32, links: Links) -> SysResult<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY, links) {
            Err(error) if error.errno() == Errno::NOENT => self.walk(path, links, Missing::MakeDirs(mode)),
            other => other,
        }
    }

    /// Opens `path`, which may be of any type, as O_PATH. If it is missing, creates an empty file of `mode`, and the
    /// directories above it (0755).
    ///
    /// # Errors
    /// As for [`Dir::mkdir_all`].
    pub fn make_file(&self, path: &Path, mode: u32, links: Links) -> SysResult<OwnedFd> {
        match self.open(path, OFlags::PATH, links) {
            Err(error) if error.errno() == Errno::NOENT => self.walk(path, links, Missing::MakeFile(mode)),
            other => other,
        }
    }

    /// The directory that holds `path`'s last component, created (0755) if it is missing, and that component's name.
    ///
    /// For calls that take a directory and a name: mknodat, symlinkat, unlinkat.
    ///
    /// # Errors
    /// EINVAL when `path` ends in no name; else as for [`Dir::mkdir_all`].
    pub fn parent(&self, path: &Path) -> SysResult<(OwnedFd, OsString)> {
        let Some(name) = path.file_name() else {
            return Err(SysError::new("open", format!("{path:?}: no file name"), Errno::INVAL));
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.mkdir_all(parent, 0o755, Links::Follow)?, name.to_owned()))
    }

    /// Looks `path` up one component at a time. The module's documentation says why the lookup stays inside the root.
    fn walk(&self, path: &Path, links: Links, missing: Missing) -> SysResult<OwnedFd> {
        let mut walk = Walk { root: &self.fd, path, passed: Vec::new(), todo: Vec::new(), followed: 0, races: 0 };
        walk.push(path);
        let mut found = None;
        while let Some(step) = walk.todo.pop() {
            if let Some(name) = walk.turn(step)? {
                found = walk.enter(&name, links, missing)?;
            }
        }
        // A path that ended in a directory ended in the last of those passed, or in the root itself.
        match found.or_else(|| walk.passed.pop()) {
            Some(fd) => Ok(fd),
            None => self.fd.try_clone().map_err(|e| SysError::from_io("dup", "root", &e)),
        }
    }
}

/// A step of a walk.
enum Step {
    Root,
    Up,
    Into(OsString),
}

struct Walk<'a> {
    root: &'a OwnedFd,
    path: &'a Path,
    /// The directories below the root that lead to the current one.
    passed: Vec<OwnedFd>,
    /// The remaining steps, last step first.
    todo: Vec<Step>,
    followed: u32,
    races: u32,
}

impl Walk<'_> {
    fn push(&mut self, path: &Path) {
        for component in path.components().rev() {
            match component {
                Component::RootDir | Component::Prefix(_) => self.todo.push(Step::Root),
                Component::CurDir => {}
                Component::ParentDir => self.todo.push(Step::Up),
                Component::Normal(name) => self.todo.push(Step::Into(name.to_owned())),
            }
        }
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.passed.last().unwrap_or(self.root).as_fd()
    }

    /// Takes a step that needs no lookup; returns the name of one that does.
    fn turn(&mut self, step: Step) -> SysResult<Option<OsString>> {
        match step {
            Step::Root => self.passed.clear(),
            Step::Up => drop(self.passed.pop()),
            Step::Into(name) => return Ok(Some(name)),
        }
        Ok(None)
    }

    fn error(&self, call: &'static str, name: &OsStr, errno: Errno) -> SysError {
        SysError::new(call, format!("{name:?} of {:?} in the root", self.path), errno)
    }

    /// Looks `name` up in the current directory. Returns a descriptor at the end of a path that is no directory.
    fn enter(&mut self, name: &OsStr, links: Links, missing: Missing) -> SysResult<Option<OwnedFd>> {
        let last = self.todo.is_empty();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self.here(), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) if missing != Missing::Fail => {
                self.races += 1;
                if self.races > MAX_LINKS + MAX_RACES {
                    return Err(self.error("mkdirat", name, Errno::AGAIN));
                }
                self.create(name, last, missing)?;
                self.todo.push(Step::Into(name.to_owned()));
                return Ok(None);
            }
            Err(e) => return Err(self.error("openat", name, Errno::from_raw_os_error(e.raw_os_error()))),
        };
        match file_type(&fd)? {
            FileType::Symlink if links == Links::Refuse => Err(self.error("openat", name, Errno::LOOP)),
            FileType::Symlink if last && links == Links::NotLast => match missing {
                Missing::MakeDirs(_) => Err(self.error("openat", name, Errno::NOTDIR)),
                _ => Ok(Some(fd)),
            },
            FileType::Symlink => {
                self.followed += 1;
                if self.followed > MAX_LINKS {
                    return Err(self.error("openat", name, Errno::LOOP));
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())
                    .map_err(|e| self.error("readlinkat", name, Errno::from_raw_os_error(e.raw_os_error())))?;
                self.push(&PathBuf::from(OsStr::from_bytes(target.as_bytes())));
                Ok(None)
            }
            FileType::Directory => {
                self.passed.push(fd);
                Ok(None)
            }
            _ if last && !matches!(missing, Missing::MakeDirs(_)) => Ok(Some(fd)),
            _ => Err(self.error("openat", name, Errno::NOTDIR)),
        }
    }

    fn create(&self, name: &OsStr, last: bool, missing: Missing) -> SysResult<()> {
        let (call, made) = match missing {
            // A node by mknodat needs no open, under which another process could place a FIFO.
            Missing::MakeFile(mode) if last => {
                ("mknodat", rustix::fs::mknodat(self.here(), name, FileType::RegularFile, Mode::from_raw_mode(mode), 0))
            }
            Missing::MakeDirs(mode) => ("mkdirat", rustix::fs::mkdirat(self.here(), name, Mode::from_raw_mode(mode))),
            _ => ("mkdirat", rustix::fs::mkdirat(self.here(), name, Mode::from_raw_mode(0o755))),
        };
        match made {
            // Another process was faster: the next lookup opens its file with the same checks.
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(self.error(call, name, Errno::from_raw_os_error(e.raw_os_error()))),
        }
    }
}

/// The working directory's path below this process's root; EXDEV where the root does not lead to it.
///
/// The kernel compares mounts, and marks a path outside with `(unreachable)` (getcwd(2)). The C library then searches
/// for a parent with the device and the inode of the root, which the image's directory has on the host's own mount as
/// well. Therefore the system call is made directly.
///
/// # Errors
/// EXDEV when the root does not lead to the directory, ENOENT when it has been removed.
pub fn working_directory() -> SysResult<PathBuf> {
    let mut path = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most path.len() bytes to `path`, which this function owns.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    let length = usize::try_from(length).map_err(|_| SysError::last("getcwd", ""))?;
    // With the NUL byte at the end.
    path.truncate(length.saturating_sub(1));
    let path = PathBuf::from(OsString::from_vec(path));
    if path.is_absolute() { Ok(path) } else { Err(SysError::new("getcwd", path.display().to_string(), Errno::XDEV)) }
}

/// O_NOFOLLOW where the last component is not followed.
fn nofollow(links: Links) -> OFlags {
    if links == Links::NotLast { OFlags::NOFOLLOW } else { OFlags::empty() }
}

fn require_directory(fd: OwnedFd, path: &Path) -> SysResult<OwnedFd> {
    match file_type(&fd)? {
        FileType::Directory => Ok(fd),
        _ => Err(SysError::new("openat", format!("{path:?}, O_DIRECTORY"), Errno::NOTDIR)),
    }
}

/// Reopens an O_PATH descriptor without openat2: a directory through its own ".", another file by its name in
/// /proc/self/fd of the host, which this process has until it enters a root.
fn reopen_found(fd: OwnedFd, path: &Path, flags: OFlags) -> SysResult<OwnedFd> {
    let flags = flags - OFlags::NOFOLLOW;
    let error = |e| SysError::new("openat", format!("{path:?}, {flags:?}"), e);
    match file_type(&fd)? {
        FileType::Directory => rustix::fs::openat(&fd, ".", flags, Mode::empty()).map_err(error),
        FileType::Symlink => Err(error(rustix::io::Errno::LOOP)),
        _ => super::procfs::Proc::open()?.reopen(&fd, flags),
    }
}

#[cfg(test)]
mod tests;
