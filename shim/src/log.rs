//! The shim's log: containerd reads it from the FIFO `log` in the bundle, and adds it to its own log.
//!
//! A line has logrus's text form, as containerd's shims write it. Besides its own fields it carries those of the spans
//! around it, so that the lines of one container among a pod's are found by `id=`; fields are sorted by name, and the
//! innermost of one name counts.
//!
//! The FIFO may have no reader: containerd may be restarting or hanging. So the FIFO is opened at both ends, which
//! keeps its content over a restart and makes a write without a reader succeed, and it never blocks: a line that does
//! not fit is dropped and counted, and the next line that fits is preceded by one with the number of dropped lines.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use brig_engine::error::{Context, Error, Result};
use brig_wire::logrus::quoted;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The most bytes that one write to a pipe takes whole or not at all (PIPE_BUF, pipe(7)). Longer lines are cut.
const MAX_LINE_LEN: usize = 4096;

/// The number of lines that this process has dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The number of lines that could not be written so far, since the log was not read.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Sends this process's log to the FIFO `path`, which is created where it is missing. May be called once. Every line
/// carries `fields`; lines of `debug` level are written only on demand.
///
/// # Errors
/// The FIFO cannot be opened or created, or the log is open already.
pub fn init(path: &Path, debug: bool, fields: &[(&str, &str)]) -> Result<()> {
    let log = Log::new(open(path)?, debug, fields);
    tracing::subscriber::set_global_default(log).map_err(|_| Error::other("the log is open already"))
}

/// Sends this process's log to its standard error, without lines of `debug` level: for those of the shim's commands
/// that exit at once.
///
/// # Errors
/// The log is open already.
pub fn init_stderr(fields: &[(&str, &str)]) -> Result<()> {
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("cannot keep standard error for the log")?;
    let log = Log::new(stderr, false, fields);
    tracing::subscriber::set_global_default(log).map_err(|_| Error::other("the log is open already"))
}

fn open(path: &Path) -> Result<OwnedFd> {
    let what = || format!("cannot open the log {}", path.display());
    match rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o700), 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("mknodat({path:?}, S_IFIFO)")).with_context(what);
        }
    }
    // Both ends: a write without a reader would fail otherwise, and an open of one end would wait for the other.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::APPEND;
    rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("open({path:?}, {flags:?})"))
        .with_context(what)
}

/// The destination of lines.
struct Sink {
    file: OwnedFd,
    /// The number of lines dropped since the last written one.
    dropped: u64,
}

