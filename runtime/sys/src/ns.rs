//! Namespaces: joining by descriptor, unsharing, relations between them, and host names.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use super::procfs::Proc;
use super::{SysError, SysResult, error, process};

/// Moves this thread into the namespace of a descriptor, or into several namespaces of a pidfd's process at once, which
/// CLONE_NEW* flags choose (setns(2); by pidfd since Linux 5.8).
///
/// # Errors
/// EINVAL for a namespace of another type, or the caller's own user namespace; EPERM without the privilege.
pub fn join(fd: BorrowedFd, flags: u64) -> SysResult<()> {
    let shown = || format!("{}, {flags:#x}", fd.as_raw_fd());
    let kinds = u32::try_from(flags).map_err(|_| SysError::new("setns", shown(), Errno::INVAL))?;
    rustix::thread::move_into_thread_name_spaces(fd, ThreadNameSpaceType::from_bits_retain(kinds))
        .map_err(|error| SysError::new("setns", shown(), error))
}

/// Moves this thread into new namespaces (unshare(2)).
///
/// # Errors
/// EINVAL for flags that are no namespaces; else as unshare(2).
pub fn unshare(flags: u64) -> SysResult<()> {
    let kinds = process::check_namespaces("unshare", flags)?;
    // SAFETY: namespaces alone are unshared. Descriptors stay shared with the other threads (no CLONE_FILES), so that
    // an OwnedFd of one thread is open in all.
    if unsafe { libc::unshare(kinds) } != 0 {
        return Err(SysError::last("unshare", format!("{flags:#x}")));
    }
    Ok(())
}

/// Gives this thread a root, a working directory and a umask of its own (unshare(2), CLONE_FS), which setns(2) requires
/// before it enters a mount namespace.
///
/// # Errors
/// ENOMEM.
pub fn unshare_root() -> SysResult<()> {
    // SAFETY: CLONE_FS alone is unshared. Descriptors stay shared with the other threads (no CLONE_FILES), so that an
    // OwnedFd of one thread is open in all.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }
        .map_err(|error| SysError::new("unshare", "CLONE_FS", error))
}

/// A new user namespace with these maps, in the form of /proc/PID/uid_map (user_namespaces(7)). It has no process, and
/// serves idmapped mounts.
///
/// # Errors
/// EINVAL for maps that the kernel refuses, EPERM without the privilege over the ids, ENOSPC past a limit.
pub fn mapped_user_namespace(uid_map: &str, gid_map: &str) -> SysResult<OwnedFd> {
    let anchor = process::spawn_anchor(libc::CLONE_NEWUSER as u64)?;
    let fill = || {
        let proc = Proc::open()?;
        proc.write(format!("{}/uid_map", anchor.pid), uid_map.as_bytes())?;
        proc.write(format!("{}/gid_map", anchor.pid), gid_map.as_bytes())?;
        proc.open_namespace_of(anchor.pid, "user")
    };
    let filled = fill();
    process::kill_anchor(anchor)?;
    filled
}

/// Sets the host name of this thread's UTS namespace.
///
/// # Errors
/// EINVAL for a name of more than 64 bytes; EPERM without CAP_SYS_ADMIN over the namespace.
pub fn set_hostname(name: &str) -> SysResult<()> {
    rustix::system::sethostname(name.as_bytes()).map_err(|error| SysError::new("sethostname", name, error))
}

/// Sets the NIS domain name of this thread's UTS namespace.
///
/// # Errors
/// EINVAL for a name of more than 64 bytes; EPERM without CAP_SYS_ADMIN over the namespace.
pub fn set_domainname(name: &str) -> SysResult<()> {
    rustix::system::setdomainname(name.as_bytes()).map_err(|error| SysError::new("setdomainname", name, error))
}

/// Brings the loopback interface of this network namespace up (netdevice(7), SIOCSIFFLAGS).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN over the namespace; EAFNOSUPPORT on a kernel without IPv4.
pub fn loopback_up() -> SysResult<()> {
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| SysError::new("socket", "AF_INET, SOCK_DGRAM", error))?;
    const UP_AND_RUNNING: libc::c_short = 0x41;
    const _: () = assert!(UP_AND_RUNNING as libc::c_int == libc::IFF_UP | libc::IFF_RUNNING);
    // SAFETY: ifreq is a C struct of integers, arrays and unions of them, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // c_char is signed on some architectures; ASCII fits either.
    for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
        *to = libc::c_char::try_from(from).unwrap_or_default();
    }
    request.ifr_ifru.ifru_flags = UP_AND_RUNNING;
    // SAFETY: the kernel reads one ifreq, and `request` is one that outlives the call, with a name that ends in NUL.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) } != 0 {
        return Err(SysError::last("ioctl", "lo, SIOCSIFFLAGS, IFF_UP"));
    }
    Ok(())
}

