//! Timing trace: the phases of parent and child, as events that Perfetto and chrome://tracing open.
//!
//! The file is an array in the Trace Event Format, whose closing bracket may be missing: parent and child append to
//! it, each event with one write. Nothing is traced unless [`start`] was called; a phase then costs one load of a
//! pointer.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Result};

static SINK: OnceLock<Sink> = OnceLock::new();

#[derive(Debug)]
struct Sink {
    file: File,
    lane: Lane,
}

/// The process that an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The runtime's process.
    Parent = 1,
    /// The container's process, before its program.
    Child = 2,
}

/// A complete event: times in microseconds of the real-time clock, which no time namespace shifts.
#[derive(Debug, Serialize, Deserialize)]
struct Event {
    name: String,
    ph: char,
    ts: f64,
    dur: f64,
    pid: u32,
    tid: u32,
}

/// Creates or truncates the file, and traces this process into it from now on.
///
/// # Errors
/// When the file cannot be created or written.
pub fn start(path: &Path) -> Result<()> {
    let unable = || format!("unable to write the trace {}", path.display());
    File::create(path).and_then(|mut file| file.write_all(b"[\n")).with_context(unable)?;
    let file = std::fs::OpenOptions::new().append(true).open(path).with_context(unable)?;
    name_lane(&file, Lane::Parent, "brig");
    name_lane(&file, Lane::Child, "init of the container");
    // Only the first call has an effect, and there is only one.
    let _ = SINK.set(Sink { file, lane: Lane::Parent });
    Ok(())
}

/// The descriptor of the trace, for a child that calls [`continue_in`].
pub fn fd() -> Option<BorrowedFd<'static>> {
    SINK.get().map(|sink| sink.file.as_fd())
}

/// Traces this process, a child, into its parent's trace.
pub fn continue_in(trace: OwnedFd) {
    let _ = SINK.set(Sink { file: trace.into(), lane: Lane::Child });
}

/// A phase, which ends when it is dropped.
#[derive(Debug)]
#[must_use = "a phase ends when it is dropped"]
pub struct Phase(Option<(&'static Sink, &'static str, f64)>);

/// Begins a phase, and logs it.
pub fn phase(name: &'static str) -> Phase {
    tracing::debug!("step: {name}");
    Phase(SINK.get().map(|sink| (sink, name, now())))
}

impl Drop for Phase {
    fn drop(&mut self) {
        let Some((sink, name, begin)) = self.0.take() else { return };
        let lane = sink.lane as u32;
        sink.write(&Event { name: name.to_owned(), ph: 'X', ts: begin, dur: now() - begin, pid: lane, tid: lane });
    }
}

impl Sink {
    fn write(&self, event: &Event) {
        let line = serde_json::to_string(event).map(|text| text + ",\n");
        if let Err(error) = line.map_err(Into::into).and_then(|line| (&self.file).write_all(line.as_bytes())) {
            tracing::debug!("the trace: {error}");
        }
    }
}

fn name_lane(mut file: &File, lane: Lane, name: &str) {
    let lane = lane as u32;
    let line = format!(
        "{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{lane},\"tid\":{lane},\"args\":{{\"name\":\"{name}\"}}}},\n"
    );
    if let Err(error) = file.write_all(line.as_bytes()) {
        tracing::debug!("the trace: {error}");
    }
}

/// Microseconds since the epoch.
fn now() -> f64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Draws the trace at `path` as a chart for a terminal of `width` columns: a line for each phase, in order of start.
///
/// # Errors
/// When the file cannot be read, or is not a trace of brig's.
pub fn chart(path: &Path, width: usize) -> Result<String> {
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).with_context(|| path.display().to_string())?;
    let mut events = Vec::new();
    for line in text.lines().filter(|line| line.contains("\"ph\":\"X\"")) {
        let event: Event = serde_json::from_str(line.trim_end_matches(','))
            .map_err(|error| crate::error::Error::other(format!("{}: {error}", path.display())))?;
        events.push(event);
    }
    events.sort_by(|one, other| one.ts.total_cmp(&other.ts).then(other.dur.total_cmp(&one.dur)));
    Ok(draw(&events, width))
}

fn draw(events: &[Event], width: usize) -> String {
    let Some(begin) = events.first().map(|event| event.ts) else { return String::new() };
    let end = events.iter().map(|event| event.ts + event.dur).fold(begin, f64::max);
    let names = events.iter().map(|event| event.name.len()).max().unwrap_or(0);
    let columns = width.saturating_sub(names + 24).max(20);
    let column = |time: f64| {
        let exact = (time - begin) / (end - begin).max(1.0) * columns as f64;
        (1..=columns).take_while(|column| *column as f64 <= exact).count()
    };
    let mut chart = String::new();
    for event in events {
        let (from, to) = (column(event.ts).min(columns - 1), column(event.ts + event.dur).min(columns));
        let (lane, mark) = if event.pid == Lane::Child as u32 { ("init", '=') } else { ("brig", '#') };
        let bar: String = std::iter::repeat_n(mark, (to - from).max(1)).collect();
        let (name, at, took) = (&event.name, (event.ts - begin) / 1e3, event.dur / 1e3);
        chart += &format!("{lane} {name:<names$} {at:7.3} {took:7.3} |{}{bar}\n", " ".repeat(from));
    }
    chart += &format!("     {:<names$} {:>7} {:>7}  of {:.3} ms\n", "phase", "at", "took", (end - begin) / 1e3);
    chart
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, ts: f64, dur: f64, lane: Lane) -> Event {
        Event { name: name.to_owned(), ph: 'X', ts, dur, pid: lane as u32, tid: lane as u32 }
    }

    #[test]
    fn a_chart_shows_the_order_and_duration_of_phases() {
        let events = [event("parse", 0.0, 1000.0, Lane::Parent), event("root", 1000.0, 3000.0, Lane::Child)];
        let chart = draw(&events, 69);
        let lines: Vec<&str> = chart.lines().collect();
        assert_eq!(lines[0], "brig parse   0.000   1.000 |##########");
        assert_eq!(lines[1], format!("init root    1.000   3.000 |{}{}", " ".repeat(10), "=".repeat(30)));
        assert!(lines[2].ends_with("of 4.000 ms"), "{}", lines[2]);
        assert_eq!(draw(&[], 80), "");
    }

    #[test]
    fn nothing_is_traced_before_start() {
        assert!(phase("nothing").0.is_none());
        assert!(fd().is_none());
    }
}
