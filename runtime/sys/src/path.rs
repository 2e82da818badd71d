//! Paths inside a container: the only opener of what an image or a process in a container may have shaped.
//!
//! A [`Dir`] is the root of such a tree. Every path is resolved below it by the kernel in one step
//! (openat2(2), RESOLVE_IN_ROOT), so a symlink that points out of the root, or one that is swapped while we look,
//! stays inside. The result is an O_PATH descriptor, and what follows (a mount, a device node) works on that
//! descriptor, never on the path again.
//!
//! On a kernel without openat2 (before 5.6), and where parts of the path are still to be made, the same is done one
//! component at a time: each is opened by its bare name, without following it, from the descriptor of the one before,
//! and `..` goes back to the descriptor that we came from.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};

use super::{SysError, SysResult};

/// As many links as the kernel follows in one path (MAXSYMLINKS, include/linux/namei.h).
const MAX_LINKS: u32 = 40;

/// How often a lookup is repeated that lost a race against a rename (openat2(2), EAGAIN).
const MAX_RACES: u32 = 64;

/// Set once openat2 was found missing, so that each later lookup saves the call.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// What a lookup does about symlinks. All of them end inside the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Follow every one.
    Follow,
    /// Follow all but the last component, which is opened itself.
    NotLast,
    /// Any symlink on the way is an error (ELOOP).
    Refuse,
}

/// What a lookup makes of components that do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Fail,
    MakeDirs(u32),
    /// Directories on the way with mode 0755, and an empty file of this mode at the end.
    MakeFile(u32),
}

/// The root of a tree in which paths are resolved.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
}

