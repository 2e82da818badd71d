//! The cached empty mount namespace, of which a container's namespace is a copy on a host with many mounts.
//!
//! A new mount namespace is a copy of its creator's, mount by mount, and most of the copies are discarded as soon as
//! the container is in its root: with 3000 mounts on the host this takes two thirds of the container's start-up time. A
//! copy of the cached namespace has two mounts. The process that creates the copy is in the host's namespace until
//! then, and returns there to copy mounts of the host ([`super::host_mounts`]).
//!
//! A mount namespace without a process exists as long as something refers to it. The cached one is bound to a file,
//! which lies on a tmpfs of its own, because a mount namespace cannot be bound below a shared mount (fs/namespace.c,
//! copy_tree):
//!
//! ```text
//! /run/brig-seed             a directory, locked by the process that creates the rest
//! /run/brig-seed/keep        tmpfs, private
//! /run/brig-seed/keep/mnt    the namespace, whose root is an empty read-only tmpfs with the directory `rootfs`
//! ```
//!
//! The first container on a host with many mounts creates it. It lasts until the host shuts down or an administrator
//! unmounts it (`umount -R /run/brig-seed/keep`), which is safe at any time: running containers do not need it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Context, Result};
use brig_sys::mount::{self, Filesystem};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, cred, ns};

/// Paths of the namespace's file: the locked directory, the mount point in it, and the file's name.
const DIRECTORY: &str = "/run/brig-seed";
const MOUNT_POINT: &str = "/run/brig-seed/keep";
const FILE_NAME: &str = "mnt";
/// The path prefix of the file with the reason why the namespace cannot be created in a mount namespace, whose inode
/// number follows. Removal of the file permits another attempt.
const FAILED: &str = "/run/brig-seed/failed-";

/// The directory in the cached namespace's root to which a container's root is attached.
pub(super) const ROOTFS: &str = "/rootfs";

const MOUNT: u64 = libc::CLONE_NEWNS as u64;

/// The number of host mounts from which on the cached namespace is used. A mount costs 2.5 microseconds to copy and to
/// discard; with fewer mounts the gain is less than a twentieth of the time of `run`.
const MIN_HOST_MOUNTS: u32 = 100;

/// The cached namespace if it exists, or if it could be created because this process's mount namespace has many mounts.
/// Else `None`: the container's namespace becomes a copy of the host's, which is slower and no worse.
pub fn cached_namespace() -> Option<OwnedFd> {
    let namespace = match find() {
        Ok(found) => Some(found),
        Err(_) => match has_many_mounts().and_then(|many| if many { create() } else { Ok(None) }) {
            Ok(created) => created,
            Err(error) => {
                tracing::debug!("rootfs: copying every host mount, because {DIRECTORY} could not be created: {error}");
                None
            }
        },
    };
    if namespace.is_some() {
        tracing::debug!("rootfs: the mount namespace is a copy of {MOUNT_POINT}/{FILE_NAME}");
    }
    namespace
}

fn find() -> SysResult<OwnedFd> {
    ns::open(&Path::new(MOUNT_POINT).join(FILE_NAME), MOUNT)
}

fn has_many_mounts() -> Result<bool> {
    let proc = Proc::open()?;
    if let Some(count) = ns::count_mounts(proc.open_namespace("mnt")?.as_fd())? {
        return Ok(count >= MIN_HOST_MOUNTS);
    }
    // Before Linux 6.12 the mounts have to be read, and no further than needed.
    let file = File::from(proc.open_file("thread-self/mountinfo", OFlags::RDONLY)?);
    let lines = std::io::BufRead::lines(std::io::BufReader::with_capacity(4096, file));
    Ok(lines.take(MIN_HOST_MOUNTS as usize).count() >= MIN_HOST_MOUNTS as usize)
}

/// Creates the namespace and binds it to its file. Returns `None` while another process does so, and after an earlier
/// failed attempt: its reason is in a file ([`FAILED`]).
fn create() -> Result<Option<OwnedFd>> {
    let here = Proc::open()?.open_namespace("mnt")?;
    let inode = rustix::fs::fstat(&here).map_err(|e| SysError::new("fstat", "the mount namespace", e))?.st_ino;
    let failed = format!("{FAILED}{inode}");
    if Path::new(&failed).exists() {
        return Ok(None);
    }
    for path in [DIRECTORY, MOUNT_POINT] {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(SysError::new("mkdir", path, e).into()),
        }
    }
    let directory = open_directory(DIRECTORY)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(SysError::new("flock", DIRECTORY, e).into()),
    }
    // The previous holder of the lock may have created it.
    if let Ok(found) = find() {
        return Ok(Some(found));
    }
    match create_on_some_cpu() {
        Ok(namespace) => Ok(Some(namespace)),
        Err(error) => {
            // Each attempt costs as much as the cache is to save.
            std::fs::write(&failed, format!("{error}\n"))
                .with_context(|| format!("unable to write {failed} ({error})"))?;
            Err(error.into())
        }
    }
}

