//! `checkpoint` and `restore`: a container saved to disk and back, with CRIU.

use std::path::PathBuf;

use super::{Args, Count, Flag, Global, Order, Verb, create};
use crate::foreground;
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::{AfterCheckpoint, CgroupsMode, CheckpointOptions, CriuFeatures, CriuOptions, RestoreOptions, Stdio};
use brig_sys::signal::Hold;

const IMAGES: Flag = Flag::value("image-path", "", "DIR", "where the image is (default: checkpoint)");
const WORK: Flag = Flag::value("work-path", "", "DIR", "where criu writes its log (default: with the image)");
const TCP: Flag = Flag::switch("tcp-established", "", "open TCP connections too");
const UNIX: Flag = Flag::switch("ext-unix-sk", "", "unix sockets to the outside too");
const SHELL_JOB: Flag = Flag::switch("shell-job", "", "a job of a shell, whose terminal and session are others'");
const FILE_LOCKS: Flag = Flag::switch("file-locks", "", "file locks too");
const LAZY_PAGES: Flag = Flag::switch("lazy-pages", "", "memory pages on demand, by userfaultfd");
const AUTO_DEDUP: Flag = Flag::switch("auto-dedup", "", "drop memory pages that another image holds too");
const CGROUPS: Flag = Flag::value("manage-cgroups-mode", "", "MODE", "soft (default), full, strict or ignore");
const EMPTY: Flag = Flag::value("empty-ns", "", "KIND", "network: leave that namespace empty, as it always is");

