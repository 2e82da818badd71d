//! CRIU as a service for a single client (`criu swrk`), over a socket that it inherits (criu.org/RPC).
//!
//! ```text
//! request(DUMP or RESTORE, options) ─────►
//!                  ◄── notification: setup-namespaces, post-restore, orphan-pts-master with a terminal's master ...
//! handled, or not ───────────────────────►   repeated for every notification
//!                  ◄── response: success, or an errno and a line of the log
//! ```

mod options;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, ErrorKind, Result};
use brig_sys::process::{self, Child, Spawn};
use brig_sys::{SysError, file, socket};
use brig_wire::protobuf::{Message, Value, fields};

pub use options::{Mapped, Options};

/// The maximum length of a message of CRIU's (CR_MAX_MSG_SIZE of criu/cr-service.c is smaller).
const MAX_MESSAGE_LEN: usize = 64 * 1024;

/// The type of a request (criu_req_type of CRIU's rpc.proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Saves the processes, and kills them unless the options say otherwise.
    Dump = 1,
    /// Restores the processes.
    Restore = 2,
    /// Saves memory alone, and lets the processes continue.
    PreDump = 4,
}

const NOTIFY: u32 = 6;

/// A notification by CRIU, which waits for the reply.
#[derive(Debug)]
pub struct Notification {
    /// The name of the event, as in CRIU's action scripts.
    pub script: String,
    /// The event's process, in this process's pid namespace; 0 without one.
    pub pid: i32,
    /// The terminal's master, in `orphan-pts-master`.
    pub fd: Option<OwnedFd>,
}

/// The environment in which CRIU runs.
#[derive(Debug, Default)]
pub struct CriuContext<'a> {
    /// The cgroup2 directory in which CRIU starts, and with it the restored processes.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Files of v1 cgroups that CRIU enters first.
    pub enter: &'a [BorrowedFd<'a>],
    /// CRIU's standard streams, which the restored processes may inherit. `None` means the caller's own.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// More descriptors that CRIU inherits, by their numbers.
    pub inherit: &'a [BorrowedFd<'a>],
}

/// A running CRIU. Dropping it before its exit kills it.
#[derive(Debug)]
pub struct Criu {
    child: Option<Child>,
    socket: OwnedFd,
}

impl Criu {
    /// Starts CRIU in a process of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when CRIU is not installed.
    pub fn start(context: &CriuContext<'_>) -> Result<Criu> {
        let program = find()?;
        let image = File::open(&program).with_context(|| format!("unable to open {}", program.display()))?;
        let (ours, theirs) = socket::packet_pair()?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| SysError::new("pipe2", "", error))?;
        let mut inherit = context.inherit.to_vec();
        inherit.push(theirs.as_fd());
        let text =
            |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Error::other("a NUL byte in the environment"));
        let number = text(OsStr::new(&theirs.as_raw_fd().to_string()))?;
        let path = text(&std::env::var_os("PATH").map_or_else(
            || DEFAULT_PATH.into(),
            |path| {
                let mut whole = std::ffi::OsString::from("PATH=");
                whole.push(path);
                whole
            },
        ))?;
        let child = process::spawn_sealed(&Spawn {
            namespaces: 0,
            cgroup: context.cgroup,
            enter: context.enter,
            image: image.as_fd(),
            argv: &[c"criu", c"swrk", &number],
            env: &[&path],
            stdio: context.stdio,
            preserve: 0,
            inherit: &inherit,
            wait: None,
            become_root: false,
            report: writer.as_fd(),
        })
        .with_context(|| format!("unable to start {}", program.display()))?;
        drop(writer);
        let criu = Criu { child: Some(child), socket: ours };
        let mut errno = Vec::new();
        // An end of file without data: the program was executed, and by then is in its cgroups.
        File::from(reader).read_to_end(&mut errno).context("unable to read the result of starting CRIU")?;
        match <[u8; 4]>::try_from(errno.as_slice()) {
            Ok(errno) => {
                let errno = rustix::io::Errno::from_raw_os_error(i32::from_ne_bytes(errno));
                Err(Error::other(format!("unable to start {}: {}", program.display(), brig_sys::errno_text(errno))))
            }
            Err(_) => Ok(criu),
        }
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    /// Sends one request, passes on CRIU's notifications, and waits for the response.
    ///
    /// # Errors
    /// The error of `on`, upon which CRIU gives up; or CRIU's error, with the path of its log.
    pub fn request(
        mut self,
        kind: Kind,
        options: &Options<'_>,
        on: &mut dyn FnMut(Notification) -> Result<()>,
    ) -> Result<()> {
        let request = Message::default().number(1, kind as i64).message(2, &options.message());
        socket::send(self.socket.as_fd(), request.bytes(), &[]).context("unable to send the request to CRIU")?;
        let mut refused = None;
        let answer = loop {
            let (packet, fds) =
                socket::receive(self.socket.as_fd(), MAX_MESSAGE_LEN).context("unable to receive a message of CRIU")?;
            if packet.is_empty() {
                break Answer { message: "CRIU exited without a response".to_owned(), ..Answer::default() };
            }
            let answer = Answer::read(&packet);
            if answer.kind != u64::from(NOTIFY) {
                break answer;
            }
            let fd = fds.into_iter().next();
            let done = on(Notification { script: answer.script, pid: answer.pid, fd });
            let reply = Message::default().number(1, NOTIFY.into()).number(3, i64::from(done.is_ok()));
            refused = done.err().or(refused);
            socket::send(self.socket.as_fd(), reply.bytes(), &[]).context("unable to send the reply to CRIU")?;
        };
        if answer.success && refused.is_none() {
            return self.wait_exit(kind);
        }
        let error = refused.unwrap_or_else(|| {
            let log = options.log_path();
            let said = last_error(&log).map(|line| format!(": {line}")).unwrap_or_default();
            let how = if answer.message.is_empty() { said } else { format!(": {}{said}", answer.message) };
            let errno = answer.errno;
            Error::other(format!("criu failed: type {kind:?} errno {errno}{how} (log file: {})", log.display()))
        });
        Err(error)
    }

    /// Waits for CRIU's exit. It exits by itself after success, except after a pre-dump: then it waits for the dump
    /// that may follow.
    fn wait_exit(&mut self, kind: Kind) -> Result<()> {
        if kind == Kind::PreDump {
            return Ok(());
        }
        if let Some(child) = &self.child {
            rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write)
                .map_err(|error| SysError::new("shutdown", "", error))?;
            process::wait(child.pidfd.as_fd())?;
            self.child = None;
        }
        Ok(())
    }
}

