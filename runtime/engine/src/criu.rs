//! CRIU at work for us: `criu swrk`, its service for a single client, over a socket that it inherits (criu.org/RPC).
//!
//! ```text
//! request(DUMP or RESTORE, options) ─────►
//!                  ◄── notification: setup-namespaces, post-restore, orphan-pts-master with a terminal's master ...
//! handled, or not ───────────────────────►   as often as there is something to tell
//!                  ◄── the end: success, or an errno and a line of the log
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

/// The largest message of CRIU's (criu/cr-service.c, CR_MAX_MSG_SIZE is smaller).
const LIMIT: usize = 64 * 1024;

/// What is asked for (criu_req_type of CRIU's rpc.proto).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Save, and end the processes unless told otherwise.
    Dump = 1,
    /// Bring back.
    Restore = 2,
    /// Save memory alone, and let the processes go on.
    PreDump = 4,
}

const NOTIFY: u64 = 6;

/// Something that CRIU tells in between, and waits for our answer to.
#[derive(Debug)]
pub struct Notification {
    /// What: a name of CRIU's action scripts.
    pub script: String,
    /// The process in question, in this process's pid namespace; 0 without one.
    pub pid: i32,
    /// The terminal's master, with `orphan-pts-master`.
    pub fd: Option<OwnedFd>,
}

/// Where CRIU runs.
#[derive(Debug, Default)]
pub struct Place<'a> {
    /// The cgroup2 directory in which it is born: what it restores is born there too.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Files of v1 cgroups that it enters first.
    pub enter: &'a [BorrowedFd<'a>],
    /// Its standard streams, which what it restores may inherit. Without, the caller's own.
    pub stdio: Option<[BorrowedFd<'a>; 3]>,
    /// More descriptors that it inherits, by their numbers.
    pub inherit: &'a [BorrowedFd<'a>],
}

/// A running CRIU. It is killed when it is dropped before its end.
#[derive(Debug)]
pub struct Criu {
    child: Option<Child>,
    socket: OwnedFd,
}

impl Criu {
    /// Starts it, in a process of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when CRIU is not installed.
    pub fn start(place: &Place<'_>) -> Result<Criu> {
        let program = find()?;
        let image = File::open(&program).with_context(|| format!("unable to open {}", program.display()))?;
        let (ours, theirs) = socket::packet_pair()?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| SysError::from_rustix("pipe2", "", error))?;
        let mut inherit = place.inherit.to_vec();
        inherit.push(theirs.as_fd());
        let text = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Error::other("a NUL byte in the environment"));
        let number = text(OsStr::new(&theirs.as_raw_fd().to_string()))?;
        let path = text(&std::env::var_os("PATH").map_or_else(|| DEFAULT_PATH.into(), |path| {
            let mut whole = std::ffi::OsString::from("PATH=");
            whole.push(path);
            whole
        }))?;
        let child = process::spawn_sealed(&Spawn {
            namespaces: 0,
            cgroup: place.cgroup,
            enter: place.enter,
            image: image.as_fd(),
            argv: &[c"criu", c"swrk", &number],
            env: &[&path],
            stdio: place.stdio,
            inherit: &inherit,
            wait: None,
            become_root: false,
            report: writer.as_fd(),
        })
        .with_context(|| format!("unable to start {}", program.display()))?;
        drop(writer);
        let criu = Criu { child: Some(child), socket: ours };
        let mut errno = Vec::new();
        // An end without a word: it was executed, and by then is in its cgroups.
        File::from(reader).read_to_end(&mut errno).context("unable to hear of CRIU")?;
        match <[u8; 4]>::try_from(errno.as_slice()) {
            Ok(errno) => {
                let errno = nix::errno::Errno::from_raw(i32::from_ne_bytes(errno));
                Err(Error::other(format!("unable to start {}: {}", program.display(), errno.desc())))
            }
            Err(_) => Ok(criu),
        }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    /// Asks for one thing, hands on what CRIU tells meanwhile, and waits for its end.
    ///
    /// # Errors
    /// What `on` gave, to which CRIU gives up; or what CRIU says, with the place of its log.
    pub fn request(
        mut self,
        kind: Kind,
        options: &Options<'_>,
        on: &mut dyn FnMut(Notification) -> Result<()>,
    ) -> Result<()> {
        let request = Message::default().number(1, kind as i64).message(2, &options.message());
        socket::send(self.socket.as_fd(), request.bytes(), &[]).context("unable to ask CRIU")?;
        let mut refused = None;
        let answer = loop {
            let (packet, fds) = socket::receive(self.socket.as_fd(), LIMIT).context("unable to hear from CRIU")?;
            if packet.is_empty() {
                break Answer { message: "it ended without a word".to_owned(), ..Answer::default() };
            }
            let answer = Answer::read(&packet);
            if answer.kind != NOTIFY {
                break answer;
            }
            let fd = fds.into_iter().next();
            let done = on(Notification { script: answer.script, pid: answer.pid, fd });
            let reply = Message::default().number(1, NOTIFY as i64).number(3, i64::from(done.is_ok()));
            refused = done.err().or(refused);
            socket::send(self.socket.as_fd(), reply.bytes(), &[]).context("unable to answer CRIU")?;
        };
        if answer.success && refused.is_none() {
            return self.end(kind);
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

    /// After success it ends by itself; but from a pre-dump it waits for the dump that may follow.
    fn end(&mut self, kind: Kind) -> Result<()> {
        if kind == Kind::PreDump {
            return Ok(());
        }
        if let Some(child) = &self.child {
            rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write)
                .map_err(|error| SysError::from_rustix("shutdown", "", error))?;
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
                Err(error) if error.errno() != nix::errno::Errno::ECHILD => tracing::warn!("unable to clean up: {error}"),
                _ => {}
            }
        }
    }
}

/// Where programs are looked for when the environment does not say.
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

/// The last error in CRIU's log, which says more than its errno. The log is often beside the images, which may come from
/// anywhere.
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
                            (2, Value::Number(pid)) => answer.pid = pid as i32,
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => answer.errno = errno as i32,
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
    fn answers_are_read() {
        let notification = Message::default().text(1, "post-restore").number(2, 77);
        let packet = Message::default().number(1, NOTIFY as i64).number(2, 1).message(5, &notification);
        let answer = Answer::read(packet.bytes());
        assert_eq!((answer.kind, answer.success, answer.script.as_str(), answer.pid), (NOTIFY, true, "post-restore", 77));
        let failed = Message::default().number(1, 1).number(2, 0).number(7, 22).text(9, "no");
        let answer = Answer::read(failed.bytes());
        assert_eq!((answer.success, answer.errno, answer.message.as_str()), (false, 22, "no"));
    }
}
