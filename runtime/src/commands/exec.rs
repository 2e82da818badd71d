//! `exec`: another process in a running container.

use std::ffi::OsStr;

use super::{Args, Count, Flag, Global, Order, Verb, create};
use crate::{foreground, inherited};
use brig_engine::error::{Error, ErrorKind, Result};
use brig_engine::{ExecOptions, ProcessSource, Status, Stdio};
use brig_plan::ids;
use brig_sys::signal::Hold;

pub const VERB: Verb = Verb {
    name: "exec",
    usage: "CONTAINER COMMAND [ARGUMENT...]  |  --process FILE CONTAINER",
    about: "run another process in a running container",
    details: "Values that no flag sets come from process in the container's config.json. The file of --process\n\
        replaces all of them: a command, and flags that describe the process, are then ignored.\n\
        Flags stand before CONTAINER: what follows it is the command's own.\n\
        A process that makes no progress for 10 seconds until its command runs is killed: a process of the container\n\
        may have stopped it. BRIG_EXEC_TIMEOUT in the environment is another number of seconds, 0 no limit.",
    example: "brig exec --tty box1 sh",
    flags: &[
        Flag::value("console-socket", "", "SOCKET", "unix socket that receives the terminal's master side"),
        Flag::value("pidfd-socket", "", "SOCKET", "unix socket that receives the process's pidfd"),
        Flag::value("cwd", "", "DIR", "working directory in the container"),
        Flag::value("env", "e", "NAME=VALUE", "set in the environment; may be repeated"),
        Flag::switch("tty", "t", "give the process a terminal"),
        Flag::value("user", "u", "UID[:GID]", "run as this user"),
        Flag::number("additional-gids", "g", "GID", "add a group; may be repeated"),
        Flag::value("process", "p", "FILE", "a process.json that describes the process"),
        Flag::switch("detach", "d", "do not wait for the process"),
        Flag::value("pid-file", "", "FILE", "write the pid there"),
        Flag::value("process-label", "", "LABEL", "SELinux label"),
        Flag::value("apparmor", "", "PROFILE", "AppArmor profile"),
        Flag::switch("no-new-privs", "", "set no_new_privs"),
        Flag::value("cap", "c", "NAME", "add a capability; may be repeated"),
        Flag::number("preserve-fds", "", "N", "keep N more descriptors open, after 0, 1 and 2"),
        Flag::value("cgroup", "", "[CTRL:]PATH", "a sub-cgroup of the container's to run in; may be repeated"),
        Flag::switch("ignore-paused", "", "allow it in a paused container; it runs once that is resumed"),
    ],
    order: Order::First,
    count: Count::AtLeast(1),
    run,
};

/// Flags that a `--process` file overrides. `--tty` is accepted beside it: the file has to agree.
const DESCRIBING: &[&str] =
    &["cwd", "env", "user", "additional-gids", "process-label", "apparmor", "no-new-privs", "cap"];

fn run(global: &Global, args: &Args) -> Result<i32> {
    let id = args.argument(0)?;
    let options = options(args)?;
    let engine = global.engine();
    if options.args.is_empty() && options.process.is_none() {
        // A wrong id or state is the more useful error of the two.
        if engine.state(id)?.status == Status::Stopped {
            return Err(Error::new(ErrorKind::InvalidState, "cannot exec in a stopped container"));
        }
        return Err(Error::new(ErrorKind::InvalidConfig, "process args cannot be empty"));
    }
    if options.detach {
        engine.exec(id, options)?;
        return Ok(0);
    }
    let hold = Hold::new()?;
    let launched = engine.exec(id, options)?;
    foreground::wait_for(launched, &hold)
}

fn options(args: &Args) -> Result<ExecOptions> {
    let detach = args.is_on("detach");
    let preserve_fds = args.number("preserve-fds")?.unwrap_or(0);
    inherited::check(0, preserve_fds)?;
    let text = |value: &OsStr| {
        let error = || Error::new(ErrorKind::InvalidConfig, format!("argument {value:?} is not UTF-8"));
        value.to_str().map(str::to_owned).ok_or_else(error)
    };
    let gid = |text: String| {
        let reason = || format!("invalid value {text:?} for flag -additional-gids: expected {}", ids::RANGE);
        ids::parse(&text).ok_or_else(|| Error::new(ErrorKind::InvalidConfig, reason()))
    };
    let process = args.path("process").map(ProcessSource::File);
    let own = ExecOptions {
        cgroups: args.texts("cgroup")?,
        ignore_paused: args.is_on("ignore-paused"),
        console: create::console(args, detach)?,
        pidfd_socket: args.path("pidfd-socket"),
        pid_file: args.path("pid-file"),
        preserve_fds,
        stdio: if detach { Stdio::Inherit } else { Stdio::Proxied },
        detach,
        stall_timeout: ExecOptions::stall_timeout_of_environment()?,
        process,
        ..ExecOptions::default()
    };
    if own.process.is_some() {
        // The file's own `terminal` decides, so `--tty` is not listed.
        let beside = DESCRIBING.iter().any(|name| args.value(name).is_some());
        if beside || args.rest.len() > 1 {
            tracing::warn!("--process says it all: what else describes the process is left out");
        }
        return Ok(own);
    }
    Ok(ExecOptions {
        args: args.rest[1..].iter().map(|argument| text(argument)).collect::<Result<_>>()?,
        cwd: args.path("cwd"),
        env: args.texts("env")?,
        // The terminal of config.json is for init alone.
        tty: Some(args.is_on("tty")),
        user: args.text("user")?,
        additional_gids: args.texts("additional-gids")?.into_iter().map(gid).collect::<Result<_>>()?,
        process_label: args.text("process-label")?,
        apparmor: args.text("apparmor")?,
        no_new_privs: args.value("no-new-privs").map(|_| args.is_on("no-new-privs")),
        capabilities: args.texts("cap")?,
        ..own
    })
}
