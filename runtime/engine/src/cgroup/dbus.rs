//! A D-Bus connection to systemd: calls, their answers, and one signal.
//!
//! This is a small client of our own: the start of a unit needs half a dozen calls of a few types, with blocking reads.
//! Measured as growth of a static release binary, libdbus adds 400 KB of C, and zbus 1400 KB and an async runtime.

mod wire;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Context, Error, ErrorKind, Result};
use brig_plan::cgroup::variant::Value;
use wire::{FIXED, Message, Target};

/// The timeout of one answer of systemd, or of one job.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// The cause of a failed call.
#[derive(Debug)]
pub(super) enum CallError {
    /// An error answer of the peer: the error's name, such as `org.freedesktop.systemd1.UnitExists`, and its text.
    Remote(String, String),
    /// A failure of the connection.
    Local(Error),
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Error {
        match error {
            CallError::Remote(name, text) if text.is_empty() => Error::other(name),
            CallError::Remote(_, text) => Error::other(text),
            CallError::Local(error) => error,
        }
    }
}

/// A connection to one systemd.
#[derive(Debug)]
pub(super) struct Bus {
    stream: BufReader<UnixStream>,
    serial: u32,
    /// The connection goes through a bus, on which systemd has a name.
    routed: bool,
    signals: VecDeque<Message>,
}

const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const DAEMON: &str = "org.freedesktop.DBus";

