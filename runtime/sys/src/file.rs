//! Reading and replacing files in places that another user, an image or a container controls.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::procfs::Proc;
use super::{SysError, SysResult, fd};

/// The most temporary names that are tried. Each has 64 random bits: a second one is needed only against a guess.
const MAX_NAMES: u32 = 16;

/// Replaces the file at `path` with one of these bytes and exactly this mode, by rename: no reader sees a part of it,
/// and a symbolic link at `path` is itself replaced.
///
/// The directory may be another user's. The temporary file is created with O_EXCL under an unpredictable name, and the
/// directory is looked up once, so that a planted link is neither followed nor written through.
///
/// A device, such as /dev/null, is never replaced, because every other program would lose it.
///
/// # Errors
/// The failed call, or ENOTSUP for a device at `path`. No temporary file stays.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> SysResult<()> {
    let name =
        path.file_name().ok_or_else(|| SysError::new("rename", format!("{path:?}: no file name"), Errno::INVAL))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())
        .map_err(|error| SysError::new("open", format!("{parent:?}, O_PATH|O_DIRECTORY"), error))?;
    refuse_device(&directory, name, path)?;
    let (file, temporary) = make_temporary(&directory, parent)?;
    let written = write(file, &temporary, bytes, mode).and_then(|()| {
        rustix::fs::renameat(&directory, &temporary, &directory, name)
            .map_err(|error| SysError::new("renameat", format!("{temporary:?}, {path:?}"), error))
    });
    if written.is_err() {
        // The first error is reported; a temporary file that cannot be removed was moved by the directory's owner.
        let _ = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
    }
    written
}

fn refuse_device(directory: &OwnedFd, name: &OsStr, path: &Path) -> SysResult<()> {
    let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| SysError::new("fstatat", format!("{path:?}"), error))?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice | FileType::BlockDevice => Err(SysError::new(
            "renameat",
            format!("{path:?} is a device, and a file is to be written there"),
            Errno::NOTSUP,
        )),
        _ => Ok(()),
    }
}

/// Creates a file in `directory`, which only this process may open until it has its mode, and returns it with its name.
fn make_temporary(directory: &OwnedFd, parent: &Path) -> SysResult<(File, OsString)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for _ in 0..MAX_NAMES {
        let name = OsString::from(format!(".brig-{:016x}", random()?));
        match rustix::fs::openat(directory, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok((File::from(fd), name)),
            Err(rustix::io::Errno::EXIST) => {}
            Err(error) => {
                return Err(SysError::new("openat", format!("{parent:?}, {name:?}, O_CREAT|O_EXCL"), error));
            }
        }
    }
    Err(SysError::new("openat", format!("{parent:?}: {MAX_NAMES} random names, O_CREAT|O_EXCL"), Errno::EXIST))
}

fn write(mut file: File, name: &OsString, bytes: &[u8], mode: u32) -> SysResult<()> {
    rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(mode))
        .map_err(|error| SysError::new("fchmod", format!("{name:?}, {mode:#o}"), error))?;
    file.write_all(bytes).map_err(|error| SysError::from_io("write", format!("{name:?}"), &error))
}

fn random() -> SysResult<u64> {
    let mut bytes = [0; 8];
    let error = |error| SysError::new("getrandom", "", error);
    // Up to 256 bytes arrive at once (getrandom(2)). Predictable names early in boot do no harm, because of O_EXCL.
    let filled = match rustix::rand::getrandom(&mut bytes, GetRandomFlags::INSECURE) {
        // Kernels before 5.6 do not have the flag.
        Err(rustix::io::Errno::INVAL) => rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()),
        other => other,
    };
    match filled.map_err(error)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(SysError::new("getrandom", "8 bytes", Errno::IO)),
    }
}