impl Sink {
    fn write(&mut self, line: &str) {
        if self.dropped > 0 {
            let lost = format!("{} lines were dropped here: the log had no reader or was full", self.dropped);
            let notice = format(Level::WARN, &lost, &BTreeMap::new(), SystemTime::now());
            if self.attempt(notice.as_bytes()) {
                self.dropped = 0;
            }
        }
        if self.dropped > 0 || !self.attempt(line.as_bytes()) {
            self.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Writes all bytes or none: a FIFO takes no part of a write of at most [`MAX_LINE_LEN`].
    fn attempt(&self, bytes: &[u8]) -> bool {
        loop {
            match rustix::io::write(&self.file, bytes) {
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                // Full. Another error can be reported only to the reader of the next line.
                Err(_) => return false,
            }
        }
    }
}

/// An open span.
struct Span {
    metadata: &'static Metadata<'static>,
    parent: Option<u64>,
    fields: BTreeMap<&'static str, String>,
    /// The number of handles of the span.
    users: usize,
}

struct Log {
    sink: Mutex<Sink>,
    level: Level,
    /// The fields of every line.
    fields: BTreeMap<String, String>,
    spans: Mutex<HashMap<u64, Span>>,
    next: AtomicU64,
}

thread_local! {
    /// The spans that this thread is in, innermost last.
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Locks a mutex, and ignores poisoning: text is written from its content, no more.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn current() -> Option<u64> {
    ENTERED.with_borrow(|stack| stack.last().copied())
}

impl Log {
    fn new(file: OwnedFd, debug: bool, fields: &[(&str, &str)]) -> Log {
        Log {
            sink: Mutex::new(Sink { file, dropped: 0 }),
            level: if debug { Level::DEBUG } else { Level::INFO },
            fields: fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            spans: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    /// The parent of a span: the explicit one, or the one around it.
    fn parent(explicit: Option<&Id>, contextual: bool) -> Option<u64> {
        explicit.map(Id::into_u64).or_else(|| current().filter(|_| contextual))
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let mut fields = text.fields;
        {
            let spans = locked(&self.spans);
            let mut at = Log::parent(event.parent(), event.is_contextual());
            while let Some(span) = at.and_then(|id| spans.get(&id)) {
                for (name, value) in &span.fields {
                    fields.entry(name).or_insert_with(|| value.clone());
                }
                at = span.parent;
            }
        }
        let mut all: BTreeMap<&str, &str> = self.fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        all.extend(fields.iter().map(|(name, value)| (*name, value.as_str())));
        let line = format(*event.metadata().level(), &text.message, &all, SystemTime::now());
        locked(&self.sink).write(&line);
    }

    fn new_span(&self, attributes: &Attributes<'_>) -> Id {
        let mut text = Text::default();
        attributes.record(&mut text);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let parent = Log::parent(attributes.parent(), attributes.is_contextual());
        let mut spans = locked(&self.spans);
        // A span stays open as long as one inside it.
        if let Some(parent) = parent.and_then(|parent| spans.get_mut(&parent)) {
            parent.users += 1;
        }
        spans.insert(id, Span { metadata: attributes.metadata(), parent, fields: text.fields, users: 1 });
        Id::from_u64(id)
    }

    fn record(&self, id: &Id, values: &Record<'_>) {
        let mut text = Text::default();
        values.record(&mut text);
        if let Some(span) = locked(&self.spans).get_mut(&id.into_u64()) {
            span.fields.append(&mut text.fields);
        }
    }

    // Causal relations are not written.
    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, id: &Id) {
        ENTERED.with_borrow_mut(|stack| stack.push(id.into_u64()));
    }

    fn exit(&self, id: &Id) {
        ENTERED.with_borrow_mut(|stack| {
            if let Some(at) = stack.iter().rposition(|entered| *entered == id.into_u64()) {
                stack.remove(at);
            }
        });
    }

    fn clone_span(&self, id: &Id) -> Id {
        if let Some(span) = locked(&self.spans).get_mut(&id.into_u64()) {
            span.users += 1;
        }
        id.clone()
    }

    fn try_close(&self, id: Id) -> bool {
        let mut spans = locked(&self.spans);
        let mut at = Some(id.into_u64());
        let mut closed = false;
        while let Some(id) = at.take() {
            if let Some(span) = spans.get_mut(&id) {
                span.users -= 1;
                if span.users == 0 {
                    at = span.parent;
                    spans.remove(&id);
                    closed = true;
                }
            }
        }
        closed
    }

    fn current_span(&self) -> tracing_core::span::Current {
        let spans = locked(&self.spans);
        match current().and_then(|id| spans.get(&id).map(|span| (id, span.metadata))) {
            Some((id, metadata)) => tracing_core::span::Current::new(Id::from_u64(id), metadata),
            None => tracing_core::span::Current::none(),
        }
    }
}

/// The message and the named fields of an event.
#[derive(Default)]
struct Text {
    message: String,
    fields: BTreeMap<&'static str, String>,
}

impl Visit for Text {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => {
                self.fields.insert(name, format!("{value:?}"));
            }
        }
    }
}

fn format(level: Level, message: &str, fields: &BTreeMap<&str, &str>, time: SystemTime) -> String {
    let level = match level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let time = humantime::format_rfc3339_nanos(time);
    let mut tail = String::new();
    for (name, value) in fields {
        // Writing to a String does not fail.
        let _ = write!(tail, " {name}={}", quoted(value));
    }
    let head = format!("time=\"{time}\" level={level} msg=");
    let mut text = quoted(&brig_engine::error::without_numbers(message));
    // The message is cut: the fields that identify the container must stay in the line.
    let room = MAX_LINE_LEN.saturating_sub(head.len() + tail.len() + "\n".len());
    if text.len() > room {
        const MARK: &str = " [...]\"";
        let mut end = room.saturating_sub(MARK.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        // Half an escape would escape the closing quote.
        let escapes = text.len() - text.trim_end_matches('\\').len();
        text.truncate(text.len() - escapes % 2);
        text.push_str(MARK);
    }
    let mut line = head + &text + &tail;
    if line.len() >= MAX_LINE_LEN {
        let mut end = MAX_LINE_LEN - 1;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;
    use std::time::Duration;
    use tracing::instrument::WithSubscriber;

    fn nonblocking(path: &Path) -> File {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        File::from(rustix::fs::open(path, flags, Mode::empty()).unwrap())
    }

    /// Reads everything that is in the FIFO now.
    fn drain(file: &mut File) -> String {
        let mut text = Vec::new();
        // The end, where the writer has closed it, or no more bytes at the moment.
        if let Err(error) = file.read_to_end(&mut text) {
            assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        }
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn a_line_is_logrus_s() {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_795_344_507, 12_345_678);
        let fields = BTreeMap::from([("namespace", "k8s.io"), ("id", "a b")]);
        assert_eq!(
            format(Level::WARN, "went \"wrong\"", &fields, time),
            "time=\"2026-11-22T10:48:27.012345678Z\" level=warning msg=\"went \\\"wrong\\\"\" id=\"a b\" namespace=k8s.io\n"
        );
    }

    #[test]
    fn a_long_line_is_cut_in_its_message_and_stays_one_line() {
        let fields = BTreeMap::from([("id", "box")]);
        for text in ["é".repeat(4000), "\"\\".repeat(4000)] {
            let line = format(Level::INFO, &text, &fields, SystemTime::now());
            assert!(line.len() <= MAX_LINE_LEN, "{}", line.len());
            assert!(line.ends_with(" [...]\" id=box\n"), "{}", &line[line.len() - 40..]);
        }
        let line = format(Level::INFO, "m", &BTreeMap::from([("id", "i".repeat(5000).as_str())]), SystemTime::now());
        assert_eq!((line.len(), line.ends_with('\n')), (MAX_LINE_LEN, true));
    }

    #[test]
    fn the_spans_around_an_event_tell_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(open(&path).unwrap(), false, &[("id", "pod"), ("namespace", "n")]);
        let mut reader = nonblocking(&path);
        tracing::subscriber::with_default(log, || {
            tracing::info!("outside");
            let outer = tracing::info_span!("task", id = %"box1", exec = tracing::field::Empty);
            let _entered = outer.enter();
            outer.record("exec", "e1");
            tracing::info_span!("inner", step = 3).in_scope(|| tracing::warn!(code = 7, "inside"));
            tracing::debug!("not wanted");
        });
        let text = drain(&mut reader);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(lines[0].ends_with(" level=info msg=outside id=pod namespace=n"), "{text}");
        assert!(lines[1].ends_with(" level=warning msg=inside code=7 exec=e1 id=box1 namespace=n step=3"), "{text}");
    }

    #[test]
    fn closed_spans_leave_nothing() {
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        let log = std::sync::Arc::new(Log::new(writer, false, &[]));
        let dispatch = tracing::Dispatch::from(log.clone() as std::sync::Arc<dyn Subscriber + Send + Sync>);
        tracing::dispatcher::with_default(&dispatch, || {
            let outer = tracing::info_span!("outer");
            let inner = outer.in_scope(|| tracing::info_span!("inner"));
            drop(outer);
            assert_eq!(locked(&log.spans).len(), 2, "the outer one is still the inner one's");
            drop(inner);
        });
        assert!(locked(&log.spans).is_empty());
    }

    #[test]
    fn dropped_lines_are_counted_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        // The FIFO has no reader, and the open does not wait for one.
        let mut sink = Sink { file: open(&path).unwrap(), dropped: 0 };
        let line = "x".repeat(4000) + "\n";
        let before = dropped();
        for _ in 0..100 {
            sink.write(&line);
        }
        let lost = sink.dropped;
        assert!(lost > 10 && lost < 100, "{lost}");
        assert!(dropped() - before >= lost);
        let mut reader = nonblocking(&path);
        assert_eq!(drain(&mut reader).lines().count() as u64, 100 - lost);
        sink.write("after\n");
        let text = drain(&mut reader);
        assert!(text.contains(&format!("level=warning msg=\"{lost} lines were dropped here")), "{text}");
        assert!(text.ends_with("\nafter\n"), "{text}");
    }

    #[test]
    fn a_symlink_is_no_log() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(open(&path).unwrap_err().to_string().contains("cannot open the log"));
    }

    #[test]
    fn a_span_follows_its_task_to_another_thread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = Log::new(open(&path).unwrap(), true, &[]);
        let mut reader = nonblocking(&path);
        let dispatch = tracing::Dispatch::new(log);
        tracing::dispatcher::with_default(&dispatch, || {
            let span = tracing::info_span!("task", id = %"box2");
            let task = tracing::Instrument::instrument(async { tracing::debug!("there") }, span);
            let task = task.with_subscriber(dispatch.clone());
            let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
            std::thread::spawn(move || runtime().block_on(task)).join().unwrap();
        });
        assert!(drain(&mut reader).ends_with("level=debug msg=there id=box2\n"));
    }
}
