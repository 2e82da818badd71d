//! /proc through a handle that is verified to be procfs, without crossing mounts or magic links.
//!
//! In a container's mount namespace /proc may be anything: another file system whose `attr/exec` accepts an LSM label
//! without effect, or procfs with one file mounted over another, so that a write for one sysctl reaches another. A
//! [`Proc`] is opened while /proc is the host's, its root is checked (PROC_SUPER_MAGIC and the root's inode number,
//! fs/proc/root.c), and each lookup below it refuses to cross a mount. Where the host itself has mounts over its
//! /proc (a runtime inside a container), a private, detached instance without them is used instead.
//!
//! A process that a container may trace must not hold the host's /proc: a process that opens its descriptor reaches the
//! host's processes and their roots. There the handle is the container's own /proc, under the same checks
//! ([`Proc::open_inside`]).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mount::{self, Filesystem};
use super::{SysError, SysResult, fd};

/// f_type of procfs. Its type in libc differs between architectures.
pub const PROC_SUPER_MAGIC: u64 = libc::PROC_SUPER_MAGIC as u64;

/// The inode number of every procfs root (include/linux/proc_ns.h, PROC_ROOT_INO; fs/proc/root.c).
const PROC_ROOT_INO: u64 = 1;

/// A verified handle of procfs.
#[derive(Debug)]
pub struct Proc {
    root: OwnedFd,
    /// A private instance without mounts over its files, made when it is first needed.
    private: OnceLock<OwnedFd>,
    /// The contents of a private instance.
    shows: Shows,
}

/// The contents of an instance of procfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    Everything,
    /// Neither sysctls nor files of the kernel.
    Processes,
}

/// Fields of /proc/PID/stat (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidStat {
    /// Field 3: R, S, D, Z, T, X ...
    pub state: char,
    /// Field 4: the parent.
    pub parent: i32,
    /// Field 6: the session.
    pub session: i32,
    /// Field 9: the task's flags (PF_*, include/linux/sched.h).
    pub flags: u64,
    /// Field 22: the start of the process, in clock ticks after boot.
    pub start_time: u64,
}

impl PidStat {
    /// Whether the process has exited, though its parent may not have waited for it yet.
    pub fn has_exited(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether the process has exited or is exiting: it has left its namespaces, or is leaving them.
    pub fn is_ending(&self) -> bool {
        self.has_exited() || self.flags & libc::PF_EXITING as u64 != 0
    }

    /// Parses the file's text. The second field, the command's name, may hold spaces and parentheses.
    fn parse(text: &str) -> Option<PidStat> {
        let mut fields = text[text.rfind(')')? + 1..].split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let session = fields.nth(1)?.parse().ok()?;
        let flags = fields.nth(2)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        Some(PidStat { state, parent, session, flags, start_time })
    }
}

impl Proc {
    /// Opens the host's /proc and checks that it is a procfs root. Call it before entering a container's root.
    ///
    /// # Errors
    /// EXDEV when /proc is not the root of a procfs and no private instance can be mounted; else as open(2).
    pub fn open() -> SysResult<Proc> {
        Proc::open_showing(Shows::Everything)
    }

    /// Opens /proc after entering a container's root, where it is the container's, for files of processes alone: a
    /// private instance has no other files, which a process that traces this one could use.
    ///
    /// # Errors
    /// As for [`Proc::open`].
    pub fn open_inside() -> SysResult<Proc> {
        Proc::open_showing(Shows::Processes)
    }

    fn open_showing(shows: Shows) -> SysResult<Proc> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open("/proc", flags, Mode::empty())
            .map_err(|e| SysError::new("open", "\"/proc\", O_PATH|O_DIRECTORY", e));
        let root = opened.and_then(verify_root).or_else(|first| mount_private(shows).map_err(|_| first))?;
        Ok(Proc { root, private: OnceLock::new(), shows })
    }