pub const CHECKPOINT: Verb = Verb {
    name: "checkpoint",
    usage: "CONTAINER",
    about: "save a running container to disk, with CRIU",
    details: "The container is gone afterwards, unless --leave-running or --pre-dump says otherwise.",
    example: "brig checkpoint --image-path /var/tmp/box1 box1",
    flags: &[
        IMAGES,
        WORK,
        Flag::value("parent-path", "", "DIR", "an earlier image that this one adds to, relative to --image-path"),
        Flag::switch("leave-running", "", "do not stop the container"),
        TCP,
        Flag::switch("tcp-skip-in-flight", "", "leave out TCP connections that are being made"),
        Flag::switch("link-remap", "", "save files that are open and unlinked, by a link"),
        UNIX,
        SHELL_JOB,
        LAZY_PAGES,
        Flag::number("status-fd", "", "FD", "gets a NUL byte once lazy pages can be asked for"),
        Flag::value("page-server", "", "ADDRESS:PORT", "send memory pages there"),
        FILE_LOCKS,
        Flag::switch("pre-dump", "", "save memory alone; the container continues to run"),
        CGROUPS,
        EMPTY,
        AUTO_DEDUP,
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: checkpoint,
};

pub const RESTORE: Verb = Verb {
    name: "restore",
    usage: "CONTAINER",
    about: "bring a saved container back, with CRIU",
    details: "CONTAINER may be another name than that of the container that was saved.",
    example: "brig restore --bundle /srv/box --image-path /var/tmp/box1 box1",
    flags: &[
        Flag::value("console-socket", "", "SOCKET", "unix socket that receives the terminal's master side"),
        IMAGES,
        WORK,
        TCP,
        UNIX,
        SHELL_JOB,
        FILE_LOCKS,
        CGROUPS,
        Flag::value("bundle", "b", "DIR", "the bundle (default: the working directory)"),
        Flag::switch("detach", "d", "do not wait for the container"),
        Flag::value("pid-file", "", "FILE", "write init's pid there"),
        Flag::switch("no-subreaper", "", "do not adopt and reap the container's orphans"),
        Flag::switch("no-pivot", "", ""),
        EMPTY,
        AUTO_DEDUP,
        LAZY_PAGES,
        Flag::value("lsm-profile", "", "TYPE:NAME", "security profile instead of the saved one"),
        Flag::value("lsm-mount-context", "", "CONTEXT", "security context of mounts instead of the saved one"),
    ],
    order: Order::Anywhere,
    count: Count::Exactly(1),
    run: restore,
};

fn checkpoint(global: &Global, args: &Args) -> Result<i32> {
    let page_server = args.text("page-server")?.map(|text| {
        let split = text.rsplit_once(':').and_then(|(address, port)| Some((address.to_owned(), port.parse().ok()?)));
        split.ok_or_else(|| usage(format!("--page-server {text:?} is no ADDRESS:PORT")))
    });
    let options = CheckpointOptions {
        images: images(args),
        work: args.path("work-path").unwrap_or_default(),
        parent: args.path("parent-path"),
        after: match (args.is_on("pre-dump"), args.is_on("leave-running")) {
            (true, _) => AfterCheckpoint::ContinueMemoryOnly,
            (false, true) => AfterCheckpoint::Continue,
            (false, false) => AfterCheckpoint::Stop,
        },
        status_fd: args.number("status-fd")?,
        page_server: page_server.transpose()?,
        common: common(
            args,
            &[("tcp-skip-in-flight", CriuFeatures::TCP_SKIP_IN_FLIGHT), ("link-remap", CriuFeatures::LINK_REMAP)],
        )?,
    };
    global.engine().checkpoint(args.argument(0)?, &options)?;
    Ok(0)
}

fn restore(global: &Global, args: &Args) -> Result<i32> {
    let id = args.argument(0)?;
    let detach = args.is_on("detach");
    let options = RestoreOptions {
        bundle: args.path("bundle").unwrap_or_default(),
        images: images(args),
        work: args.path("work-path").unwrap_or_default(),
        console: create::console(args, detach)?,
        pid_file: args.path("pid-file"),
        stdio: Stdio::Inherit,
        lsm_profile: args.text("lsm-profile")?,
        lsm_mount_context: args.text("lsm-mount-context")?,
        common: common(args, &[])?,
    };
    let engine = global.engine();
    if detach {
        engine.restore(id, options)?;
        return Ok(0);
    }
    if !args.is_on("no-subreaper") {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("become a subreaper")?;
    }
    let hold = Hold::new()?;
    let launched = engine.restore(id, options)?;
    let code = foreground::wait_for(launched, &hold);
    let removed = engine.delete(id, true);
    code.and_then(|code| removed.map(|()| code))
}

fn images(args: &Args) -> PathBuf {
    args.path("image-path").unwrap_or_default()
}

/// The flags that checkpoint and restore share, and their features.
const FEATURES: [(&str, CriuFeatures); 6] = [
    ("tcp-established", CriuFeatures::TCP_ESTABLISHED),
    ("ext-unix-sk", CriuFeatures::EXTERNAL_UNIX),
    ("shell-job", CriuFeatures::SHELL_JOB),
    ("file-locks", CriuFeatures::FILE_LOCKS),
    ("lazy-pages", CriuFeatures::LAZY_PAGES),
    ("auto-dedup", CriuFeatures::AUTO_DEDUP),
];

/// The options that checkpoint and restore share; `own` are further flags of the command, and their features.
fn common(args: &Args, own: &[(&str, CriuFeatures)]) -> Result<CriuOptions> {
    let cgroups = match args.text("manage-cgroups-mode")?.as_deref() {
        None | Some("" | "soft") => CgroupsMode::Soft,
        Some("full") => CgroupsMode::Full,
        Some("strict") => CgroupsMode::Strict,
        Some("ignore") => CgroupsMode::Ignore,
        Some(other) => return Err(usage(format!("--manage-cgroups-mode {other:?}: use soft, full, strict or ignore"))),
    };
    if let Some(other) = args.text("empty-ns")?.filter(|kind| kind != "network") {
        return Err(usage(format!("--empty-ns {other:?}: only network can be left empty")));
    }
    let given = FEATURES.iter().chain(own).filter(|(flag, _)| args.is_on(flag));
    Ok(CriuOptions { features: given.map(|(_, feature)| *feature).collect(), cgroups })
}

fn usage(text: String) -> Error {
    Error::new(ErrorKind::InvalidConfig, text)
}
