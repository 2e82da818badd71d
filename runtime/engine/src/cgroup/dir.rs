//! A directory of a cgroup file system, and its files.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir as Entries, FileType, Mode, OFlags, Uid, chownat, fstat, openat, statfs, unlinkat};
use rustix::io::Errno;

use brig_sys::{SysError, SysResult};

/// statfs(2) f_type of a v1 hierarchy (linux/magic.h).
pub(super) const CGROUP_MAGIC: u64 = 0x27_e0eb;
/// statfs(2) f_type of cgroup2 (linux/magic.h).
pub(super) const CGROUP2_MAGIC: u64 = 0x6367_7270;

/// The inode number of the root cgroup of every hierarchy (include/linux/kernfs.h, KERNFS_ROOT_INO).
pub(super) const ROOT_INODE: u64 = 1;

/// An open cgroup directory. Its files are opened through the descriptor, so that they belong to this cgroup even after
/// another one of the same name has taken its place.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    pub(super) fn open(path: &Path) -> SysResult<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Dir { fd, path: path.to_owned() }),
            Err(errno) => Err(SysError::new("open", format!("\"{}\"", path.display()), errno)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str, flags: OFlags) -> SysResult<OwnedFd> {
        openat(&self.fd, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            .map_err(|errno| SysError::new("openat", format!("\"{}/{name}\"", self.path.display()), errno))
    }

    /// Writes `value` in one write(2), as every cgroup file requires.
    pub(super) fn write(&self, name: &str, value: &str) -> SysResult<()> {
        tracing::debug!("cgroup: write {value:?} to {}/{name}", self.path.display());
        let file = self.file(name, OFlags::WRONLY)?;
        loop {
            return match rustix::io::write(&file, value.as_bytes()) {
                Ok(_) => Ok(()),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    Err(SysError::new("write", format!("\"{}/{name}\", {value:?}", self.path.display()), errno))
                }
            };
        }
    }

    /// Gives a file to `uid`, or the directory itself for an empty name.
    pub(super) fn set_owner(&self, name: &str, uid: u32) -> SysResult<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
        chownat(&self.fd, name, Some(Uid::from_raw(uid)), None, flags)
            .map_err(|errno| SysError::new("fchownat", format!("\"{}/{name}\", {uid}", self.path.display()), errno))
    }

    /// Reads the whole file. Cgroup files are text.
    pub(super) fn read(&self, name: &str) -> SysResult<String> {
        let file = self.file(name, OFlags::RDONLY)?;
        read_from_start(file.as_fd())
            .map_err(|errno| SysError::new("read", format!("\"{}/{name}\"", self.path.display()), errno))
    }

    /// Checks whether the directory was removed: every cgroup has this file.
    pub(super) fn is_removed(&self) -> bool {
        self.file("cgroup.procs", OFlags::RDONLY).is_err_and(|error| is_gone(&error))
    }

    /// The inode number, which kernfs gives to no other directory until the next boot (fs/kernfs/dir.c,
    /// __kernfs_new_node).
    pub(super) fn inode(&self) -> SysResult<u64> {
        fstat(&self.fd)
            .map(|stat| stat.st_ino)
            .map_err(|errno| SysError::new("fstat", format!("\"{}\"", self.path.display()), errno))
    }

    /// The names of the direct children. A container that may write to its cgroup chooses them: they are bytes, and
    /// need not be UTF-8.
    pub(super) fn children(&self) -> SysResult<Vec<CString>> {
        let failed = |errno| SysError::new("getdents64", format!("\"{}\"", self.path.display()), errno);
        let mut names = Vec::new();
        for entry in Entries::read_from(&self.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Opens the direct child `name`, or `..`. Messages show `path`.
    pub(super) fn open_at(&self, name: &CStr, path: PathBuf) -> SysResult<Dir> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Dir { fd, path }),
            Err(errno) => Err(SysError::new("openat", format!("\"{}\"", path.display()), errno)),
        }
    }

    /// Removes the direct child `name`. Returns false if it has processes or children.
    pub(super) fn remove_child(&self, name: &CStr) -> SysResult<bool> {
        match unlinkat(&self.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(true),
            Err(rustix::io::Errno::BUSY | rustix::io::Errno::NOTEMPTY) => Ok(false),
            Err(errno) => {
                let path = self.path.join(OsStr::from_bytes(name.to_bytes()));
                Err(SysError::new("unlinkat", format!("\"{}\"", path.display()), errno))
            }
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads an open file from its start; cgroup files generate their text for every such read.
pub(super) fn read_from_start(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut bytes = Vec::with_capacity(512);
    let mut buffer = [0u8; 4096];
    loop {
        match rustix::io::pread(file, &mut buffer, bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Errno::from_raw_os_error(errno.raw_os_error())),
        }
    }
    String::from_utf8(bytes).map_err(|_| Errno::ILSEQ)
}

/// Recognises an error due to the cgroup's removal: a name that is missing, or a file that was open (or about to be)
/// when its directory was removed.
pub(super) fn is_gone(error: &SysError) -> bool {
    matches!(error.errno(), Errno::NOENT | Errno::NODEV)
}

/// The value of `key` in a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// The type of the file system of `path`, if it exists.
pub(super) fn magic(path: &Path) -> Option<u64> {
    statfs(path).ok().map(|found| found.f_type.unsigned_abs())
}

/// Created directories, which are removed again unless they are kept.
#[derive(Debug, Default)]
pub(super) struct Unwind {
    made: Vec<PathBuf>,
}

impl Unwind {
    /// Keeps the directories after success.
    pub(super) fn disarm(mut self) {
        self.made.clear();
    }

    /// Creates `path` and its missing ancestors, down from `root`. Returns false if it exists already.
    pub(super) fn create(&mut self, root: &Path, path: &Path) -> SysResult<bool> {
        let mkdir = |path: &Path| {
            tracing::debug!("cgroup: make {}", path.display());
            rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))
                .map_err(|errno| SysError::new("mkdir", format!("\"{}\"", path.display()), errno))
        };
        match mkdir(path) {
            Ok(()) => {
                self.made.push(path.to_owned());
                Ok(true)
            }
            Err(error) if error.errno() == Errno::EXIST => Ok(false),
            Err(error) if error.errno() == Errno::NOENT && path != root => {
                let Some(parent) = path.parent() else { return Err(error) };
                self.create(root, parent)?;
                match mkdir(path) {
                    Ok(()) => {
                        self.made.push(path.to_owned());
                        Ok(true)
                    }
                    Err(error) if error.errno() == Errno::EXIST => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

/// Creates one directory that is to stay, or accepts an existing one.
pub(super) fn create_persistent(path: &Path) -> SysResult<()> {
    tracing::debug!("cgroup: make {}", path.display());
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(SysError::new("mkdir", format!("\"{}\"", path.display()), errno)),
    }
}

impl Drop for Unwind {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            // The caller reports the original error, and a directory that another process has begun to use must stay.
            let _ = rustix::fs::rmdir(path);
        }
    }
}
