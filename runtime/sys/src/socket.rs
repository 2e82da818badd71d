//! Unix sockets: SOCK_SEQPACKET pairs, whole packets, and file descriptors in SCM_RIGHTS messages.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use super::{SysError, SysResult};

/// The most descriptors in one packet.
const MAX_FDS: usize = 4;

/// A connected pair of SOCK_SEQPACKET sockets, close-on-exec. One send is one packet.
///
/// # Errors
/// EMFILE or ENFILE past a limit on descriptors.
pub fn packet_pair() -> SysResult<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| SysError::new("socketpair", "AF_UNIX, SOCK_SEQPACKET", error))
}

/// Sends one packet with up to `MAX_FDS` descriptors.
///
/// # Errors
/// EPIPE when the other end is closed (no SIGPIPE is raised), EMSGSIZE for a packet over the send buffer.
pub fn send(socket: BorrowedFd, packet: &[u8], fds: &[BorrowedFd]) -> SysResult<()> {
    send_once(socket, packet, fds).map(drop)
}

fn send_once(socket: BorrowedFd, packet: &[u8], fds: &[BorrowedFd]) -> SysResult<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(SysError::new("sendmsg", format!("{} fds", fds.len()), rustix::io::Errno::INVAL));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(sent),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(SysError::new("sendmsg", format!("{} bytes", packet.len()), error));
            }
        }
    }
}

/// Sends all of `bytes` over a stream, and the descriptors with the first of them.
///
/// # Errors
/// EPIPE when the other end is closed (no SIGPIPE is raised).
pub fn send_stream(socket: BorrowedFd, bytes: &[u8], fds: &[BorrowedFd]) -> SysResult<()> {
    let mut sent = send_once(socket, bytes, fds)?;
    while sent < bytes.len() {
        sent += send_once(socket, &bytes[sent..], &[])?;
    }
    Ok(())
}

/// Receives one packet and its descriptors, close-on-exec. An empty packet is the end of file.
///
/// # Errors
/// EMSGSIZE for a packet over `limit` bytes.
pub fn receive(socket: BorrowedFd, limit: usize) -> SysResult<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0u8; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                return Err(SysError::new("recvmsg", socket.as_raw_fd().to_string(), error));
            }
        }
    };
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(SysError::new("recvmsg", format!("a packet over {limit} bytes"), rustix::io::Errno::MSGSIZE));
    }
    buffer.truncate(message.bytes);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((buffer, fds))
}

/// Connects a stream socket to the unix socket at `path`, close-on-exec.
///
/// # Errors
/// ENOENT when no socket has the path, ECONNREFUSED when none listens there, EINVAL for a path that is too long for a
/// socket's address.
pub fn connect(path: &Path) -> SysResult<OwnedFd> {
    let error = |error| SysError::new("connect", path.display().to_string(), error);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(error)?;
    let address = SocketAddrUnix::new(path).map_err(error)?;
    rustix::net::connect(socket.as_fd(), &address).map_err(error)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_boundaries_and_carry_descriptors() {
        let (left, right) = packet_pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(left.as_fd(), b"one", &[file.as_fd()]).unwrap();
        send(left.as_fd(), b"two", &[]).unwrap();
        let (packet, fds) = receive(right.as_fd(), 16).unwrap();
        assert_eq!((packet.as_slice(), fds.len()), (b"one".as_slice(), 1));
        assert_eq!(receive(right.as_fd(), 16).unwrap().0, b"two");
        send(left.as_fd(), &[0; 17], &[]).unwrap();
        assert_eq!(receive(right.as_fd(), 16).unwrap_err().errno(), rustix::io::Errno::MSGSIZE);
        drop(left);
        assert!(receive(right.as_fd(), 16).unwrap().0.is_empty());
    }
}
