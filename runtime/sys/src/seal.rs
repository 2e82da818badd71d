//! Images of the running program that are protected against writes by processes that execute them (CVE-2019-5736).

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{SysError, SysResult, fd};

/// The image of a binary, which is executed by `file`.
///
/// The kernel waits for a grace period of RCU when `mount` is closed, and once more when the last user of `file` is:
/// the caller closes them while another process is at work.
#[derive(Debug)]
pub struct Image {
    /// The executable.
    pub file: OwnedFd,
    /// The detached mount through which the file was opened.
    pub mount: Option<OwnedFd>,
}

/// Options of the overlay whose defaults depend on the kernel's configuration.
///
/// With xino the number of the layer may be part of an inode number. With nfs_export, open_by_handle_at(2) on a file of
/// the overlay opens every file of the layer's file system (fs/overlayfs/export.c decodes files outside of the layer's
/// directory too), which a container's process with CAP_DAC_READ_SEARCH and /proc/PID/exe of init could use.
const OVERLAY_OPTIONS: [(&str, &str); 2] = [("xino", "off"), ("nfs_export", "off")];

/// The running program, also after its name has changed.
const RUNNING_PROGRAM: &str = "/proc/self/exe";

/// Opens the running program through a read-only, detached overlay mount of its directory.
///
/// The executed file then has another superblock than the host's: it cannot be opened for writing, and /proc/PID/exe
/// leads to the overlay. An overlay requires two lower directories that do not overlap; `other` is the second.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN, ENODEV without overlay, EINVAL for file systems that cannot be a lower layer; EXDEV or
/// ESTALE where the program's directory does not show the running program, ENOENT where the program was deleted.
pub fn overlay(other: &Path) -> SysResult<Image> {
    let path = std::env::current_exe().map_err(|error| SysError::from_io("readlink", RUNNING_PROGRAM, &error))?;
    let program = rustix::fs::open(RUNNING_PROGRAM, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| SysError::new("open", RUNNING_PROGRAM, error))?;
    overlay_of(program.as_fd(), &path, other)
}

/// Makes an overlay mount of the directory of `path`, in which that name is `program`.
///
/// An overlay shows the present directory of one file system, without the mounts upon it. Its file is another one where
/// `program` was bound onto a file or was replaced after its start. Therefore the directory must lie on the program's
/// own mount, and the file must be the program by inode, size and time of change. Device numbers are not compared,
/// since the overlay reports its own.
fn overlay_of(program: BorrowedFd, path: &Path, other: &Path) -> SysResult<Image> {
    let error = |call: &'static str| move |error| SysError::new(call, "overlay", error);
    let differs = |errno| SysError::new("overlay", format!("{}: not the running program", path.display()), errno);
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(SysError::new("fsopen", path.display().to_string(), Errno::INVAL));
    };
    let (directory, other) = (open_directory(directory)?, open_directory(other)?);
    let mount_of_program = fd::mount_id(program);
    if mount_of_program.is_none() || fd::mount_id(&directory) != mount_of_program {
        return Err(differs(Errno::XDEV));
    }
    // Layers by descriptor are the compared directories, and need no escapes, which kernels before 6.5 refuse.
    let layers = format!("/proc/self/fd/{}:/proc/self/fd/{}", directory.as_raw_fd(), other.as_raw_fd());
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(error("fsopen"))?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir", layers).map_err(error("fsconfig"))?;
    for (key, value) in OVERLAY_OPTIONS {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value).map_err(error("fsconfig"))?;
    }
    rustix::mount::fsconfig_create(context.as_fd()).map_err(error("fsconfig"))?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount =
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(error("fsmount"))?;
    let file = rustix::fs::openat(&mount, name, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
        .map_err(error("openat"))?;
    if version(file.as_fd())? != version(program)? {
        return Err(differs(Errno::STALE));
    }
    Ok(Image { file, mount: Some(mount) })
}

fn open_directory(path: &Path) -> SysResult<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| SysError::new("open", path.display().to_string(), error))
}

/// Inode, size and time of change, which together identify a state of a file on one file system.
fn version(file: BorrowedFd) -> SysResult<(u64, i64, i64, i128)> {
    let stat = rustix::fs::fstat(file).map_err(|error| SysError::new("fstat", "overlay", error))?;
    Ok((stat.st_ino, stat.st_size, stat.st_ctime, stat.st_ctime_nsec.into()))
}

