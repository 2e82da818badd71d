//! The two ends of the channel between parent and init: whole packets, typed by [`crate::handshake`].

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Context, Error, Result};
use crate::handshake::{FromInit, Kind, Request, Step};
use brig_sys::socket;

/// Limit of a packet in bytes: a seccomp filter of 4096 instructions of 8 bytes, or an error text.
const LIMIT: usize = 64 * 1024;

/// Limit of a text in bytes: it has to fit into a packet. The container controls parts of it, such as the program's
/// name.
const MAX_TEXT_LEN: usize = 8 * 1024;

/// Shortens a text that is longer than [`MAX_TEXT_LEN`], by its middle: the beginning says what failed, the end why.
fn cut(text: String) -> String {
    if text.len() <= MAX_TEXT_LEN {
        return text;
    }
    let mut head = MAX_TEXT_LEN / 2;
    let mut tail = text.len() - MAX_TEXT_LEN / 2;
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}... ({} bytes left out) ...{}", &text[..head], tail - head, &text[tail..])
}

/// Creates both ends.
pub fn pair() -> Result<(ParentEnd, InitEnd)> {
    let (parent, init) = socket::packet_pair()?;
    Ok((ParentEnd(parent), InitEnd(init)))
}

fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| Error::other(format!("unable to write a message: {error}")))
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    postcard::from_bytes(bytes).map_err(|error| Error::other(format!("unable to read a message: {error}")))
}

/// The prefix of every typed packet of init, so that none, however small, has the length of a bare errno.
const TYPED: &[u8; 4] = b"init";

fn typed(message: &FromInit) -> Result<Vec<u8>> {
    let mut packet = TYPED.to_vec();
    packet.extend(encode(message)?);
    Ok(packet)
}

/// The parent's end of the channel.
#[derive(Debug)]
pub struct ParentEnd(OwnedFd);

/// A message that the parent receives.
#[derive(Debug)]
pub enum Event {
    /// A request, its body, and the descriptor sent with it.
    Request(Step, Vec<u8>, Option<OwnedFd>),
    /// Init failed with this error.
    Failed(Error),
    /// The end of file: init executed its program, or exited.
    End,
}

impl ParentEnd {
    /// The descriptor to poll.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Releases a child that waits before its exec.
    pub fn go(&self) -> Result<()> {
        socket::send(self.0.as_fd(), &[1], &[]).context("unable to let the new process continue")
    }

    /// Receives the next request, or the end. Log lines are passed to `log` on the way.
    ///
    /// A bare four-byte packet is the errno of a step between clone and exec (see [`brig_sys::process`]). `ready`
    /// waits for each packet; its error ends the wait.
    pub fn next(&self, ready: impl Fn() -> Result<()>, mut log: impl FnMut(bool, &str)) -> Result<Event> {
        loop {
            ready()?;
            let (packet, fds) = match socket::receive(self.0.as_fd(), LIMIT) {
                // A child that exited with unread messages resets the connection.
                Err(error) if error.errno() == rustix::io::Errno::CONNRESET => return Ok(Event::End),
                other => other.context("unable to receive from the new process")?,
            };
            if packet.is_empty() {
                return Ok(Event::End);
            }
            if let Ok(errno) = <[u8; 4]>::try_from(packet.as_slice()) {
                let errno = rustix::io::Errno::from_raw_os_error(i32::from_ne_bytes(errno));
                return Ok(Event::Failed(Error::other(format!(
                    "unable to execute the init stage: {}",
                    brig_sys::errno_text(errno)
                ))));
            }
            let message = packet.strip_prefix(TYPED).ok_or_else(|| Error::other("a message of no known kind"))?;
            match decode(message)? {
                FromInit::Request { step, body } => return Ok(Event::Request(step, body, fds.into_iter().next())),
                FromInit::Log { warning, message } => log(warning, &message),
                FromInit::Failed { kind, message } => return Ok(Event::Failed(Error::new(kind.into(), message))),
            }
        }
    }

    /// Decodes the body of a request of type `R`.
    pub fn read<R: Request>(&self, body: &[u8]) -> Result<R> {
        decode(body)
    }

    /// Answers a request of type `R`.
    pub fn answer<R: Request>(&self, reply: &R::Reply) -> Result<()> {
        self.answer_with::<R>(reply, &[])
    }

    /// Answers a request of type `R`, with descriptors.
    pub fn answer_with<R: Request>(&self, reply: &R::Reply, fds: &[BorrowedFd]) -> Result<()> {
        // A unit reply would be an empty packet, which means end of file, so one byte precedes every reply.
        let mut packet = vec![0u8];
        packet.extend(encode(reply)?);
        socket::send(self.0.as_fd(), &packet, fds).context("unable to answer the new process")
    }
}

/// Init's end of the channel.
#[derive(Debug)]
pub struct InitEnd(OwnedFd);

impl InitEnd {
    /// Takes the descriptor that the parent left open.
    pub fn from_fd(fd: OwnedFd) -> InitEnd {
        InitEnd(fd)
    }

