//! `create` and `run`.

use super::{Args, Count, Flag, Global, Order, Verb};
use crate::{foreground, inherited};
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::{Configuration, Console, CreateOptions, Stdio};
use brig_sys::signal::Hold;

const DETAILS: &str = "CONTAINER is a name of your choice: letters, digits and _ + - .\n\
    The bundle is a directory with config.json and the root file system that it names.";

const BUNDLE: Flag = Flag::value("bundle", "b", "DIR", "the bundle (default: the working directory)");
const CONFIG: Flag = Flag::value("config", "f", "FILE", "the configuration (default: config.json in the bundle)");
const CONSOLE_SOCKET: Flag =
    Flag::value("console-socket", "", "SOCKET", "unix socket that receives the terminal's master side");
const PIDFD_SOCKET: Flag = Flag::value("pidfd-socket", "", "SOCKET", "unix socket that receives init's pidfd");
const PID_FILE: Flag = Flag::value("pid-file", "", "FILE", "write init's pid there");
const NO_PIVOT: Flag = Flag::switch("no-pivot", "", "do not use pivot_root: for a root on a ramdisk; weaker");
const NO_NEW_KEYRING: Flag = Flag::switch("no-new-keyring", "", "keep the caller's session keyring");
const PRESERVE_FDS: Flag =
    Flag::number("preserve-fds", "", "N", "keep N more descriptors open, after 0, 1, 2 and $LISTEN_FDS ones");

pub const CREATE: Verb = Verb {
    name: "create",
    usage: "CONTAINER",
    about: "set a container up; 'start' then runs its program",
    details: DETAILS,
    example: "brig create --bundle /srv/box box1 && brig start box1",
    flags: &[BUNDLE, CONFIG, CONSOLE_SOCKET, PIDFD_SOCKET, PID_FILE, NO_PIVOT, NO_NEW_KEYRING, PRESERVE_FDS],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: create,
};

pub const RUN: Verb = Verb {
    name: "run",
    usage: "CONTAINER",
    about: "create a container and run its program",
    details: DETAILS,
    example: "brig run --bundle /srv/box box1",
    flags: &[
        BUNDLE,
        CONFIG,
        CONSOLE_SOCKET,
        PIDFD_SOCKET,
        Flag::switch("detach", "d", "do not wait for the program"),
        Flag::switch("keep", "", "keep the container's record after its program has exited"),
        PID_FILE,
        Flag::switch("no-subreaper", "", "do not adopt and reap the container's orphans"),
        NO_PIVOT,
        NO_NEW_KEYRING,
        PRESERVE_FDS,
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run,
};

fn create(global: &Global, args: &Args) -> Result<i32> {
    let options = options(args, true)?;
    global.engine().create(args.argument(0)?, options)?;
    Ok(0)
}

fn run(global: &Global, args: &Args) -> Result<i32> {
    let id = args.argument(0)?;
    let detach = args.is_on("detach");
    let options = options(args, detach)?;
    let engine = global.engine();
    if detach {
        engine.run(id, options)?;
        return Ok(0);
    }
    // Before the launch: orphans are adopted from the start, and a signal must not kill this command in between.
    if !args.is_on("no-subreaper") {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become a subreaper")?;
    }
    let hold = Hold::new()?;
    let launched = engine.run(id, options)?;
    let code = foreground::wait_for(launched, &hold);
    if !args.is_on("keep") {
        let removed = engine.delete(id, true);
        // The caller waits for the program's exit status; a failed wait is the graver of the two errors.
        return code.and_then(|code| removed.map(|()| code));
    }
    code
}

fn options(args: &Args, detach: bool) -> Result<CreateOptions> {
    let preserve_fds = args.number("preserve-fds")?.unwrap_or(0);
    let listen_fds = inherited::listen_fds();
    inherited::check(listen_fds, preserve_fds)?;
    Ok(CreateOptions {
        bundle: args.path("bundle").unwrap_or_default(),
        config: args.path("config").map_or(Configuration::Bundle, Configuration::File),
        console: console(args, detach)?,
        pidfd_socket: args.path("pidfd-socket"),
        pid_file: args.path("pid-file"),
        no_pivot: args.is_on("no-pivot"),
        no_new_keyring: args.is_on("no-new-keyring"),
        preserve_fds,
        listen_fds,
        notify_socket: inherited::notify_socket(),
        stdio: if detach { Stdio::Inherit } else { Stdio::Proxied },
        detach,
    })
}

/// The destination of the terminal: the socket, or this command's terminal in the foreground.
pub(super) fn console(args: &Args, detach: bool) -> Result<Console> {
    match args.path("console-socket") {
        Some(socket) if detach => Ok(Console::Socket(socket)),
        Some(_) => {
            let message = "cannot use console socket if brig will not detach or allocate tty";
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
        None if detach => Ok(Console::None),
        None => Ok(Console::Proxied),
    }
}
