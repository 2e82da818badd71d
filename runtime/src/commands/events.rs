//! `events`: statistics and out-of-memory notices, one JSON object a line.

use std::time::{Duration, Instant};

use rustix::event::poll;
use rustix::time::Timespec;
use serde::Serialize;

use super::{Args, Count, Flag, Global, Order, Verb};
use crate::output;
use brig_engine::cgroup::{OomEvent, OomWatch, Stats};
use brig_engine::error::{Error, ErrorKind, Result};
use brig_engine::{Engine, Status};
use brig_sys::SysError;

pub const VERB: Verb = Verb {
    name: "events",
    usage: "CONTAINER",
    about: "print a container's resource usage and out-of-memory events",
    details: "Events are printed until the container exits. With --stats, statistics are printed once.",
    example: "brig events --stats box1",
    flags: &[
        Flag::value("interval", "", "DURATION", "time between two statistics, such as 500ms or 1m30s (default: 5s)"),
        Flag::switch("stats", "", "print statistics once and exit"),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run,
};

/// A line of output.
#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Stats>,
}

fn run(global: &Global, args: &Args) -> Result<i32> {
    let id = args.argument(0)?;
    let engine = global.engine();
    let status = engine.state(id)?.status;
    let interval = interval(args)?;
    if status == Status::Stopped {
        return Err(Error::new(ErrorKind::NotRunning, format!("container with id {id} is not running")));
    }
    if args.is_on("stats") {
        let stats = engine.stats(id)?;
        print(&Event { kind: "stats", id, data: Some(&stats) })?;
        return Ok(0);
    }
    watch(&engine, id, interval)
}

fn print(event: &Event<'_>) -> Result<()> {
    output::print(&output::json_line(event)?)
}

fn watch(engine: &Engine, id: &str, interval: Duration) -> Result<i32> {
    // Without a memory controller there are no OOM events, and the container's exit is noticed at the next interval.
    let mut oom = engine.oom_watch(id)?;
    let mut next = Instant::now() + interval;
    loop {
        wait(oom.as_ref().map(OomWatch::poll_fds).unwrap_or_default(), next)?;
        match oom.as_mut().map_or(Ok(OomEvent::None), OomWatch::check)? {
            OomEvent::Ended => return Ok(0),
            OomEvent::Oom(times) => {
                for _ in 0..times {
                    print(&Event { kind: "oom", id, data: None })?;
                }
            }
            OomEvent::None => {}
        }
        if Instant::now() < next {
            continue;
        }
        next += interval;
        match engine.stats(id) {
            Ok(stats) => print(&Event { kind: "stats", id, data: Some(&stats) })?,
            // The container may have exited since.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotRunning) => return Ok(0),
            Err(error) => tracing::error!("{error}"),
        }
        if engine.state(id).map_or(true, |state| state.status == Status::Stopped) {
            return Ok(0);
        }
    }
}

/// Waits until one of the descriptors is ready or the deadline passes.
fn wait(mut fds: Vec<rustix::event::PollFd<'_>>, deadline: Instant) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = Timespec::try_from(left).map_err(|_| Error::other("the interval is too long"))?;
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(SysError::new("poll", "", error).into()),
    }
}

fn interval(args: &Args) -> Result<Duration> {
    let Some(text) = args.text("interval")? else { return Ok(Duration::from_secs(5)) };
    let invalid = |reason: String| Error::new(ErrorKind::InvalidConfig, reason);
    let interval = match text.as_str() {
        "0" => Duration::ZERO,
        text => humantime::parse_duration(text)
            .map_err(|error| invalid(format!("invalid value {text:?} for flag -interval: {error}")))?,
    };
    if interval.is_zero() {
        return Err(invalid("duration interval must be greater than 0".into()));
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
    use std::ffi::OsString;

    #[test]
    fn intervals_are_go_durations() {
        let interval = |text: &str| {
            let line = ["--interval", text].map(OsString::from);
            interval(&args::parse(VERB.flags, VERB.order, line).unwrap())
        };
        assert_eq!(interval("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(interval("1m30s").unwrap(), Duration::from_secs(90));
        assert_eq!(interval("100ms").unwrap(), Duration::from_millis(100));
        assert!(interval("0s").unwrap_err().to_string().contains("must be greater than 0"));
        assert!(interval("soon").is_err());
    }

    #[test]
    fn an_oom_event_has_no_data() {
        let line = output::json_line(&Event { kind: "oom", id: "box1", data: None }).unwrap();
        assert_eq!(line, "{\"type\":\"oom\",\"id\":\"box1\"}\n");
    }
}