impl Dir {
    /// Opens a directory of the host by its path. Symlinks are followed as usual: the host is trusted.
    pub fn open_host(path: &Path) -> SysResult<Dir> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|e| SysError::from_rustix("open", format!("{path:?}, O_PATH|O_DIRECTORY"), e))?;
        Ok(Dir { fd })
    }

    /// A directory that is open already.
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
    pub fn find(&self, path: &Path) -> SysResult<OwnedFd> {
        self.open(path, OFlags::PATH, Links::Follow)
    }

    /// Like [`Dir::find`]; `None` when some part of the path does not exist.
    pub fn try_find(&self, path: &Path, links: Links) -> SysResult<Option<OwnedFd>> {
        match self.open(path, OFlags::PATH, links) {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens what exists at `path` with `flags` (O_CLOEXEC is added). Magic links of procfs are refused (ELOOP).
    ///
    /// Do not open what may be a device, a FIFO or a terminal without O_PATH: check an O_PATH descriptor's type first
    /// and reopen that with [`super::procfs::Proc::reopen`].
    pub fn open(&self, path: &Path, flags: OFlags, links: Links) -> SysResult<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | nofollow(links);
        match self.openat2(path, flags, links) {
            Err(error) if matches!(error.errno(), Errno::ENOSYS | Errno::EAGAIN) => {
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
        let error = |e| SysError::from_rustix("openat2", format!("root, {path:?}, {flags:?}, RESOLVE_IN_ROOT"), e);
        if NO_OPENAT2.load(Ordering::Relaxed) {
            return Err(error(rustix::io::Errno::NOSYS));
        }
        let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        if links == Links::Refuse {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let path: Cow<'_, Path> =
            if path.as_os_str().is_empty() { Path::new(".").into() } else { path.into() };
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

    /// Opens the directory `path` as O_PATH and makes what is missing of it with `mode` (less the umask).
    ///
    /// A symlink whose target is missing is completed: with /var/run -> /run and no /run, `/var/run/x` makes
    /// `/run/x` inside the root.
    pub fn mkdir_all(&self, path: &Path, mode: u32, links: Links) -> SysResult<OwnedFd> {
        match self.open(path, OFlags::PATH | OFlags::DIRECTORY, links) {
            Err(error) if error.errno() == Errno::ENOENT => self.walk(path, links, Missing::MakeDirs(mode)),
            other => other,
        }
    }

    /// Opens `path`, which may be anything, as O_PATH; makes an empty file of `mode`, and the directories above it
    /// (0755), where it is missing.
    pub fn make_file(&self, path: &Path, mode: u32, links: Links) -> SysResult<OwnedFd> {
        match self.open(path, OFlags::PATH, links) {
            Err(error) if error.errno() == Errno::ENOENT => self.walk(path, links, Missing::MakeFile(mode)),
            other => other,
        }
    }

    /// The directory that holds `path`'s last component, made (0755) where it is missing, and that component's name.
    ///
    /// For calls that take a directory and a name: mknodat, symlinkat, unlinkat. EINVAL when `path` ends in no name.
    pub fn parent(&self, path: &Path) -> SysResult<(OwnedFd, OsString)> {
        let Some(name) = path.file_name() else {
            return Err(SysError::new("open", format!("{path:?}: no file name"), Errno::EINVAL));
        };
        let parent = path.parent().unwrap_or(Path::new("/"));
        Ok((self.mkdir_all(parent, 0o755, Links::Follow)?, name.to_owned()))
    }

    /// One component at a time. See the module's head for why it cannot leave the root.
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
    /// The directories below the root that lead to where we are.
    passed: Vec<OwnedFd>,
    /// What is still to be walked, last step first.
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

    /// Takes a step that needs no lookup; gives the name of one that does.
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

    /// Looks `name` up here. A descriptor comes back when it is the end of the path and no directory.
    fn enter(&mut self, name: &OsStr, links: Links, missing: Missing) -> SysResult<Option<OwnedFd>> {
        let last = self.todo.is_empty();
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self.here(), name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) if missing != Missing::Fail => {
                self.races += 1;
                if self.races > MAX_LINKS + MAX_RACES {
                    return Err(self.error("mkdirat", name, Errno::EAGAIN));
                }
                self.make(name, last, missing)?;
                self.todo.push(Step::Into(name.to_owned()));
                return Ok(None);
            }
            Err(e) => return Err(self.error("openat", name, Errno::from_raw(e.raw_os_error()))),
        };
        match file_type(&fd)? {
            FileType::Symlink if links == Links::Refuse => Err(self.error("openat", name, Errno::ELOOP)),
            FileType::Symlink if last && links == Links::NotLast => match missing {
                Missing::MakeDirs(_) => Err(self.error("openat", name, Errno::ENOTDIR)),
                _ => Ok(Some(fd)),
            },
            FileType::Symlink => {
                self.followed += 1;
                if self.followed > MAX_LINKS {
                    return Err(self.error("openat", name, Errno::ELOOP));
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new())
                    .map_err(|e| self.error("readlinkat", name, Errno::from_raw(e.raw_os_error())))?;
                self.push(&PathBuf::from(OsStr::from_bytes(target.as_bytes())));
                Ok(None)
            }
            FileType::Directory => {
                self.passed.push(fd);
                Ok(None)
            }
            _ if last && !matches!(missing, Missing::MakeDirs(_)) => Ok(Some(fd)),
            _ => Err(self.error("openat", name, Errno::ENOTDIR)),
        }
    }

    fn make(&self, name: &OsStr, last: bool, missing: Missing) -> SysResult<()> {
        let (call, made) = match missing {
            // An S_IFREG node by mknodat is a file that we never open: no FIFO can be slipped under an open.
            Missing::MakeFile(mode) if last => (
                "mknodat",
                rustix::fs::mknodat(self.here(), name, FileType::RegularFile, Mode::from_raw_mode(mode), 0),
            ),
            Missing::MakeDirs(mode) => ("mkdirat", rustix::fs::mkdirat(self.here(), name, Mode::from_raw_mode(mode))),
            _ => ("mkdirat", rustix::fs::mkdirat(self.here(), name, Mode::from_raw_mode(0o755))),
        };
        match made {
            // Someone was faster: the next lookup sees what is there, and treats it with the same care.
            Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
            Err(e) => Err(self.error(call, name, Errno::from_raw(e.raw_os_error()))),
        }
    }
}

/// The type of an open file.
pub fn file_type(fd: impl AsFd) -> SysResult<FileType> {
    let stat = rustix::fs::fstat(fd).map_err(|e| SysError::from_rustix("fstat", "", e))?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// O_NOFOLLOW where the last component is not to be followed.
/// The working directory's path below this process's root; EXDEV where the root does not lead to it.
///
/// The kernel compares mounts, and marks a path outside with `(unreachable)` (getcwd(2)). The C library then looks for a
/// parent with the device and the inode of the root, which the image's directory has on the host's own mount as well;
/// therefore the system call alone is asked.
pub fn working_directory() -> SysResult<PathBuf> {
    let mut path = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most path.len() bytes into memory that is ours.
    let length = unsafe { libc::syscall(libc::SYS_getcwd, path.as_mut_ptr(), path.len()) };
    let length = usize::try_from(length).map_err(|_| SysError::last("getcwd", ""))?;
    // With the NUL byte at the end.
    path.truncate(length.saturating_sub(1));
    let path = PathBuf::from(OsString::from_vec(path));
    if path.is_absolute() { Ok(path) } else { Err(SysError::new("getcwd", path.display().to_string(), Errno::EXDEV)) }
}

fn nofollow(links: Links) -> OFlags {
    if links == Links::NotLast { OFlags::NOFOLLOW } else { OFlags::empty() }
}

fn require_directory(fd: OwnedFd, path: &Path) -> SysResult<OwnedFd> {
    match file_type(&fd)? {
        FileType::Directory => Ok(fd),
        _ => Err(SysError::new("openat", format!("{path:?}, O_DIRECTORY"), Errno::ENOTDIR)),
    }
}

/// Without openat2, an O_PATH descriptor is turned into an open file: a directory through its own ".", anything else
/// by its name in /proc/self/fd of the host, which is what this process sees before it enters a root.
fn reopen_found(fd: OwnedFd, path: &Path, flags: OFlags) -> SysResult<OwnedFd> {
    let flags = flags - OFlags::NOFOLLOW;
    let error = |e| SysError::from_rustix("openat", format!("{path:?}, {flags:?}"), e);
    match file_type(&fd)? {
        FileType::Directory => rustix::fs::openat(&fd, ".", flags, Mode::empty()).map_err(error),
        FileType::Symlink => Err(error(rustix::io::Errno::LOOP)),
        _ => super::procfs::Proc::open()?.reopen(&fd, flags),
    }
}

#[cfg(test)]
mod tests;