    /// Duplicates the handle.
    pub fn try_clone(&self) -> Result<InitEnd> {
        self.0.try_clone().map(InitEnd).context("unable to copy an fd")
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Sends a request and waits for its reply.
    pub fn ask<R: Request>(&self, request: &R) -> Result<R::Reply> {
        self.send(request, &[])?;
        self.await_reply::<R>()
    }

    /// Sends a request and waits for its reply and the descriptor sent with it.
    pub fn ask_for_fd<R: Request>(&self, request: &R) -> Result<(R::Reply, Option<OwnedFd>)> {
        self.send(request, &[])?;
        self.receive::<R>()
    }

    /// Sends a request with descriptors, without waiting: the reply is for another process that shares the channel.
    pub fn send<R: Request>(&self, request: &R, fds: &[BorrowedFd]) -> Result<()> {
        let message = FromInit::Request { step: R::STEP, body: encode(request)? };
        socket::send(self.0.as_fd(), &typed(&message)?, fds).context("the parent is gone")
    }

    /// Waits for the reply to a request of type `R`.
    pub fn await_reply<R: Request>(&self) -> Result<R::Reply> {
        self.receive::<R>().map(|(reply, _)| reply)
    }

    fn receive<R: Request>(&self) -> Result<(R::Reply, Option<OwnedFd>)> {
        let (packet, fds) = socket::receive(self.0.as_fd(), LIMIT).context("unable to receive from the parent")?;
        match packet.split_first() {
            Some((_, reply)) => Ok((decode(reply)?, fds.into_iter().next())),
            None => Err(Error::other("the parent is gone")),
        }
    }

    /// Sends a log line. A parent that has exited is noticed at the next request.
    pub fn log(&self, warning: bool, message: impl Into<String>) -> Result<()> {
        let message = FromInit::Log { warning, message: cut(message.into()) };
        socket::send(self.0.as_fd(), &typed(&message)?, &[]).context("the parent is gone")
    }

    /// Reports the error with which init gives up.
    pub fn failed(&self, error: &Error) -> Result<()> {
        let message = FromInit::Failed { kind: Kind::from(error.kind()), message: cut(error.to_string()) };
        socket::send(self.0.as_fd(), &typed(&message)?, &[]).context("the parent is gone")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::{Limits, Mounted, Ready, Recorded, SecondStage};

    #[test]
    fn a_small_request_is_not_mistaken_for_an_errno() {
        let (parent, init) = pair().unwrap();
        for pid in [1, 63, 64, 8191, 8192] {
            init.send(&SecondStage { pid }, &[]).unwrap();
            let Event::Request(Step::SecondStage, body, _) = parent.next(|| Ok(()), |_, _| ()).unwrap() else {
                panic!("pid {pid}")
            };
            assert_eq!(parent.read::<SecondStage>(&body).unwrap().pid, pid);
        }
    }

    #[test]
    fn a_long_text_is_shortened_in_its_middle() {
        let (parent, init) = pair().unwrap();
        let long = format!("begin {} end", "\u{20ac}".repeat(100_000));
        init.log(false, long.clone()).unwrap();
        init.failed(&Error::other(long)).unwrap();
        let mut line = String::new();
        let Event::Failed(error) = parent.next(|| Ok(()), |_, text| line = text.to_owned()).unwrap() else {
            panic!("no error")
        };
        for text in [error.to_string(), line] {
            assert!(text.starts_with("begin ") && text.ends_with(" end") && text.len() < MAX_TEXT_LEN + 100);
        }
    }

    #[test]
    fn requests_replies_logs_and_errors_arrive_as_sent() {
        let (parent, init) = pair().unwrap();
        let child = std::thread::spawn(move || {
            init.log(true, "careful").unwrap();
            init.ask(&Mounted).unwrap();
            init.ask(&Limits { failed: vec![2], scheduler: false }).unwrap();
            assert!(init.ask(&Ready).unwrap().seccomp.is_none());
            init.failed(&Error::new(crate::error::ErrorKind::Executable, "exec: no")).unwrap();
        });
        let mut lines = Vec::new();
        let mut next = || parent.next(|| Ok(()), |warning, line| lines.push((warning, line.to_owned()))).unwrap();
        let Event::Request(Step::Mounted, ..) = next() else { panic!("Mounted comes first") };
        parent.answer::<Mounted>(&()).unwrap();
        let Event::Request(Step::Limits, body, _) = next() else { panic!("then Limits") };
        assert_eq!(parent.read::<Limits>(&body).unwrap().failed, [2]);
        parent.answer::<Limits>(&()).unwrap();
        let Event::Request(Step::Ready, ..) = next() else { panic!("then Ready") };
        parent.answer::<Ready>(&Recorded { seccomp: None }).unwrap();
        let Event::Failed(error) = next() else { panic!("then the last word") };
        assert_eq!(error.kind(), crate::error::ErrorKind::Executable);
        child.join().unwrap();
        assert!(matches!(next(), Event::End));
        assert_eq!(lines, [(true, "careful".to_owned())]);
    }
}