/// File systems whose regular files are interfaces of the kernel, by f_type (include/uapi/linux/magic.h): a read may
/// block for ever (kmsg, trace_pipe), consume the data, or disclose data of the host.
const KERNEL_FILESYSTEMS: [(u64, &str); 25] = [
    (0x9fa0, "procfs"),
    (0x6265_6572, "sysfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0xcafe_4a11, "bpf"),
    (0x6265_6570, "configfs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x5a3c_69f0, "apparmorfs"),
    (0x6e73_6673, "nsfs"),
    (0x5049_4446, "pidfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x1980_0202, "mqueue"),
    (0x1cd1, "devpts"),
    (0x0765_5821, "resctrl"),
    (0x6c6f_6f70, "binder"),
    (0x0a64_7361, "functionfs"),
    (0x6573_5543, "fusectl"),
    (0x6759_6969, "rpc_pipefs"),
    (0x6e66_7364, "nfsd"),
];

/// The reason why a file was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// A system call failed.
    Call(SysError),
    /// The file is of another type.
    NotRegular(FileType),
    /// The file is an interface of the kernel, on a file system of this name.
    OfTheKernel(&'static str),
    /// The file is larger than the caller takes.
    TooLarge {
        /// The largest size in bytes that is taken.
        max: u64,
    },
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            ReadError::Call(error) => return error.fmt(f),
            ReadError::OfTheKernel(name) => {
                return write!(f, "expected a regular file, found one of the kernel's on {name}");
            }
            ReadError::TooLarge { max } => return write!(f, "expected at most {max} bytes, found more"),
            ReadError::NotRegular(kind) => kind,
        };
        let kind = match kind {
            FileType::Directory => "a directory",
            FileType::Symlink => "a symbolic link",
            FileType::Fifo => "a FIFO",
            FileType::Socket => "a socket",
            FileType::CharacterDevice => "a character device",
            FileType::BlockDevice => "a block device",
            FileType::RegularFile | FileType::Unknown => "a file of unknown type",
        };
        write!(f, "expected a regular file, found {kind}")
    }
}

impl std::error::Error for ReadError {}

impl From<SysError> for ReadError {
    fn from(error: SysError) -> ReadError {
        ReadError::Call(error)
    }
}

/// Reads the file of `found`, an O_PATH descriptor, without blocking.
///
/// The type and the file system are checked on the descriptor before the file is opened, since the open of a device or
/// a FIFO has effects already. O_NONBLOCK makes the open fail with EWOULDBLOCK where a lease is held on the file
/// (fcntl(2)).
///
/// # Errors
/// [`ReadError`]: nothing but a regular file of an ordinary file system, of at most `max` bytes, is read.
pub fn read_found(proc: &Proc, found: impl AsFd, max: u64) -> Result<Vec<u8>, ReadError> {
    let stat = rustix::fs::fstat(&found).map_err(|error| SysError::new("fstat", "", error))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(ReadError::NotRegular(kind));
    }
    let filesystem = rustix::fs::fstatfs(&found).map_err(|error| SysError::new("fstatfs", "", error))?;
    let magic = fd::magic(&filesystem);
    if let Some((_, name)) = KERNEL_FILESYSTEMS.iter().find(|(known, _)| *known == magic) {
        return Err(ReadError::OfTheKernel(name));
    }
    // Interfaces of file systems that the table above lacks report a size of 0.
    if stat.st_size == 0 {
        return Ok(Vec::new());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > max {
        return Err(ReadError::TooLarge { max });
    }
    let file = File::from(proc.reopen(&found, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // The file may have grown since.
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| SysError::from_io("read", "", &error))?;
    if bytes.len() as u64 > max {
        return Err(ReadError::TooLarge { max });
    }
    Ok(bytes)
}

/// Reads a regular file of the host whose path the caller gave, up to `max` bytes, and one more if there are more. A
/// FIFO without a writer, a terminal or an empty queue of the kernel would block this process, and the lock of the
/// container with it.
///
/// # Errors
/// As open(2) and read(2); [`ReadError::NotRegular`]; EWOULDBLOCK for a file of the kernel that would block.
pub fn read_regular(path: &Path, max: usize) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&file)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => {}
        FileType::Directory => return Err(rustix::io::Errno::ISDIR.into()),
        _ => return Err(std::io::Error::other(ReadError::NotRegular(kind))),
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or_default().min(max) + 1);
    File::from(file).take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file as [`read_regular`] does, or the caller's pipe: a path that names a descriptor of a process
/// (/dev/stdin, /dev/fd/N, /proc/PID/fd/N) is read to its end, whatever its type.
///
/// # Errors
/// As for [`read_regular`].
pub fn read_given(path: &Path, max: usize) -> std::io::Result<Vec<u8>> {
    if !names_descriptor(path) {
        return read_regular(path, max);
    }
    // Without O_NONBLOCK, the open of a FIFO whose writer has exited would block, though it holds data.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    read_beginning(File::from(file), max)
}

fn names_descriptor(path: &Path) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let words: Vec<&str> = path.to_str().unwrap_or_default().split('/').collect();
    match words[..] {
        ["", "dev", "stdin"] => true,
        ["", "dev", "fd", number] => is_number(number),
        ["", "proc", process, "fd", number] => {
            (is_number(process) || matches!(process, "self" | "thread-self")) && is_number(number)
        }
        _ => false,
    }
}

