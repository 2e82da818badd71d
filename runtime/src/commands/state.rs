//! The read-only verbs: state, list, ps.

use std::process::Command;

use super::{Args, Count, Flag, Global, Order, Verb};
use crate::output;
use brig_engine::State;
use brig_engine::error::{Context, Error, ErrorKind, Result};

pub const STATE: Verb = Verb {
    name: "state",
    usage: "CONTAINER",
    about: "print a container's state as JSON",
    details: "",
    example: "brig state box1",
    flags: &[],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: state,
};

pub const LIST: Verb = Verb {
    name: "list",
    usage: "",
    about: "list the containers below --root",
    details: "",
    example: "brig list --format json",
    flags: &[
        Flag::value("format", "f", "table|json", "how to print them (default: table)"),
        Flag::switch("quiet", "q", "print their names alone"),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(0),
    run: list,
};

pub const PS: Verb = Verb {
    name: "ps",
    usage: "CONTAINER [PS-OPTION...]",
    about: "show the processes of a container",
    details: "The table is that of the host's ps, given PS-OPTIONs (default: -ef), without other processes.",
    example: "brig ps box1 -o pid,ppid,args -e",
    flags: &[Flag::value("format", "f", "table|json", "json prints the pids alone (default: table)")],
    order: Order::First,
    count: Count::AtLeast(1),
    run: ps,
};

fn state(global: &Global, args: &Args) -> Result<i32> {
    let state = global.engine().state(args.argument(0)?)?;
    output::print(&output::json_indented(&state, "  ")?)?;
    Ok(0)
}

/// The value of `--format`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Table,
    Json,
}

fn format(args: &Args) -> Result<Format> {
    match args.text("format")?.as_deref() {
        None | Some("table") => Ok(Format::Table),
        Some("json") => Ok(Format::Json),
        Some(_) => Err(Error::new(ErrorKind::InvalidConfig, "invalid format option")),
    }
}

fn list(global: &Global, args: &Args) -> Result<i32> {
    // The first create makes the default root; another one that does not exist is probably misspelled.
    if global.root_is_given
        && std::fs::metadata(&global.root).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
    {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("open {}: no such file or directory", global.root.display()),
        ));
    }
    if args.is_on("quiet") {
        let ids: String = global.engine().list_ids()?.iter().map(|id| format!("{id}\n")).collect();
        return output::print(&ids).map(|()| 0);
    }
    let states = global.engine().list()?;
    match format(args)? {
        Format::Table => output::print(&list_table(&states))?,
        Format::Json => output::print(&output::json_line(&or_null(&states))?)?,
    }
    Ok(0)
}

/// Returns `None` for an empty list: Go prints it as null, and callers parse that.
fn or_null<T>(items: &[T]) -> Option<&[T]> {
    if items.is_empty() { None } else { Some(items) }
}

fn list_table(states: &[State]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|state| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.as_str().to_owned(),
            state.bundle.display().to_string(),
            state.created.clone(),
            state.owner.clone(),
        ]
    }));
    output::table(&rows)
}

fn ps(global: &Global, args: &Args) -> Result<i32> {
    let pids = global.engine().ps(args.argument(0)?)?;
    if format(args)? == Format::Json {
        return output::print(&output::json_line(&or_null(&pids))?).map(|()| 0);
    }
    let mut command = Command::new("ps");
    if args.rest.len() > 1 {
        command.args(&args.rest[1..]);
    } else {
        command.arg("-ef");
    }
    let result = command.output().context("run ps")?;
    if !result.status.success() {
        let text = [result.stdout, result.stderr].concat();
        return Err(Error::other(format!("ps: {}: {}", result.status, String::from_utf8_lossy(&text).trim_end())));
    }
    output::print(&ps_table(&String::from_utf8_lossy(&result.stdout), &pids)?)?;
    Ok(0)
}

/// Filters ps's output: the title line, and the lines of the given processes.
fn ps_table(table: &str, pids: &[i32]) -> Result<String> {
    let mut lines = table.lines();
    let title = lines.next().unwrap_or_default();
    let column = title
        .split_ascii_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| Error::other("couldn't find PID field in ps output"))?;
    let mut text = format!("{title}\n");
    for line in lines.filter(|line| !line.is_empty()) {
        let pid = line.split_ascii_whitespace().nth(column).and_then(|field| field.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            text.push_str(line);
            text.push('\n');
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_engine::Status;

    #[test]
    fn a_list_is_a_table() {
        let state = State {
            oci_version: "1.3.0".into(),
            id: "box1".into(),
            pid: 7,
            status: Status::Running,
            bundle: "/srv/box".into(),
            rootfs: "/srv/box/rootfs".into(),
            created: "2026-11-22T10:48:27.123456789Z".into(),
            annotations: None,
            owner: "root".into(),
        };
        let lines = list_table(&[state]);
        let mut lines = lines.lines();
        assert_eq!(
            lines.next(),
            Some("ID          PID         STATUS      BUNDLE      CREATED                          OWNER")
        );
        assert_eq!(
            lines.next(),
            Some("box1        7           running     /srv/box    2026-11-22T10:48:27.123456789Z   root")
        );
    }

    #[test]
    fn empty_lists_are_null() {
        assert_eq!(output::json_line(&or_null::<i32>(&[])).unwrap(), "null\n");
        assert_eq!(output::json_line(&or_null(&[1, 2])).unwrap(), "[1,2]\n");
    }

    #[test]
    fn ps_shows_the_processes_of_the_container_alone() {
        let table = "UID  PID PPID CMD\nroot   1    0 init\nroot  12    1 12 sh\n";
        assert_eq!(ps_table(table, &[12, 0]).unwrap(), "UID  PID PPID CMD\nroot  12    1 12 sh\n");
        assert!(ps_table("CMD\nsh\n", &[1]).is_err());
    }
}