/// Creates the namespace on a CPU that gives it a higher number than this process's namespace. A mount namespace can be
/// bound in an older one alone, which the kernel recognises by their numbers. From Linux 6.18 on each CPU has a batch
/// of numbers, so that a new namespace may have a lower one than this process's; on the CPU whose batch is the latest
/// it is higher. The initial namespace has the lowest number of all.
fn create_on_some_cpu() -> SysResult<OwnedFd> {
    const CPUS: u32 = 16;
    let mut outcome = create_on(None);
    for cpu in 0..CPUS {
        match &outcome {
            Err(error) if matches!(error.errno(), Errno::LOOP | Errno::INVAL) => outcome = create_on(Some(cpu)),
            _ => break,
        }
    }
    outcome
}

/// Creates the namespace on `cpu`, or on the CPU that the scheduler chooses.
fn create_on(cpu: Option<u32>) -> SysResult<OwnedFd> {
    // A mount namespace belongs to a thread, and this thread has to stay in the host's.
    let create = move || {
        cpu.map_or(Ok(()), |cpu| cred::set_affinity(&[cpu]))?;
        empty_namespace()
    };
    let thread = std::thread::Builder::new().spawn(create).map_err(|e| SysError::from_io("clone", "a thread", &e))?;
    // A panic must end the whole process.
    let namespace = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    persist(&namespace)?;
    Ok(namespace)
}

fn open_directory(path: &str) -> SysResult<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| SysError::new("open", path, e))
}

/// Creates a detached tmpfs with room for its root and one more inode.
fn small_tmpfs(mode: &'static str) -> SysResult<OwnedFd> {
    let fs = Filesystem::new("tmpfs").source("brig-seed".as_ref());
    let options = [("mode", mode), ("nr_blocks", "1"), ("nr_inodes", "2")];
    let fs = options.into_iter().fold(fs, |fs, (name, value)| fs.parameter(name, Some(value.into())));
    fs.mount(mount::ATTR_NOSUID | mount::ATTR_NODEV | mount::ATTR_NOEXEC)
}

/// Creates a mount namespace with an empty root and no other mounts. Runs in a thread that exits with it.
fn empty_namespace() -> SysResult<OwnedFd> {
    let proc = Proc::open()?;
    ns::unshare(MOUNT)?;
    let own = proc.open_namespace("mnt")?;
    // Must precede the rest: a caller with a root of its own (chroot) would leave the mounts above that root in the
    // namespace.
    ns::join(own.as_fd(), MOUNT)?;
    // Must precede the following mounts, because nothing of them may propagate to the host.
    mount::mount_raw(None, Path::new("/"), None, libc::MS_PRIVATE | libc::MS_REC, None)?;
    let root = small_tmpfs("755")?;
    let name = ROOTFS.trim_start_matches('/');
    rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755)).map_err(|e| SysError::new("mkdirat", name, e))?;
    mount::set_attributes(&root, mount::ATTR_RDONLY, 0, 0, false)?;
    mount::attach_host(&root, Path::new("/"))?;
    rustix::process::fchdir(&root).map_err(|e| SysError::new("fchdir", "the cached namespace's root", e))?;
    mount::pivot_here()?;
    mount::detach(Path::new("."))?;
    // The root, and below it the root mount of every namespace, which cannot be unmounted (fs/namespace.c,
    // init_mount_tree).
    match ns::count_mounts(own.as_fd())? {
        Some(3..) => Err(SysError::new("umount2", "the host's mounts in the cached namespace", Errno::BUSY)),
        _ => Ok(own),
    }
}

/// Binds the namespace to its file.
fn persist(namespace: &OwnedFd) -> SysResult<()> {
    let tmpfs = small_tmpfs("700")?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&tmpfs, FILE_NAME, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| SysError::new("openat", format!("{MOUNT_POINT}/{FILE_NAME}"), e))?;
    mount::attach_host(&tmpfs, Path::new(MOUNT_POINT))?;
    let bound = mount::set_attributes(&tmpfs, 0, 0, libc::MS_PRIVATE, false)
        .and_then(|()| mount::clone_fd_tree(namespace, false))
        .and_then(|tree| mount::attach(&tree, &file));
    bound.inspect_err(|_| {
        // The caller gets the error of the failed step; that of the clean-up says less.
        let _ = mount::detach(Path::new(MOUNT_POINT));
    })
}