    /// The root's descriptor (O_PATH).
    pub fn fd(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens `path` below /proc, such as `self/uid_map` or `sys/net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// EXDEV where something is mounted over it and no private instance can be had, ELOOP for a magic link, ENOENT for a
    /// file or a process that does not exist; else as openat2(2).
    pub fn open_file(&self, path: impl AsRef<Path>, flags: OFlags) -> SysResult<OwnedFd> {
        let path = path.as_ref();
        match open_below(&self.root, path, flags) {
            Err(error) if error.errno() == Errno::XDEV => match self.private() {
                Some(private) => open_below(private, path, flags),
                None => Err(error),
            },
            other => other,
        }
    }

    fn private(&self) -> Option<&OwnedFd> {
        if let Some(fd) = self.private.get() {
            return Some(fd);
        }
        let made = mount_private(self.shows).ok()?;
        Some(self.private.get_or_init(|| made))
    }

    /// Writes `bytes` in a single write(2), as files of procfs require. The file must exist.
    ///
    /// # Errors
    /// EIO for a write that the kernel took in part; else as for [`Proc::open_file`] and write(2).
    pub fn write(&self, path: impl AsRef<Path>, bytes: &[u8]) -> SysResult<()> {
        let path = path.as_ref();
        let mut file = File::from(self.open_file(path, OFlags::WRONLY)?);
        let shown = || format!("/proc/{}, {:?}", path.display(), String::from_utf8_lossy(bytes));
        let written = file.write(bytes).map_err(|e| SysError::from_io("write", shown(), &e))?;
        if written != bytes.len() {
            return Err(SysError::new("write", format!("{}: {written} bytes taken", shown()), Errno::IO));
        }
        Ok(())
    }

    /// Reads a whole file below /proc.
    ///
    /// # Errors
    /// As for [`Proc::open_file`] and read(2): ESRCH when the process exits meanwhile.
    pub fn read(&self, path: impl AsRef<Path>) -> SysResult<Vec<u8>> {
        let path = path.as_ref();
        let mut file = File::from(self.open_file(path, OFlags::RDONLY)?);
        let mut bytes = Vec::with_capacity(1024);
        file.read_to_end(&mut bytes).map_err(|e| SysError::from_io("read", format!("/proc/{}", path.display()), &e))?;
        Ok(bytes)
    }

    /// Reads a whole file below /proc. Bytes that are not UTF-8 are replaced.
    ///
    /// # Errors
    /// As for [`Proc::read`].
    pub fn read_to_string(&self, path: impl AsRef<Path>) -> SysResult<String> {
        let bytes = self.read(path)?;
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    /// The target of a link such as `self/fd/3` or `PID/exe`, as text for messages and comparisons. It must not be
    /// opened.
    ///
    /// # Errors
    /// EINVAL or ENOENT for a file that is no link; else as for [`Proc::open_file`].
    pub fn read_link(&self, path: impl AsRef<Path>) -> SysResult<PathBuf> {
        let path = path.as_ref();
        let link = self.open_file(path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let target = rustix::fs::readlinkat(&link, "", Vec::new())
            .map_err(|e| SysError::new("readlinkat", format!("/proc/{}", path.display()), e))?;
        Ok(PathBuf::from(std::ffi::OsString::from(String::from_utf8_lossy(target.as_bytes()).into_owned())))
    }

    /// Reopens the file that `fd` (most often O_PATH) refers to, with `flags`.
    ///
    /// # Errors
    /// As open(2) with `flags`: EACCES without the permission, ENXIO for a FIFO or a device that has no other end.
    pub fn reopen(&self, fd: impl AsFd, flags: OFlags) -> SysResult<OwnedFd> {
        let number = fd.as_fd().as_raw_fd().to_string();
        let directory = self.open_file("self/fd", OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::openat(&directory, number.as_str(), (flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("openat", format!("/proc/self/fd/{number}, {flags:?}"), e))
    }

    /// Opens one of this thread's namespaces, `thread-self/ns/NAME`, which is a magic link.
    ///
    /// # Errors
    /// ENOENT on a kernel without this kind of namespace; else as for [`Proc::open_file`].
    pub fn open_namespace(&self, name: &str) -> SysResult<OwnedFd> {
        self.namespace("thread-self/ns", name)
    }

    /// Opens a namespace of another process, whose pid the caller keeps from being reused meanwhile.
    ///
    /// # Errors
    /// EACCES without the right to trace the process; else as for [`Proc::open_namespace`].
    pub fn open_namespace_of(&self, pid: i32, name: &str) -> SysResult<OwnedFd> {
        self.namespace(&format!("{pid}/ns"), name)
    }

    /// Opens the root directory of a process as O_PATH, `PID/root`, which is a magic link.
    ///
    /// # Errors
    /// ENOENT or ESRCH when the process has exited; EACCES without the right to trace it (proc_pid_root(5)).
    pub fn open_root_of(&self, pid: i32) -> SysResult<OwnedFd> {
        let process = self.open_file(pid.to_string(), OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::openat(&process, "root", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("openat", format!("/proc/{pid}/root"), e))
    }

    fn namespace(&self, directory: &str, name: &str) -> SysResult<OwnedFd> {
        let opened = self.open_file(directory, OFlags::PATH | OFlags::DIRECTORY)?;
        rustix::fs::openat(&opened, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| SysError::new("openat", format!("/proc/{directory}/{name}"), e))
    }

    /// Reads /proc/PID/stat; `None` when there is no such process.
    ///
    /// # Errors
    /// EBADMSG for a text of another form than proc_pid_stat(5) describes; else as for [`Proc::read`].
    pub fn pid_stat(&self, pid: i32) -> SysResult<Option<PidStat>> {
        let path = format!("{pid}/stat");
        match self.read_to_string(&path) {
            Ok(text) => match PidStat::parse(&text) {
                Some(stat) => Ok(Some(stat)),
                None => Err(SysError::new("read", format!("/proc/{path}: unknown form {text:?}"), Errno::BADMSG)),
            },
            Err(error) if matches!(error.errno(), Errno::NOENT | Errno::SRCH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn verify_root(fd: OwnedFd) -> SysResult<OwnedFd> {
    let fs = rustix::fs::fstatfs(&fd).map_err(|e| SysError::new("fstatfs", "/proc", e))?;
    let stat = rustix::fs::fstat(&fd).map_err(|e| SysError::new("fstat", "/proc", e))?;
    if fd::magic(&fs) != PROC_SUPER_MAGIC || stat.st_ino != PROC_ROOT_INO {
        return Err(SysError::new("open", "\"/proc\": not the root of a procfs", Errno::XDEV));
    }
    Ok(fd)
}

fn mount_private(shows: Shows) -> SysResult<OwnedFd> {
    let attributes = mount::ATTR_NOSUID | mount::ATTR_NODEV | mount::ATTR_NOEXEC;
    let made = match shows {
        Shows::Everything => Filesystem::new("proc").mount(attributes),
        // Kernels before 5.8 do not know the parameter.
        Shows::Processes => match Filesystem::new("proc").parameter("subset", Some("pid".into())).mount(attributes) {
            Err(error) if error.errno() == Errno::INVAL => Filesystem::new("proc").mount(attributes),
            other => other,
        },
    };
    made.and_then(verify_root)
}

fn open_below(root: &OwnedFd, path: &Path, flags: OFlags) -> SysResult<OwnedFd> {
    let error = |e| SysError::new("openat2", format!("/proc/{}, {flags:?}", path.display()), e);
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOSYS) => walk_below(root, path, flags),
        other => other.map_err(error),
    }
}

/// Looks `path` up without openat2, for kernels before 5.6: one component at a time, each on the same procfs. No link
/// is followed but a first one of procfs (`self` and `thread-self`, which are relative links to a number).
fn walk_below(root: &OwnedFd, path: &Path, flags: OFlags) -> SysResult<OwnedFd> {
    let error = |e| SysError::new("openat", format!("/proc/{}, {flags:?}", path.display()), e);
    let device = rustix::fs::fstat(root).map_err(error)?.st_dev;
    let walk = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut todo: Vec<std::ffi::OsString> = path.iter().rev().map(|name| name.to_owned()).collect();
    let mut here = rustix::io::fcntl_dupfd_cloexec(root, 0).map_err(error)?;
    let mut first = true;
    while let Some(name) = todo.pop() {
        if name == ".." {
            return Err(error(rustix::io::Errno::XDEV));
        }
        let last = todo.is_empty();
        let next = rustix::fs::openat(&here, &name, walk, Mode::empty()).map_err(error)?;
        let stat = rustix::fs::fstat(&next).map_err(error)?;
        if stat.st_dev != device {
            return Err(error(rustix::io::Errno::XDEV));
        }
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        if is_link && first {
            let target = rustix::fs::readlinkat(&next, "", Vec::new()).map_err(error)?;
            let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
            todo.extend(target.split('/').rev().map(std::ffi::OsString::from));
            first = false;
            continue;
        }
        if is_link && !(last && flags.contains(OFlags::NOFOLLOW)) {
            return Err(error(rustix::io::Errno::LOOP));
        }
        if last && !flags.contains(OFlags::PATH) {
            let opened = rustix::fs::openat(&here, &name, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(error)?;
            // A mount may have covered the name between the two opens.
            let again = rustix::fs::fstat(&opened).map_err(error)?;
            return match (again.st_dev, again.st_ino) == (device, stat.st_ino) {
                true => Ok(opened),
                false => Err(error(rustix::io::Errno::XDEV)),
            };
        }
        first = false;
        here = next;
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_parses_though_the_name_holds_parentheses() {
        let text = "7 (a) R 1 (b) c) S 3 7 9 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 0 0\n";
        let stat = PidStat::parse(text).expect("it parses");
        assert_eq!(stat, PidStat { state: 'S', parent: 3, session: 9, flags: 4_194_304, start_time: 12345 });
        assert!(PidStat::parse("").is_none());
        assert!(PidStat::parse("7 (a)").is_none());
    }

    #[test]
    fn own_process_has_a_stat_and_a_missing_one_has_none() {
        let proc = Proc::open().expect("procfs");
        let own = proc.pid_stat(rustix::process::getpid().as_raw_pid()).expect("stat").expect("we live");
        assert!(own.start_time > 0 && !own.has_exited());
        assert_eq!(proc.pid_stat(i32::MAX).expect("stat"), None);
        assert_eq!(proc.read_to_string("thread-self/comm").expect("comm"), proc_comm());
    }

    fn proc_comm() -> String {
        std::fs::read_to_string("/proc/thread-self/comm").expect("comm")
    }

    #[test]
    fn magic_links_are_not_followed_and_nothing_leads_up() {
        let proc = Proc::open().expect("procfs");
        assert_eq!(proc.open_file("self/root", OFlags::PATH).expect_err("magic").errno(), Errno::LOOP);
        assert_eq!(proc.open_file("../etc", OFlags::PATH).expect_err("up").errno(), Errno::XDEV);
        assert_eq!(proc.read_link("self/root").expect("text"), Path::new("/"));
    }

    #[test]
    fn a_private_procfs_can_be_limited_to_processes() {
        // Mounting takes a privilege.
        let Ok(root) = mount_private(Shows::Processes) else { return };
        let proc = Proc { root, private: OnceLock::new(), shows: Shows::Processes };
        assert_eq!(proc.read_to_string("thread-self/comm").expect("comm"), proc_comm());
        assert!(proc.open_file("self/fd", OFlags::PATH | OFlags::DIRECTORY).is_ok());
        assert_eq!(proc.open_file("sys", OFlags::PATH).expect_err("no sysctls").errno(), Errno::NOENT);
    }

    #[test]
    fn the_lookup_without_openat2_refuses_the_same_links() {
        let proc = Proc::open().expect("procfs");
        assert!(walk_below(&proc.root, Path::new("self/status"), OFlags::RDONLY).is_ok());
        assert!(walk_below(&proc.root, Path::new("thread-self/attr/current"), OFlags::PATH).is_ok());
        assert!(walk_below(&proc.root, Path::new("self/root"), OFlags::PATH).is_err());
        assert!(walk_below(&proc.root, Path::new("self/fd/../root"), OFlags::PATH).is_err());
        let link = walk_below(&proc.root, Path::new("self/exe"), OFlags::PATH | OFlags::NOFOLLOW).expect("the link");
        assert_eq!(super::super::fd::file_type(&link).expect("type"), FileType::Symlink);
    }

    #[test]
    fn an_open_file_is_reopened() {
        let proc = Proc::open().expect("procfs");
        let mut file = tempfile::tempfile().expect("tempfile");
        file.write_all(b"text").expect("write");
        let mut again = String::new();
        File::from(proc.reopen(&file, OFlags::RDONLY).expect("reopen")).read_to_string(&mut again).expect("read");
        assert_eq!(again, "text");
    }
}