impl Drop for Criu {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let killed = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            match killed.and_then(|()| process::wait(child.pidfd.as_fd()).map(drop)) {
                Err(error) if error.errno() != rustix::io::Errno::CHILD => {
                    tracing::warn!("criu: unable to wait for its exit: {error}")
                }
                _ => {}
            }
        }
    }
}

/// The search path for programs if the environment has none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn find() -> Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.trim_start_matches("PATH=").to_owned());
    let found = path.split(':').chain(["/usr/local/sbin", "/usr/sbin"]).filter(|directory| !directory.is_empty());
    let found = found.map(|directory| Path::new(directory).join("criu")).find(|program| program.is_file());
    found.ok_or_else(|| {
        let text = "checkpoint and restore need the program criu, and it is not in PATH (install CRIU 3.14 or later)";
        Error::new(ErrorKind::Unsupported, text)
    })
}

/// The last error in CRIU's log, which has more detail than CRIU's errno. The log often lies beside the images, whose
/// source is not trusted.
fn last_error(log: &Path) -> Option<String> {
    const MAX_BYTES: u64 = 64 << 20;
    let text = String::from_utf8_lossy(&file::read_nofollow(log, MAX_BYTES).ok()??).into_owned();
    let line = text.lines().rev().find(|line| line.contains("Error"))?;
    Some(line.trim().chars().take(300).collect())
}

/// criu_resp of rpc.proto.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    kind: u64,
    success: bool,
    script: String,
    pid: i32,
    errno: i32,
    message: String,
}

/// An int32, which is sent as a 64-bit number; its high half repeats the sign (protobuf.dev, Encoding).
fn int32(number: u64) -> i32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    i32::from_le_bytes([a, b, c, d])
}

impl Answer {
    fn read(packet: &[u8]) -> Answer {
        let mut answer = Answer::default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        for (field, value) in fields(packet) {
            match (field, value) {
                (1, Value::Number(kind)) => answer.kind = kind,
                (2, Value::Number(success)) => answer.success = success != 0,
                (5, Value::Bytes(notification)) => {
                    for (field, value) in fields(notification) {
                        match (field, value) {
                            (1, Value::Bytes(script)) => answer.script = text(script),
                            (2, Value::Number(pid)) => answer.pid = int32(pid),
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => answer.errno = int32(errno),
                (9, Value::Bytes(message)) => answer.message = text(message),
                _ => {}
            }
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_parsed() {
        let notification = Message::default().text(1, "post-restore").number(2, 77);
        let packet = Message::default().number(1, NOTIFY.into()).number(2, 1).message(5, &notification);
        let answer = Answer::read(packet.bytes());
        assert_eq!(
            (answer.kind, answer.success, answer.script.as_str(), answer.pid),
            (NOTIFY.into(), true, "post-restore", 77)
        );
        let failed = Message::default().number(1, 1).number(2, 0).number(7, 22).text(9, "no");
        let answer = Answer::read(failed.bytes());
        assert_eq!((answer.success, answer.errno, answer.message.as_str()), (false, 22, "no"));
    }
}
