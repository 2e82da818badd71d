//! The seed: a mount namespace with nothing in it, which a container's is copied from on a host with many mounts.
//!
//! A new mount namespace is a copy of its maker's, mount by mount, and most of that is thrown away again as soon as the
//! container is in its root: with 3000 mounts on the host that is two thirds of the time that a container takes. A copy of
//! the seed has two mounts. The process that makes it is still in the host's namespace until then, and goes back there for
//! what it copies of the host's ([`super::outside`]).
//!
//! A mount namespace without a process lives as long as something refers to it. The seed is bound to a file, which lies on
//! a tmpfs of its own, as a mount namespace cannot be bound below a shared mount (fs/namespace.c, copy_tree):
//!
//! ```text
//! /run/brig-seed             a directory, locked by whoever makes the rest
//! /run/brig-seed/keep        tmpfs, private
//! /run/brig-seed/keep/mnt    the seed, whose root is an empty read-only tmpfs with the directory `rootfs`
//! ```
//!
//! It is made once, by the first container that has use for it, and lasts until the host goes down or someone unmounts it
//! (`umount -R /run/brig-seed/keep`), which is safe at any time: containers do not need it once they are made.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Context, Result};
use brig_sys::mount::{self, Filesystem};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, cred, ns};

/// Where it is kept: the directory that is locked, the mount point in it, and the file.
const DIRECTORY: &str = "/run/brig-seed";
const KEEP: &str = "/run/brig-seed/keep";
const NAME: &str = "mnt";
/// What the name of the file begins with that says why the seed cannot be made in a mount namespace, whose inode number
/// follows; without the file it is tried again.
const FAILED: &str = "/run/brig-seed/failed-";

/// The directory in the seed's root that a container's root is attached to.
pub(super) const ROOTFS: &str = "/rootfs";

const MOUNT: u64 = libc::CLONE_NEWNS as u64;

/// A mount costs 2.5 microseconds to copy and to throw away; below this the seed would save less than a twentieth of `run`.
const WORTH_IT: u32 = 100;

/// The seed, where one is there already or this process's mount namespace has so many mounts that it pays; else, or when
/// it cannot be made, `None`: the container's namespace is a copy of the host's then, which is slower and no worse.
pub fn seed() -> Option<OwnedFd> {
    let seed = match find() {
        Ok(found) => Some(found),
        Err(_) => match has_many_mounts().and_then(|many| if many { make() } else { Ok(None) }) {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!("unable to make {DIRECTORY}, which would be quicker than to copy every mount: {error}");
                None
            }
        },
    };
    if seed.is_some() {
        tracing::debug!("the mount namespace begins as a copy of {KEEP}/{NAME}");
    }
    seed
}

fn find() -> SysResult<OwnedFd> {
    ns::open(&Path::new(KEEP).join(NAME), MOUNT)
}

fn has_many_mounts() -> Result<bool> {
    let proc = Proc::open()?;
    if let Some(count) = ns::count_mounts(proc.open_namespace("mnt")?.as_fd())? {
        return Ok(count >= WORTH_IT);
    }
    // Before Linux 6.12 they have to be read, and no further than needed.
    let file = File::from(proc.open_file("thread-self/mountinfo", OFlags::RDONLY)?);
    let lines = std::io::BufRead::lines(std::io::BufReader::with_capacity(4096, file));
    Ok(lines.take(WORTH_IT as usize).count() >= WORTH_IT as usize)
}

/// Makes the seed and binds it to its file. `None` while another process does, and where it was tried in vain before: the
/// reason is in a file then ([`FAILED`]).
fn make() -> Result<Option<OwnedFd>> {
    let here = Proc::open()?.open_namespace("mnt")?;
    let inode = rustix::fs::fstat(&here).map_err(|e| SysError::from_rustix("fstat", "the mount namespace", e))?.st_ino;
    let failed = format!("{FAILED}{inode}");
    if Path::new(&failed).exists() {
        return Ok(None);
    }
    for path in [DIRECTORY, KEEP] {
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(SysError::from_rustix("mkdir", path, e).into()),
        }
    }
    let directory = open_directory(DIRECTORY)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
        Err(e) => return Err(SysError::from_rustix("flock", DIRECTORY, e).into()),
    }
    // Whoever held the lock before may have made it.
    if let Ok(found) = find() {
        return Ok(Some(found));
    }
    match make_on_some_cpu() {
        Ok(seed) => Ok(Some(seed)),
        Err(error) => {
            // Each try costs as much as what it is to save.
            std::fs::write(&failed, format!("{error}\n")).with_context(|| format!("unable to write {failed} ({error})"))?;
            Err(error.into())
        }
    }
}

