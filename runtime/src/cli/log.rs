//! The log: runc's lines, in runc's two formats, to a file or to standard error.
#![forbid(unsafe_code)]

use std::fmt::{self, Write as _};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::error::{Context, Error, Result, without_numbers};

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `time="..." level=error msg="..."`
    #[default]
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`
    Json,
}

impl Format {
    /// From the value of `--log-format`.
    pub fn new(name: &str) -> Result<Format> {
        match name {
            "" | "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(Error::other(format!("invalid log-format: {name}"))),
        }
    }
}

/// Sends the log of this process to its place; once in its life.
///
/// Without a `file` it goes to standard error. `debug` adds debug lines to it.
pub fn init(file: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let file = match file {
        Some(path) => {
            let open = OpenOptions::new().append(true).create(true).mode(0o644).open(path);
            Some(open.with_context(|| format!("open log file {}", path.display()))?)
        }
        None => None,
    };
    TO_FILE.get_or_init(|| file.is_some());
    let log = Log { file, format, level: if debug { Level::DEBUG } else { Level::INFO } };
    tracing::subscriber::set_global_default(log).map_err(|_| Error::other("the log is open already"))
}

static TO_FILE: OnceLock<bool> = OnceLock::new();

/// The last words of a command that failed: a line of the log and, if that is a file, the bare message on
/// standard error.
pub fn fatal(message: &str) {
    match TO_FILE.get() {
        Some(to_file) => {
            tracing::error!("{message}");
            if *to_file {
                // There is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "{message}");
            }
        }
        // The log could not be opened, or the arguments were wrong before it was.
        None => {
            let line = line(Format::Text, "error", message, "", SystemTime::now());
            let _ = std::io::stderr().write_all(line.as_bytes());
        }
    }
}

struct Log {
    file: Option<File>,
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
        let line = line(self.format, level, &text.message, &text.fields, SystemTime::now());
        // A log that cannot be written to must not fail the container. One write keeps the line whole.
        let _ = match &self.file {
            Some(file) => (&*file).write_all(line.as_bytes()),
            None => std::io::stderr().write_all(line.as_bytes()),
        };
    }

    // There are no spans: `enabled` refuses them.
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
        Format::Json => format!("{{\"level\":\"{level}\",\"msg\":{},\"time\":\"{time}\"}}\n", serde_json::Value::from(message)),
    }
}

/// Text as logrus writes it. It quotes what has more than letters, digits and a few signs; it quotes as Go does.
pub fn quoted(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte)) {
        return text.to_owned();
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            control if u32::from(control) < 0x20 || control == '\x7f' => {
                // Writing to a String does not fail.
                let _ = write!(quoted, "\\x{:02x}", u32::from(control));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_are_those_of_runc() {
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
    fn a_hostile_message_stays_in_its_line() {
        assert_eq!(quoted("plain/word"), "plain/word");
        assert_eq!(quoted("a\n\"b\"\\\x1b[0m ü"), "\"a\\n\\\"b\\\"\\\\\\x1b[0m ü\"");
    }

    #[test]
    fn formats_are_named() {
        assert_eq!(Format::new("json").unwrap(), Format::Json);
        assert_eq!(Format::new("xml").unwrap_err().to_string(), "invalid log-format: xml");
    }
}
