//! The verbs that change a container and print nothing: start, kill, delete, pause, resume.

use super::{Args, Count, Flag, Global, Order, Verb};
use crate::inherited;
use brig_engine::Engine;
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_sys::pattern::Pattern;

pub const START: Verb = Verb {
    name: "start",
    usage: "CONTAINER",
    about: "run the program of a created container",
    details: "",
    example: "brig start box1",
    flags: &[],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: start,
};

pub const PAUSE: Verb = Verb {
    name: "pause",
    usage: "CONTAINER",
    about: "freeze every process of a container",
    details: "",
    example: "brig pause box1",
    flags: &[],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: |global, args| global.engine().pause(args.argument(0)?).map(|()| 0),
};

pub const RESUME: Verb = Verb {
    name: "resume",
    usage: "CONTAINER",
    about: "thaw a paused container",
    details: "",
    example: "brig resume box1",
    flags: &[],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: |global, args| global.engine().resume(args.argument(0)?).map(|()| 0),
};

const REGEX: Flag = Flag::switch("regex", "r", "CONTAINER is a regular expression; every container that it matches");

pub const KILL: Verb = Verb {
    name: "kill",
    usage: "CONTAINER [SIGNAL]",
    about: "send a signal (default: TERM) to a container's first process",
    details: "SIGNAL is a number, or a name with SIG or without. A container that shares its caller's pid\n\
        namespace gets KILL in every process.",
    example: "brig kill box1 KILL",
    flags: &[Flag::switch("all", "a", ""), REGEX],
    order: Order::Anywhere,
    count: Count::Between(1, 2),
    run: kill,
};

pub const DELETE: Verb = Verb {
    name: "delete",
    usage: "CONTAINER",
    about: "remove what a stopped container left: its cgroup and its record",
    details: "",
    example: "brig delete --force box1",
    flags: &[Flag::switch("force", "f", "kill it first if it runs; no error if there is none of that name"), REGEX],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: delete,
};

fn start(global: &Global, args: &Args) -> Result<i32> {
    let (engine, id) = (global.engine(), args.argument(0)?);
    match inherited::notify_socket() {
        Some(manager) => engine.start_and_notify(id, &manager)?,
        None => engine.start(id)?,
    }
    Ok(0)
}

fn kill(global: &Global, args: &Args) -> Result<i32> {
    let id = args.argument(0)?;
    let engine = global.engine();
    let name = match args.rest.get(1) {
        Some(name) if !name.is_empty() => name.to_string_lossy(),
        _ => "TERM".into(),
    };
    let Some(signal) = signal(&name) else {
        // A wrong id is the more useful error of the two.
        if !args.is_on("regex")
            && let Err(error) = engine.state(id)
        {
            let is_swapped = error.kind() == ErrorKind::NotFound && signal(id).is_some();
            let hint = format!("{error}; the container comes before the signal: brig kill {name} {id}");
            return Err(if is_swapped { Error::new(error.kind(), hint) } else { error });
        }
        return Err(Error::new(ErrorKind::InvalidConfig, format!("unknown signal {name:?}")));
    };
    let all = args.is_on("all");
    each(&engine, args, |id| kill_one(&engine, id, signal, all))
}

/// Calls `act` for the named container, or for each container that `--regex` matches. A failure does not stop the
/// others; the error lists every failure.
fn each(engine: &Engine, args: &Args, act: impl Fn(&str) -> Result<()>) -> Result<i32> {
    let name = args.argument(0)?;
    if !args.is_on("regex") {
        return act(name).map(|()| 0);
    }
    let pattern = Pattern::new(name).context("invalid regular expression")?;
    let ids = engine.ids()?.into_iter().filter(|id| pattern.matches(id));
    let failed: Vec<String> = ids.filter_map(|id| act(&id).err().map(|error| format!("{id}: {error}"))).collect();
    if failed.is_empty() { Ok(0) } else { Err(Error::other(failed.join("; "))) }
}

fn kill_one(engine: &Engine, id: &str, signal: i32, all: bool) -> Result<()> {
    match engine.kill(id, signal, all) {
        // All processes have exited, as --all asked for.
        Err(error) if all && error.kind() == ErrorKind::NotRunning => Ok(()),
        result => result,
    }
}

/// Parses a signal: a number, or a name such as TERM, SIGTERM, sigterm or RTMIN+3.
fn signal(name: &str) -> Option<i32> {
    let (first, last) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    if let Ok(number) = name.parse::<i32>() {
        return (0..=last).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let realtime = match short {
        "RTMIN" => Some(first),
        "RTMAX" => Some(last),
        _ => match (short.strip_prefix("RTMIN+"), short.strip_prefix("RTMAX-")) {
            (Some(offset), _) => offset.parse::<u8>().ok().map(|offset| first + i32::from(offset)),
            (None, Some(offset)) => offset.parse::<u8>().ok().map(|offset| last - i32::from(offset)),
            (None, None) => None,
        },
    };
    if let Some(number) = realtime {
        return (first..=last).contains(&number).then_some(number);
    }
    // Other names of the same numbers (signal(7)).
    let name = match short {
        "IOT" => "ABRT",
        "POLL" => "IO",
        "CLD" => "CHLD",
        other => other,
    };
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn delete(global: &Global, args: &Args) -> Result<i32> {
    let force = args.is_on("force");
    let engine = global.engine();
    each(&engine, args, |id| engine.delete(id, force))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_from_numbers_and_names() {
        for name in ["15", "TERM", "SIGTERM", "sigterm", "Term"] {
            assert_eq!(signal(name), Some(15), "{name}");
        }
        assert_eq!((signal("0"), signal("SIGIOT"), signal("POLL")), (Some(0), Some(6), Some(29)));
        assert_eq!((signal("SIGRTMIN+3"), signal("RTMAX"), signal("RTMAX-1")), (Some(37), Some(64), Some(63)));
        for name in ["", "SIG", "FOO", "-1", "65", "RTMIN+31", "RTMAX-31", "1.5"] {
            assert_eq!(signal(name), None, "{name}");
        }
    }
}