/// A mount namespace can be bound in one that is older, which the kernel sees by their numbers. From Linux 6.18 on each CPU
/// has a batch of numbers to give, so that a new namespace may have a lower one than this process's; but it is higher on the
/// CPU whose batch is the latest. The initial namespace has the lowest of all.
fn make_on_some_cpu() -> SysResult<OwnedFd> {
    const CPUS: u32 = 16;
    let mut outcome = make_on(None);
    for cpu in 0..CPUS {
        match &outcome {
            Err(error) if matches!(error.errno(), Errno::ELOOP | Errno::EINVAL) => outcome = make_on(Some(cpu)),
            _ => break,
        }
    }
    outcome
}

/// Makes it on this CPU, or where the scheduler likes.
fn make_on(cpu: Option<u32>) -> SysResult<OwnedFd> {
    // In a thread of its own, because a mount namespace is a thread's, and this one has to stay in the host's.
    let make = move || {
        cpu.map_or(Ok(()), |cpu| cred::set_affinity(&[cpu]))?;
        empty_namespace()
    };
    let made = std::thread::Builder::new().spawn(make).map_err(|e| SysError::from_io("clone", "a thread", &e))?;
    // A panic ends the whole process.
    let seed = made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    keep(&seed)?;
    Ok(seed)
}

fn open_directory(path: &str) -> SysResult<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|e| SysError::from_rustix("open", path, e))
}

/// A detached tmpfs that has room for its root and one more inode.
fn tiny_tmpfs(mode: &'static str) -> SysResult<OwnedFd> {
    let fs = Filesystem::new("tmpfs").source("brig-seed".as_ref());
    let options = [("mode", mode), ("nr_blocks", "1"), ("nr_inodes", "2")];
    let fs = options.into_iter().fold(fs, |fs, (name, value)| fs.parameter(name, Some(value.into())));
    fs.mount(mount::ATTR_NOSUID | mount::ATTR_NODEV | mount::ATTR_NOEXEC)
}

/// Runs in a thread that ends with it: a new mount namespace, all of whose mounts are gone but its root.
fn empty_namespace() -> SysResult<OwnedFd> {
    let proc = Proc::open()?;
    ns::unshare(MOUNT)?;
    let own = proc.open_namespace("mnt")?;
    // Must precede the rest: a caller with a root of its own (chroot) would give the seed the mounts above that one.
    ns::join(own.as_fd(), MOUNT)?;
    // Nothing of what follows may spread to the host.
    mount::mount_raw(None, Path::new("/"), None, libc::MS_PRIVATE | libc::MS_REC, None)?;
    let root = tiny_tmpfs("755")?;
    let name = ROOTFS.trim_start_matches('/');
    rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o755))
        .map_err(|e| SysError::from_rustix("mkdirat", name, e))?;
    mount::set_attributes(&root, mount::ATTR_RDONLY, 0, 0, false)?;
    mount::attach_host(&root, Path::new("/"))?;
    rustix::process::fchdir(&root).map_err(|e| SysError::from_rustix("fchdir", "the seed's root", e))?;
    mount::pivot_here()?;
    mount::detach(Path::new("."))?;
    // The root, and below it the one of every namespace, which cannot be unmounted (fs/namespace.c, init_mount_tree).
    match ns::count_mounts(own.as_fd())? {
        Some(3..) => Err(SysError::new("umount2", "the host's mounts, for the seed", Errno::EBUSY)),
        _ => Ok(own),
    }
}

/// Binds the namespace to its file.
fn keep(seed: &OwnedFd) -> SysResult<()> {
    let holder = tiny_tmpfs("700")?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&holder, NAME, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| SysError::from_rustix("openat", format!("{KEEP}/{NAME}"), e))?;
    mount::attach_host(&holder, Path::new(KEEP))?;
    let bound = mount::set_attributes(&holder, 0, 0, libc::MS_PRIVATE, false)
        .and_then(|()| mount::clone_fd_tree(seed, false))
        .and_then(|tree| mount::attach(&tree, &file));
    bound.inspect_err(|_| {
        // What failed is the better story.
        let _ = mount::detach(Path::new(KEEP));
    })
}