/// Reads up to `max` bytes, and one more if there are more, so that the caller can see the excess.
///
/// # Errors
/// The reader's own error.
pub fn read_beginning(from: impl Read, max: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a file by its path on the host, in a directory that may be another user's. A symbolic link in its place is not
/// followed. `None` when there is no such file.
///
/// # Errors
/// As for [`read_found`].
pub fn read_nofollow(path: &Path, max: u64) -> Result<Option<Vec<u8>>, ReadError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(found) => found,
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(SysError::new("open", format!("{path:?}, O_PATH|O_NOFOLLOW"), error).into()),
    };
    read_found(&Proc::open()?, found, max).map(Some)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_replaced_file_has_its_bytes_and_mode_and_leaves_no_temporary_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pid");
        replace(&path, b"1", 0o644).unwrap();
        replace(&path, b"22", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"22");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
        assert!(replace(&root.path().join("no/pid"), b"1", 0o644).is_err());
    }

    #[test]
    fn a_failed_replacement_leaves_no_temporary_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("pid");
        std::fs::create_dir(&path).unwrap();
        assert_eq!(replace(&path, b"1", 0o644).unwrap_err().errno(), Errno::ISDIR);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_device_is_not_replaced() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("null");
        match rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            FileType::CharacterDevice,
            Mode::RUSR,
            rustix::fs::makedev(1, 3),
        ) {
            // An ordinary user cannot make one.
            Err(rustix::io::Errno::PERM) => return,
            made => made.unwrap(),
        }
        assert_eq!(replace(&path, b"1", 0o644).unwrap_err().errno(), Errno::NOTSUP);
        assert!(!std::fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_at_the_path_is_replaced_and_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let (path, victim) = (root.path().join("pid"), root.path().join("victim"));
        std::fs::write(&victim, "kept").unwrap();
        symlink(&victim, &path).unwrap();
        replace(&path, b"1", 0o644).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        assert!(std::fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn links_planted_under_earlier_temporary_names_are_not_written_through() {
        let root = tempfile::tempdir().unwrap();
        let (path, victim) = (root.path().join("pid"), root.path().join("victim"));
        std::fs::write(&victim, "kept").unwrap();
        // The names of older versions, which an attacker can predict.
        symlink(&victim, root.path().join(format!(".pid.{}", std::process::id()))).unwrap();
        symlink(&victim, root.path().join(".pid")).unwrap();
        replace(&path, b"1", 0o644).unwrap();
        assert_eq!(std::fs::read(&victim).unwrap(), b"kept");
        assert_eq!(std::fs::metadata(&victim).unwrap().nlink(), 1);
        assert_ne!(random().unwrap(), random().unwrap());
    }

    fn read(path: &str, max: u64) -> Result<Option<Vec<u8>>, ReadError> {
        read_nofollow(Path::new(path), max)
    }

    #[test]
    fn only_a_regular_file_of_limited_size_is_read() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("file");
        let text = path.to_str().unwrap();
        assert_eq!(read(text, 3), Ok(None));
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(text, 3), Ok(Some(b"abc".to_vec())));
        assert_eq!(read(text, 2), Err(ReadError::TooLarge { max: 2 }));
        let link = root.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(link.to_str().unwrap(), 3), Err(ReadError::NotRegular(FileType::Symlink)));
        let fifo = root.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(fifo.to_str().unwrap(), 3), Err(ReadError::NotRegular(FileType::Fifo)));
        assert_eq!(read("/dev/zero", 3), Err(ReadError::NotRegular(FileType::CharacterDevice)));
    }

    #[test]
    fn a_file_by_its_path_is_regular_and_one_by_its_descriptor_may_be_a_pipe() {
        let root = tempfile::tempdir().unwrap();
        let (path, fifo) = (root.path().join("file"), root.path().join("fifo"));
        std::fs::write(&path, "abcd").unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for read in [read_regular, read_given] {
            assert_eq!(read(&path, 4).unwrap(), b"abcd");
            assert_eq!(read(&path, 2).unwrap(), b"abc");
            assert_eq!(read(root.path(), 4).unwrap_err().kind(), std::io::ErrorKind::IsADirectory);
            for (other, kind) in [(&*fifo, "a FIFO"), (Path::new("/dev/zero"), "a character device")] {
                assert_eq!(read(other, 4).unwrap_err().to_string(), format!("expected a regular file, found {kind}"));
            }
        }
        for form in ["/dev/fd/", "/proc/self/fd/"] {
            let (reader, mut writer) = std::io::pipe().unwrap();
            writer.write_all(b"abcd").unwrap();
            drop(writer);
            let path = format!("{form}{}", std::os::fd::AsRawFd::as_raw_fd(&reader));
            assert_eq!(read_given(Path::new(&path), 4).unwrap(), b"abcd");
            assert_eq!(
                read_regular(Path::new(&path), 4).unwrap_err().to_string(),
                "expected a regular file, found a FIFO"
            );
        }
        for other in ["/dev/fd/", "/dev/fd/x", "/proc/self/fd", "/proc/x/fd/1", "/srv/dev/fd/1", "/dev/stdin/x"] {
            assert!(!names_descriptor(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn interfaces_of_the_kernel_are_not_read() {
        for (path, name) in
            [("/proc/sys/kernel/hostname", "procfs"), ("/sys/kernel/mm/transparent_hugepage/enabled", "sysfs")]
        {
            if Path::new(path).exists() {
                assert_eq!(read(path, 100), Err(ReadError::OfTheKernel(name)));
            }
        }
        let text = ReadError::OfTheKernel("procfs").to_string();
        assert_eq!(text, "expected a regular file, found one of the kernel's on procfs");
    }
}