/// The addresses of a systemd, the preferred one first; each with a flag for a bus.
fn addresses(user: bool) -> Vec<(PathBuf, bool)> {
    // The form is `unix:path=/run/user/1000/bus,guid=...`; only paths are supported here.
    let address = |name: &str| {
        let text = std::env::var(name).ok()?;
        let path = text.split(';').find_map(|one| one.strip_prefix("unix:path="))?;
        Some((PathBuf::from(path.split(',').next()?), true))
    };
    if !user {
        // systemd's own socket is for root alone, and works without a bus. A bus that the environment names has
        // precedence.
        let usual = vec![("/run/systemd/private".into(), false), ("/run/dbus/system_bus_socket".into(), true)];
        return address("DBUS_SYSTEM_BUS_ADDRESS").map_or(usual, |bus| vec![bus]);
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let private = runtime.as_ref().map(|dir| (dir.join("systemd/private"), false));
    let bus = address("DBUS_SESSION_BUS_ADDRESS").or_else(|| runtime.map(|dir| (dir.join("bus"), true)));
    private.into_iter().chain(bus).collect()
}

impl Bus {
    /// Connects to the system's systemd, or to the caller's own.
    pub(super) fn connect(user: bool) -> Result<Bus> {
        let mut reasons = Vec::new();
        for (path, routed) in addresses(user) {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    let what = || format!("cannot talk to systemd through {}", path.display());
                    return Bus::begin(stream, routed).with_context(what);
                }
                Err(error) => reasons.push(format!("{}: {error}", path.display())),
            }
        }
        let hint = if user {
            " (a user's systemd needs XDG_RUNTIME_DIR or DBUS_SESSION_BUS_ADDRESS, and often the package dbus-user-session)"
        } else {
            " (use the cgroupfs manager on a host without systemd)"
        };
        Err(Error::new(ErrorKind::Unsupported, format!("failed to connect to systemd: {}{hint}", reasons.join(", "))))
    }

    fn begin(stream: UnixStream, routed: bool) -> Result<Bus> {
        stream.set_read_timeout(Some(REPLY_TIMEOUT)).context("cannot set a timeout")?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT)).context("cannot set a timeout")?;
        let mut bus = Bus { stream: BufReader::new(stream), serial: 0, routed, signals: VecDeque::new() };
        // Without an identity the server takes that of the socket's peer, which is right in any user namespace. All
        // lines must be sent at once: a systemd that read BEGIN and the first call together would answer the call only
        // after more data, since it has buffered the call unread. After OK it is past BEGIN.
        bus.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        bus.expect("DATA")?;
        bus.expect("OK")?;
        if routed {
            bus.daemon("Hello", &[])?;
            let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
            bus.daemon("AddMatch", &[Value::Str(rule)])?;
            bus.manager("Subscribe", &[])?;
        }
        Ok(bus)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(bytes).context("cannot write to D-Bus")
    }

    /// Reads and checks a line of the authentication.
    fn expect(&mut self, expected: &str) -> Result<()> {
        let mut answer = String::new();
        self.stream.by_ref().take(4096).read_line(&mut answer).context("cannot read from D-Bus")?;
        if answer.split_whitespace().next() == Some(expected) {
            return Ok(());
        }
        Err(Error::other(format!("D-Bus does not authenticate this user: {:?}", answer.trim_end())))
    }

    fn receive(&mut self) -> Result<Message> {
        let mut fixed = [0u8; FIXED];
        self.stream.read_exact(&mut fixed).context("no answer from D-Bus")?;
        let broken = || Error::other("D-Bus sent a broken message");
        let length = wire::length(&fixed).ok_or_else(broken)?;
        let mut bytes = fixed.to_vec();
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[FIXED..]).context("no answer from D-Bus")?;
        wire::parse(&bytes).ok_or_else(broken)
    }

    fn call(&mut self, target: Target<'_>, arguments: &[Value]) -> std::result::Result<Vec<Value>, CallError> {
        self.serial += 1;
        let serial = self.serial;
        let target = if self.routed { target } else { Target { destination: "", ..target } };
        self.send(&wire::call(serial, target, arguments)).map_err(CallError::Local)?;
        loop {
            let message = self.receive().map_err(CallError::Local)?;
            match message.kind {
                wire::RETURN if message.reply_to == serial => return Ok(message.body),
                wire::ERROR if message.reply_to == serial => {
                    let text = match message.body.into_iter().next() {
                        Some(Value::Str(text)) => text,
                        _ => String::new(),
                    };
                    return Err(CallError::Remote(message.error, text));
                }
                // The signal may precede the answer that names the job.
                wire::SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    fn daemon(&mut self, member: &str, arguments: &[Value]) -> Result<Vec<Value>> {
        let target = Target { destination: DAEMON, path: "/org/freedesktop/DBus", interface: DAEMON, member };
        Ok(self.call(target, arguments)?)
    }

    /// Calls a method of systemd's manager.
    pub(super) fn manager(&mut self, member: &str, arguments: &[Value]) -> std::result::Result<Vec<Value>, CallError> {
        let target = Target { destination: SYSTEMD, path: SYSTEMD_PATH, interface: MANAGER, member };
        self.call(target, arguments)
    }

    /// Reads a property as text. `path` is an object's; empty for the manager.
    pub(super) fn property(&mut self, path: &str, interface: &str, name: &str) -> Result<String> {
        let target = Target {
            destination: SYSTEMD,
            path: if path.is_empty() { SYSTEMD_PATH } else { path },
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
        };
        let interface = if interface.is_empty() { MANAGER } else { interface };
        let answer = self.call(target, &[Value::text(interface), Value::text(name)])?;
        match answer.into_iter().next() {
            Some(Value::Variant(value)) => match *value {
                Value::Str(text) | Value::Path(text) => Ok(text),
                other => Err(Error::other(format!("systemd's {name} is no text: {other:?}"))),
            },
            other => Err(Error::other(format!("systemd's {name} is no property: {other:?}"))),
        }
    }

    /// Waits for the signal JobRemoved of `job`, and returns the job's result: `done`, `failed`, ...
    pub(super) fn job_result(&mut self, job: &str) -> Result<String> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        loop {
            let message = match self.signals.pop_front() {
                Some(message) => message,
                None => self.receive()?,
            };
            // JobRemoved(u id, o job, s unit, s result)
            if message.kind == wire::SIGNAL
                && message.member == "JobRemoved"
                && let [_, Value::Path(path), _, Value::Str(result)] = &message.body[..]
                && path == job
            {
                return Ok(result.clone());
            }
            if Instant::now() >= deadline {
                return Err(Error::other(format!("systemd does not finish the job {job}")));
            }
        }
    }
}