/// Opens a namespace file by its path on the host, close-on-exec.
///
/// # Errors
/// EINVAL when the file is no namespace of the wanted type (`kind` is a CLONE_NEW* flag).
pub fn open(path: &std::path::Path, kind: u64) -> SysResult<OwnedFd> {
    // Without O_NONBLOCK a FIFO in its place would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| SysError::new("openat", path.display().to_string(), error))?;
    // SAFETY: NS_GET_NSTYPE takes no argument and returns flags; a file that is no namespace refuses it, since the type
    // of ioctl, 0xb7, is nsfs's.
    let found = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    if u64::try_from(found) != Ok(kind) {
        let what = format!("{}, NS_GET_NSTYPE: found {found:#x}, expected {kind:#x}", path.display());
        return Err(SysError::new("ioctl", what, Errno::INVAL));
    }
    Ok(file)
}

/// Whether the user namespace `user`, or one below it, owns `namespace`, so that its root has privilege over that.
///
/// # Errors
/// As ioctl_nsfs(2). An owner or parent beyond this process's own user namespace is no error, because `user` is none.
pub fn is_owned_by(namespace: BorrowedFd, user: BorrowedFd) -> SysResult<bool> {
    let get = |of: BorrowedFd, request: libc::Ioctl| {
        // SAFETY: NS_GET_USERNS and NS_GET_PARENT, the requests below, take no argument.
        match unsafe { libc::ioctl(of.as_raw_fd(), request) } {
            // SAFETY: both return a new descriptor, of which only this function knows the number.
            number @ 0.. => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
            _ => match error::last() {
                Errno::PERM => Ok(None),
                errno => Err(SysError::new("ioctl", format!("{}, {request:#x}", of.as_raw_fd()), errno)),
            },
        }
    };
    let identity = |fd: BorrowedFd| {
        let stat = rustix::fs::fstat(fd).map_err(|error| SysError::new("fstat", "a namespace", error))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let wanted = identity(user)?;
    let mut next = get(namespace, libc::NS_GET_USERNS)?;
    // User namespaces nest 32 deep at most (user_namespaces(7)).
    while let Some(owner) = next {
        if identity(owner.as_fd())? == wanted {
            return Ok(true);
        }
        next = get(owner.as_fd(), libc::NS_GET_PARENT)?;
    }
    Ok(false)
}

/// The number of mounts in a mount namespace; `None` on kernels that do not report it (before 6.12).
///
/// # Errors
/// As ioctl_nsfs(2): EINVAL for a file that is another kind of namespace.
pub fn count_mounts(namespace: BorrowedFd) -> SysResult<Option<u32>> {
    /// struct mnt_ns_info and NS_MNT_GET_INFO (linux/nsfs.h): _IOR(0xb7, 10, struct mnt_ns_info).
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        size: u32,
        mounts: u32,
        id: u64,
    }
    const NS_MNT_GET_INFO: libc::c_ulong = 0x8010_b70a;
    let mut info = Info::default();
    // SAFETY: the kernel writes at most the 16 bytes that the request's number encodes, which is the size of `info`.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_MNT_GET_INFO as _, &raw mut info) } {
        0 => Ok(Some(info.mounts)),
        _ => match error::last() {
            Errno::NOTTY => Ok(None),
            errno => Err(SysError::new("ioctl", "NS_MNT_GET_INFO", errno)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_counted_as_the_kernel_lists_them() {
        let count = || count_mounts(Proc::open().unwrap().open_namespace("mnt").unwrap().as_fd()).unwrap();
        // Other tests mount too; a mount that this process's root does not reach is counted and not listed.
        let listed = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count();
        assert!((0..10).any(|_| count().is_none_or(|count| count as usize >= listed())));
        let other = Proc::open().unwrap().open_namespace("uts").unwrap();
        assert!(!matches!(count_mounts(other.as_fd()), Ok(Some(_))));
    }

    #[test]
    fn a_mapped_user_namespace_has_no_process_and_wrong_maps_are_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let first = mapped_user_namespace("0 100000 10\n", "0 200000 10\n").unwrap();
        let second = mapped_user_namespace("0 100000 10\n", "0 200000 10\n").unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_ne!(inode(&first), inode(&second));
        let error = mapped_user_namespace("0 100000 10\n5 7 10\n", "0 0 1\n").unwrap_err();
        assert_eq!(error.errno(), Errno::INVAL);
    }
}
