//! Namespaces: joining by fd or by process, unsharing, and the names that go with some of them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};

use super::procfs::Proc;
use super::{SysError, SysResult, process};

/// setns(2) onto a namespace's fd, or onto a pidfd with several CLONE_NEW* flags at once (since 5.8).
///
/// # Errors
/// EINVAL for a namespace of another type, or the caller's own user namespace; EPERM without the privilege.
pub fn join(fd: BorrowedFd, flags: u64) -> SysResult<()> {
    // SAFETY: integers only; the effect is on this thread's namespaces.
    if unsafe { libc::setns(fd.as_raw_fd(), flags as libc::c_int) } != 0 {
        return Err(SysError::last("setns", format!("{}, {flags:#x}", fd.as_raw_fd())));
    }
    Ok(())
}

/// unshare(2).
pub fn unshare(flags: u64) -> SysResult<()> {
    // SAFETY: integers only.
    if unsafe { libc::unshare(flags as libc::c_int) } != 0 {
        return Err(SysError::last("unshare", format!("{flags:#x}")));
    }
    Ok(())
}

/// A new user namespace with these maps, in the form of /proc/PID/uid_map (user_namespaces(7)). No process is in it:
/// it is for idmapped mounts.
///
/// # Errors
/// EINVAL for maps that the kernel refuses, EPERM without the privilege over the ids, ENOSPC past a limit.
pub fn mapped_user_namespace(uid_map: &str, gid_map: &str) -> SysResult<OwnedFd> {
    let holder = process::spawn_holder(libc::CLONE_NEWUSER as u64)?;
    let fill = || {
        let proc = Proc::open()?;
        proc.write(format!("{}/uid_map", holder.pid), uid_map.as_bytes())?;
        proc.write(format!("{}/gid_map", holder.pid), gid_map.as_bytes())?;
        proc.open_namespace_of(holder.pid, "user")
    };
    let filled = fill();
    process::end_holder(holder)?;
    filled
}

/// Sets the UTS namespace's host name.
pub fn set_hostname(name: &str) -> SysResult<()> {
    rustix::system::sethostname(name.as_bytes()).map_err(|error| SysError::from_rustix("sethostname", name, error))
}

/// Sets the UTS namespace's NIS domain name.
pub fn set_domainname(name: &str) -> SysResult<()> {
    rustix::system::setdomainname(name.as_bytes())
        .map_err(|error| SysError::from_rustix("setdomainname", name, error))
}

/// Brings the loopback interface of this network namespace up (netdevice(7), SIOCSIFFLAGS).
pub fn loopback_up() -> SysResult<()> {
    // SAFETY: integers only.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(SysError::last("socket", "AF_INET, SOCK_DGRAM"));
    }
    // SAFETY: a new fd that nothing else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: request is a valid ifreq for the whole call.
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
    /// NS_GET_NSTYPE (linux/nsfs.h): _IO(0xb7, 0x3).
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // A FIFO in its place would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| SysError::from_rustix("openat", path.display().to_string(), error))?;
    // SAFETY: the ioctl takes no argument and returns an integer.
    let found = unsafe { libc::ioctl(file.as_raw_fd() as RawFd, NS_GET_NSTYPE as _) };
    if found < 0 || found as u32 as u64 != kind {
        let what = format!("{}, NS_GET_NSTYPE: found {found:#x}, expected {kind:#x}", path.display());
        return Err(SysError::new("ioctl", what, nix::errno::Errno::EINVAL));
    }
    Ok(file)
}

/// True where the user namespace `user`, or one below it, owns `namespace`: its root has privilege over that.
///
/// # Errors
/// As ioctl_nsfs(2), but for the owner or parent that is beyond this process's own user namespace: `user` is not.
pub fn is_owned_by(namespace: BorrowedFd, user: BorrowedFd) -> SysResult<bool> {
    /// NS_GET_USERNS and NS_GET_PARENT (linux/nsfs.h): _IO(0xb7, 0x1) and _IO(0xb7, 0x2).
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    let get = |of: BorrowedFd, request: libc::c_ulong| {
        // SAFETY: the ioctl takes no argument and returns a new descriptor, which nothing else owns.
        match unsafe { libc::ioctl(of.as_raw_fd(), request as _) } {
            // SAFETY: as above.
            number @ 0.. => Ok(Some(unsafe { OwnedFd::from_raw_fd(number) })),
            _ => match nix::errno::Errno::last() {
                nix::errno::Errno::EPERM => Ok(None),
                errno => Err(SysError::new("ioctl", format!("{}, {request:#x}", of.as_raw_fd()), errno)),
            },
        }
    };
    let identity = |fd: BorrowedFd| {
        let stat = rustix::fs::fstat(fd).map_err(|error| SysError::from_rustix("fstat", "a namespace", error))?;
        Ok((stat.st_dev, stat.st_ino))
    };
    let wanted = identity(user)?;
    let mut next = get(namespace, NS_GET_USERNS)?;
    // User namespaces nest 32 deep at most (user_namespaces(7)).
    while let Some(owner) = next {
        if identity(owner.as_fd())? == wanted {
            return Ok(true);
        }
        next = get(owner.as_fd(), NS_GET_PARENT)?;
    }
    Ok(false)
}

/// The number of mounts in the mount namespace that `namespace` refers to; `None` before Linux 6.12, which does not say.
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
    // SAFETY: the kernel writes size_of::<Info>() bytes, which the call's number says, to `info`.
    match unsafe { libc::ioctl(namespace.as_raw_fd(), NS_MNT_GET_INFO as _, &raw mut info) } {
        0 => Ok(Some(info.mounts)),
        _ => match nix::errno::Errno::last() {
            nix::errno::Errno::ENOTTY => Ok(None),
            errno => Err(SysError::new("ioctl", "NS_MNT_GET_INFO", errno)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn mounts_are_counted_as_the_kernel_lists_them() {
        let count = || count_mounts(Proc::open().unwrap().open_namespace("mnt").unwrap().as_fd()).unwrap();
        // Other tests mount too; what cannot be reached from this process's root is counted and not listed.
        let listed = || std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap().lines().count() as u32;
        assert!((0..10).any(|_| count().is_none_or(|count| count >= listed())));
        let other = Proc::open().unwrap().open_namespace("uts").unwrap();
        assert!(!matches!(count_mounts(other.as_fd()), Ok(Some(_))));
    }

    #[test]
    fn a_mapped_user_namespace_has_no_process_and_wrong_maps_are_refused() {
        // SAFETY: no arguments.
        if unsafe { libc::geteuid() } != 0 {
            return;
        }
        let first = mapped_user_namespace("0 100000 10\n", "0 200000 10\n").unwrap();
        let second = mapped_user_namespace("0 100000 10\n", "0 200000 10\n").unwrap();
        let inode = |fd: &OwnedFd| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_ne!(inode(&first), inode(&second));
        let error = mapped_user_namespace("0 100000 10\n5 7 10\n", "0 0 1\n").unwrap_err();
        assert_eq!(error.errno(), nix::errno::Errno::EINVAL);
    }
}