/// Copies the running program into a memory file, and seals it against every change.
///
/// # Errors
/// ENOMEM, EMFILE, or an error of reading the program.
pub fn memory_copy(name: &CStr) -> SysResult<Image> {
    // MFD_EXEC (since 6.3) makes the file executable whatever the value of vm.memfd_noexec.
    let error = |call: &'static str| move |error| SysError::new(call, RUNNING_PROGRAM, error);
    let source =
        rustix::fs::open(RUNNING_PROGRAM, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(error("open"))?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        other => other,
    }
    .map_err(error("memfd_create"))?;
    while rustix::fs::sendfile(&copy, &source, None, 1 << 30).map_err(error("sendfile"))? > 0 {}
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(0o555)).map_err(error("fchmod"))?;
    seal(&copy).map_err(error("fcntl"))?;
    Ok(Image { file: copy, mount: None })
}

/// Seals a memory file that was never mapped against every change.
///
/// F_SEAL_WRITE is refused with EBUSY while one of the pages has another reference (mm/memfd.c, memfd_wait_for_pins),
/// for example when the kernel migrates it. F_SEAL_FUTURE_WRITE (Linux 5.1) refuses the same changes at once, except
/// for writable mappings that exist already, and this file has none.
fn seal(file: &OwnedFd) -> rustix::io::Result<()> {
    let size = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW;
    match rustix::fs::fcntl_add_seals(file, size | SealFlags::FUTURE_WRITE) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::fcntl_add_seals(file, size | SealFlags::WRITE),
        other => other,
    }
}

/// A memory file that holds `bytes`, at offset 0, close-on-exec.
///
/// # Errors
/// ENOMEM, EMFILE, or ENOSPC past the limit of the memory cgroup's or the system's shared memory.
pub fn memory_file(name: &CStr, bytes: &[u8]) -> SysResult<OwnedFd> {
    let error = |call: &'static str| move |error| SysError::new(call, name.to_string_lossy(), error);
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map_err(error("memfd_create"))?;
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&file, &bytes[written..], written as u64).map_err(error("pwrite"))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_file_whose_pages_have_other_references_is_sealed_against_every_change() {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(c"sealed", flags).unwrap();
        rustix::io::pwrite(&file, &[1; 8192], 0).unwrap();
        // A pipe holds its first page.
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let mut offset = 0;
        rustix::pipe::splice(&file, Some(&mut offset), &writer, None, 4096, rustix::pipe::SpliceFlags::empty())
            .unwrap();
        seal(&file).unwrap();
        let refused = Err(rustix::io::Errno::PERM);
        assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(rustix::io::Errno::PERM));
        assert_eq!(rustix::fs::ftruncate(&file, 1), refused);
        assert_eq!(rustix::fs::ftruncate(&file, 1 << 20), refused);
        let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(&file, hole, 0, 4096), refused);
        assert_eq!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE), refused);
        let fd = file.as_raw_fd();
        // SAFETY: the address is the kernel's choice, so that no mapping is replaced, and the new one is never
        // accessed.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_WRITE, libc::MAP_SHARED, fd, 0) };
        assert_eq!((mapped, crate::error::last()), (libc::MAP_FAILED, rustix::io::Errno::PERM));
    }

    #[test]
    fn neither_image_can_be_written() {
        let other = tempfile::tempdir().unwrap();
        let binary = std::env::current_exe().unwrap();
        let mut images = vec![memory_copy(c"brig").unwrap()];
        if let Ok(overlay) = overlay(other.path()) {
            images.push(overlay);
        }
        for image in images {
            let path = format!("/proc/self/fd/{}", image.file.as_raw_fd());
            let written = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut file| file.write(b"x"));
            assert!(written.is_err());
            let mut read = Vec::new();
            std::fs::File::open(&path).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == std::fs::read(&binary).unwrap());
        }
    }

    #[test]
    fn an_overlay_with_another_file_than_the_running_program_is_refused() {
        let (directory, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = directory.path().join("a, program: of \\ours");
        std::fs::write(&path, "one build").unwrap();
        let program = rustix::fs::open(&path, OFlags::PATH, Mode::empty()).unwrap();
        let again = || overlay_of(program.as_fd(), &path, other.path());
        let image = match again() {
            // Not every environment has the privilege and the file system.
            Err(error) if !matches!(error.errno(), Errno::XDEV | Errno::STALE) => return,
            image => image.unwrap(),
        };
        assert_eq!(version(image.file.as_fd()), version(program.as_fd()));
        let refused = |errno| assert_eq!(again().map(drop).map_err(|error| error.errno()), Err(errno));
        std::fs::write(directory.path().join("new"), "other one").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        refused(Errno::STALE);
        std::fs::remove_file(&path).unwrap();
        refused(Errno::NOENT);
        let shown =
            |image: Image| std::fs::read_to_string(format!("/proc/self/fd/{}", image.file.as_raw_fd())).unwrap();
        assert_eq!(shown(image), "one build", "an image that is kept");
    }
}
