//! The server's socket: its path, the check for a listening server, and its creation.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use brig_engine::error::{Context, Error, ErrorKind, Result};
use rustix::fs::FlockOperation;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sha2::{Digest, Sha256};

use crate::bundle::remove_socket;

/// The directory of sockets when containerd names none.
const DIRECTORY: &str = "/run/containerd/s";
/// The longest path of a socket that every containerd can dial, in bytes: its own limit (pkg/shim, socketPathLimit).
const MAX_PATH_LEN: usize = 106;

/// The socket's path for a group of containers of one containerd's namespace.
///
/// # Errors
/// [`ErrorKind::InvalidConfig`] when `directory` makes the path too long.
pub fn path(directory: Option<&str>, address: &str, namespace: &str, group: &str) -> Result<PathBuf> {
    let directory = directory.filter(|directory| !directory.is_empty()).unwrap_or(DIRECTORY);
    let key = Path::new(address).join(namespace).join(group);
    let digest = Sha256::digest(key.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let path = Path::new(directory).join(name);
    if path.as_os_str().len() > MAX_PATH_LEN {
        let message =
            format!("the socket directory {directory:?} is too long: {MAX_PATH_LEN} bytes are left for a path");
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(path)
}

/// The socket of a server.
#[derive(Debug)]
pub enum Socket {
    /// A server is listening.
    Served,
    /// A new socket, for a new server.
    New(UnixListener, Lock),
}

/// A lock on the creation of sockets: a second `start` waits for the first.
#[derive(Debug)]
pub struct Lock {
    _directory: OwnedFd,
}

/// Checks whether a server listens at `path`, and creates the socket if none does.
pub fn claim(path: &Path) -> Result<Socket> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let lock = lock(directory)?;
    if is_served(path) {
        return Ok(Socket::Served);
    }
    // A server that was killed has left its socket.
    remove_socket(path)?;
    let unable = || format!("unable to make the socket {}", path.display());
    let listener = UnixListener::bind(path).with_context(unable)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(unable)?;
    Ok(Socket::New(listener, lock))
}

/// Removes the socket if its server is gone.
pub fn remove_dead(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let _lock = lock(path.parent().unwrap_or(Path::new("/")))?;
    if is_served(path) { Ok(()) } else { remove_socket(path) }
}

/// Whether a server listens at `path`. A hanging server accepts no connection, and a blocking connect(2) would wait for
/// it as soon as its queue is full, under the lock of all sockets: EAGAIN shows that there is such a queue (unix(7)).
fn is_served(path: &Path) -> bool {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connected = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &SocketAddrUnix::new(path)?));
    matches!(connected, Ok(()) | Err(rustix::io::Errno::AGAIN))
}

fn lock(directory: &Path) -> Result<Lock> {
    let unable = || format!("unable to use the socket directory {}", directory.display());
    DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(unable)?;
    let file = std::fs::File::open(directory).with_context(unable)?;
    loop {
        match rustix::fs::flock(file.as_fd(), FlockOperation::LockExclusive) {
            Ok(()) => return Ok(Lock { _directory: file.into() }),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error)).with_context(unable),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_the_digest_of_address_namespace_and_group() {
        let path = |group| super::path(None, "/run/containerd/containerd.sock", "default", group).unwrap();
        // printf %s /run/containerd/containerd.sock/default/a | sha256sum
        let digest = "/run/containerd/s/82795ca4b9b166c1139546afbf9dfd59d74776e0b49c8edfbb195f9d8b9e94a6";
        assert_eq!(path("a"), Path::new(digest));
        assert_ne!(path("a"), path("b"));
        assert_eq!(path("a").file_name().unwrap().len(), 64);
        assert!(super::path(Some(&"/x".repeat(30)), "a", "b", "c").is_err());
    }

    #[test]
    fn of_two_claims_the_second_finds_the_first_and_a_dead_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let Socket::New(listener, lock) = claim(&path).unwrap() else { panic!("not new") };
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(lock);
        assert!(matches!(claim(&path).unwrap(), Socket::Served));
        remove_dead(&path).unwrap();
        assert!(path.exists());
        // A close alone is not enough: a child that another thread has just forked may hold a copy.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        drop(listener);
        assert!(matches!(claim(&path).unwrap(), Socket::New(..)));
        remove_dead(&path).unwrap();
        assert!(!path.exists());
        remove_dead(&path).unwrap();
    }

    #[test]
    fn a_server_that_accepts_nothing_blocks_no_caller() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        // More connections than the queue holds.
        for _ in 0..4 {
            assert!(matches!(claim(&path).unwrap(), Socket::Served));
            remove_dead(&path).unwrap();
        }
        assert!(path.exists());
    }
}
