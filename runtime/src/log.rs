//! The log: runc's lines, in runc's two formats, to a file or to standard error; or bare messages to journald or
//! syslog, for crun's `--log journald:ID` and `--log syslog:ID`.

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use brig_engine::error::{Context, Error, Result, without_numbers};
use brig_wire::logrus::quoted;

/// The format of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="..." level=error msg="..."`
    #[default]
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`
    Json,
}

impl Format {
    /// Parses the value of `--log-format`.
    pub fn new(name: &str) -> Result<Format> {
        match name {
            "" | "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(Error::other(format!("invalid log-format: {name}"))),
        }
    }
}

/// Opens the log of this process; may be called once.
///
/// `destination` is a file, or standard error if `None`; `debug` enables debug lines.
pub fn init(destination: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let sink = destination.map_or(Ok(Sink::Stderr), Sink::open)?;
    TO_FILE.get_or_init(|| !matches!(sink, Sink::Stderr));
    let log = Log { sink, format, level: if debug { Level::DEBUG } else { Level::INFO } };
    tracing::subscriber::set_global_default(log).map_err(|_| Error::other("the log is open already"))
}

static TO_FILE: OnceLock<bool> = OnceLock::new();

/// The destination of the lines.
enum Sink {
    Stderr,
    File(File),
    /// journald's socket, and the identifier of the entries.
    Journal(UnixDatagram, String),
    /// syslogd's socket, and the identifier of the messages.
    Syslog(UnixDatagram, String),
}

/// The sockets of journald (systemd-journald.service(8)) and of syslogd (syslog(3)).
const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
const SYSLOG_SOCKET: &str = "/dev/log";

impl Sink {
    fn open(destination: &Path) -> Result<Sink> {
        let identifier = |prefix: &str| destination.as_os_str().as_bytes().strip_prefix(prefix.as_bytes());
        if let Some(identifier) = identifier("journald:") {
            return Ok(Sink::Journal(connect(JOURNAL_SOCKET, "--log journald:")?, name(identifier)));
        }
        if let Some(identifier) = identifier("syslog:") {
            return Ok(Sink::Syslog(connect(SYSLOG_SOCKET, "--log syslog:")?, name(identifier)));
        }
        let path = identifier("file:").map_or(destination, |path| Path::new(std::ffi::OsStr::from_bytes(path)));
        let open = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
        Ok(Sink::File(open.with_context(|| format!("open log file {}", path.display()))?))
    }
}

/// The identifier of entries: the text after the colon, without control characters; the program's name if that is
/// empty.
fn name(identifier: &[u8]) -> String {
    let name: String = String::from_utf8_lossy(identifier).chars().filter(|sign| !sign.is_control()).collect();
    if name.is_empty() { "brig".to_owned() } else { name }
}

/// Connects to a logging service. A service that does not read delays the runtime by at most WRITE_TIMEOUT a line.
fn connect(path: &str, what: &str) -> Result<UnixDatagram> {
    const WRITE_TIMEOUT: Duration = Duration::from_millis(200);
    let unable = || format!("{what} unable to connect to {path} (is that service running?)");
    let socket = UnixDatagram::unbound().with_context(unable)?;
    socket.connect(path).with_context(unable)?;
    socket.set_write_timeout(Some(WRITE_TIMEOUT)).with_context(unable)?;
    Ok(socket)
}

/// The syslog priority of a level (syslog(3)).
fn priority(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Formats an entry in journald's native protocol. The message is length-prefixed, because it may have line breaks.
fn journal_entry(level: &Level, identifier: &str, message: &str) -> Vec<u8> {
    let mut entry = format!("PRIORITY={}\nSYSLOG_IDENTIFIER={identifier}\nID={identifier}\nMESSAGE\n", priority(level))
        .into_bytes();
    entry.extend((message.len() as u64).to_le_bytes());
    entry.extend(message.as_bytes());
    entry.push(b'\n');
    entry
}

/// Formats a message of syslogd's local protocol, with the facility LOG_USER.
fn syslog_message(level: &Level, identifier: &str, message: &str) -> String {
    const LOG_USER: u8 = 1 << 3;
    format!("<{}>{identifier}[{}]: {message}", LOG_USER | priority(level), std::process::id())
}

/// Reports the error of a failed command: a line in the log and, if that is a file, the bare message on standard
/// error.
pub fn fatal(message: &str) {
    match TO_FILE.get() {
        Some(to_file) => {
            tracing::error!("{message}");
            if *to_file {
                // Standard error is the last resort: its failure cannot be reported.
                let _ = writeln!(std::io::stderr(), "{message}");
            }
        }
        // The log failed to open, or the arguments were wrong before it was opened.
        None => {
            let line = line(Format::Text, "error", message, "", SystemTime::now());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

struct Log {
    sink: Sink,
    format: Format,
    level: Level,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        let line = || line(self.format, level, &text.message, &text.fields, SystemTime::now());
        let bare =
            || if text.fields.is_empty() { text.message.clone() } else { format!("{}:{}", text.message, text.fields) };
        let level = event.metadata().level();
        // A log that cannot be written to must not fail the container. A single write keeps the line whole.
        let _ = match &self.sink {
            Sink::Stderr => std::io::stderr().write_all(line().as_bytes()),
            Sink::File(file) => (&*file).write_all(line().as_bytes()),
            Sink::Journal(socket, identifier) => socket.send(&journal_entry(level, identifier, &bare())).map(drop),
            Sink::Syslog(socket, identifier) => {
                socket.send(syslog_message(level, identifier, &bare()).as_bytes()).map(drop)
            }
        };
    }

    // Spans are never enabled.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// An event's message, and its other fields as ` name=value`.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a String does not fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}

fn line(format: Format, level: &str, message: &str, fields: &str, time: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(time);
    let message = if fields.is_empty() { message.to_owned() } else { format!("{message}:{fields}") };
    let message = without_numbers(&message);
    match format {
        Format::Text => format!("time=\"{time}\" level={level} msg={}\n", quoted(&message)),
        Format::Json => {
            format!("{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{time}\"}}\n", serde_json::Value::from(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_have_runcs_format() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_344_507);
        assert_eq!(
            line(Format::Text, "error", "container does not exist", "", time),
            "time=\"2026-11-22T10:48:27Z\" level=error msg=\"container does not exist\"\n"
        );
        assert_eq!(
            line(Format::Json, "error", "exec: \"x\": not found", "", time),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\": not found\",\"time\":\"2026-11-22T10:48:27Z\"}\n"
        );
        assert_eq!(
            line(Format::Text, "debug", "opened", " fd=3", time),
            "time=\"2026-11-22T10:48:27Z\" level=debug msg=\"opened: fd=3\"\n"
        );
    }

    #[test]
    fn journal_and_syslog_entries_have_level_identifier_and_message() {
        let entry = journal_entry(&Level::WARN, "box", "a\nPRIORITY=0");
        let head = b"PRIORITY=4\nSYSLOG_IDENTIFIER=box\nID=box\nMESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert_eq!(entry, head);
        let expected = format!("<11>box[{}]: failed", std::process::id());
        assert_eq!(syslog_message(&Level::ERROR, "box", "failed"), expected);
        assert_eq!((name(b""), name(b"a\nb")), ("brig".to_owned(), "ab".to_owned()));
    }

    #[test]
    fn unknown_formats_are_refused() {
        assert_eq!(Format::new("json").unwrap(), Format::Json);
        assert_eq!(Format::new("xml").unwrap_err().to_string(), "invalid log-format: xml");
    }
}
