//! The command line: global flags, and the dispatch to a verb.

use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::args::{self, Args, Flag, Order};
use crate::commands::{VERBS, Verb};
use crate::{help, log, output};
use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::{CgroupManager, Engine};
use brig_plan::mounts::clean;

/// Exit code for an unknown verb.
const NO_SUCH_VERB: i32 = 3;
/// Exit code of an exec that failed to start its program.
const EXEC_FAILED: i32 = 255;

/// Flags before the verb.
pub(crate) static GLOBAL_FLAGS: &[Flag] = &[
    Flag::switch("debug", "", "write debug lines to the log"),
    Flag::value("log", "", "FILE", "write the log to FILE, journald:ID or syslog:ID (default: standard error)"),
    Flag::value("log-format", "", "text|json", "format of the log's lines (default: text)"),
    Flag::value("root", "", "DIR", "where containers are recorded (default: /run/brig, or $XDG_RUNTIME_DIR/brig)"),
    Flag::switch("systemd-cgroup", "", "let systemd make the cgroups; cgroupsPath is then slice:prefix:name"),
    Flag::value("cgroup-manager", "", "NAME", "cgroupfs (the default), systemd or disabled"),
    Flag::value(
        "trace",
        "",
        "FILE",
        "write where the time goes to FILE, for Perfetto, and as a chart to standard error",
    ),
    Flag::value("rootless", "", "BOOL", "true, false or auto (the default); accepted for compatibility"),
    Flag::value("criu", "", "FILE", ""),
    Flag::switch("version", "v", "print the version"),
];

/// The values of the global flags.
pub(crate) struct Global {
    /// The directory of the containers' records; absolute.
    pub root: PathBuf,
    /// Whether `--root` was given.
    pub root_is_given: bool,
    /// The cgroup manager.
    pub manager: CgroupManager,
}

impl Global {
    /// Creates the engine for these flags.
    pub fn engine(&self) -> Engine {
        Engine::new(self.root.clone(), self.manager)
    }
}

/// Runs one command line, `argv[0]` included, and returns its exit code.
pub fn run(argv: Vec<OsString>) -> i32 {
    let mut argv = argv.into_iter().skip(1);
    let outcome = args::parse(GLOBAL_FLAGS, Order::First, &mut argv).and_then(|global| dispatch(&global));
    outcome.unwrap_or_else(|error| {
        log::fatal(&error.to_string());
        1
    })
}

fn dispatch(global: &Args) -> Result<i32> {
    if global.is_on("version") {
        return output::print(&help::version()).map(|()| 0);
    }
    let format = log::Format::new(&global.text("log-format")?.unwrap_or_default())?;
    log::init(global.path("log").as_deref(), format, global.is_on("debug"))?;
    let Some(name) = global.rest.first().filter(|_| !global.help) else {
        return output::print(&help::overview()).map(|()| 0);
    };
    let name = name.to_string_lossy();
    let rest = &global.rest[1..];
    if name == "help" || name == "h" {
        return match rest.first() {
            None => output::print(&help::overview()).map(|()| 0),
            Some(topic) => with_verb(&topic.to_string_lossy(), |verb| output::print(&help::verb(verb)).map(|()| 0)),
        };
    }
    let Some(trace) = global.path("trace") else { return with_verb(&name, |verb| run_verb(verb, global, rest)) };
    brig_engine::trace::start(&trace)?;
    let outcome = with_verb(&name, |verb| {
        let _phase = brig_engine::trace::phase(verb.name);
        run_verb(verb, global, rest)
    });
    eprint!("{}", brig_engine::trace::chart(&trace, output::columns())?);
    outcome
}

fn with_verb(name: &str, run: impl FnOnce(&Verb) -> Result<i32>) -> Result<i32> {
    match VERBS.iter().find(|verb| verb.name == name) {
        Some(verb) => run(verb),
        None => {
            log::fatal(&format!("No help topic for '{name}'; 'brig help' lists the commands"));
            Ok(NO_SUCH_VERB)
        }
    }
}

fn run_verb(verb: &Verb, global: &Args, rest: &[OsString]) -> Result<i32> {
    let args =
        args::parse(verb.flags, verb.order, rest.iter().cloned()).map_err(|error| no_image(verb, rest, error))?;
    if args.help {
        return output::print(&help::verb(verb)).map(|()| 0);
    }
    verb.check_count(args.rest.len())?;
    let (root, in_runtime_dir) = root(global)?;
    if in_runtime_dir {
        make_sticky(&root)?;
    }
    let global = Global { root, root_is_given: global.path("root").is_some(), manager: manager(global)? };
    match (verb.run)(&global, &args) {
        Err(error) if verb.name == "exec" => {
            log::fatal(&error.context("exec failed").to_string());
            Ok(EXEC_FAILED)
        }
        Err(error) if verb.name == "create" || verb.name == "run" => {
            Err(error.context(format!("brig {} failed", verb.name)))
        }
        outcome => outcome,
    }
}

/// Adds a hint to the usage error of a Docker or Podman command line: brig runs bundles, not images.
fn no_image(verb: &Verb, rest: &[OsString], error: Error) -> Error {
    /// Common flags of Docker's `run` and `create` that brig does not have.
    const FOREIGN: [&str; 14] = [
        "-i",
        "-t",
        "-it",
        "-ti",
        "-dit",
        "-itd",
        "-p",
        "-v",
        "-e",
        "--rm",
        "--name",
        "--interactive",
        "--tty",
        "--volume",
    ];
    let flag = |word: &OsString| word.to_string_lossy().split('=').next().is_some_and(|flag| FOREIGN.contains(&flag));
    if !matches!(verb.name, "run" | "create") || !rest.iter().any(flag) {
        return error;
    }
    let hint = "brig runs bundles (a directory with config.json and a root file system), not images; 'brig run --help' shows how";
    Error::new(error.kind(), format!("{error}; {hint}"))
}

/// The root directory, and whether it is below XDG_RUNTIME_DIR. The default suits the caller's privilege.
fn root(global: &Args) -> Result<(PathBuf, bool)> {
    let runtime_dir = || std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty() && is_rootless());
    let (root, in_runtime_dir) = match global.path("root") {
        Some(root) => (root, false),
        None => match runtime_dir() {
            Some(dir) => (Path::new(&dir).join("brig"), true),
            None => (PathBuf::from("/run/brig"), false),
        },
    };
    let absolute = std::path::absolute(&root)
        .map_err(|error| Error::new(ErrorKind::InvalidConfig, format!("invalid --root {root:?}: {error}")))?;
    let absolute = clean(&absolute);
    if absolute.parent().is_none() {
        return Err(Error::new(ErrorKind::InvalidConfig, "invalid --root \"/\": give a directory of its own"));
    }
    Ok((absolute, in_runtime_dir))
}

/// Sets the sticky bit: old files below XDG_RUNTIME_DIR may be removed unless it is set (XDG Base Directory
/// Specification).
fn make_sticky(root: &Path) -> Result<()> {
    let unable = || format!("unable to make the root directory {}", root.display());
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root).with_context(unable)?;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o1700)).with_context(unable)
}

/// Whether the caller is not root, or is root only in its own user namespace (USER keeps the outer name).
fn is_rootless() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    // The initial user namespace maps every id to itself. A map that cannot be read means a kernel without user
    // namespaces.
    let mapped = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let initial = mapped.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
    !mapped.is_empty() && !initial && std::env::var_os("USER").is_none_or(|user| user != "root")
}

fn manager(global: &Args) -> Result<CgroupManager> {
    match global.text("rootless")?.as_deref() {
        None | Some("true" | "false" | "auto") => {}
        Some(value) => {
            let message = format!("invalid --rootless {value:?}: expected true, false or auto");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
    }
    match global.text("cgroup-manager")?.as_deref() {
        None if global.is_on("systemd-cgroup") => Ok(CgroupManager::Systemd),
        None | Some("cgroupfs") => Ok(CgroupManager::Cgroupfs),
        Some("systemd") => Ok(CgroupManager::Systemd),
        Some("disabled") => Ok(CgroupManager::Disabled),
        Some(value) => {
            let message = format!("invalid --cgroup-manager {value:?}: expected cgroupfs, systemd or disabled");
            Err(Error::new(ErrorKind::InvalidConfig, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(line: &[&str]) -> Args {
        args::parse(GLOBAL_FLAGS, Order::First, line.iter().map(OsString::from)).unwrap()
    }

    #[test]
    fn the_root_is_absolute_and_never_the_file_systems_root() {
        assert_eq!(root(&global(&["--root", "/a/b"])).unwrap(), (PathBuf::from("/a/b"), false));
        assert!(root(&global(&["--root", "here"])).unwrap().0.ends_with("here"));
        assert!(root(&global(&["--root", "/"])).is_err());
        assert!(root(&global(&["--root", "//"])).is_err());
        assert!(root(&global(&["--root", "/../a/.."])).is_err());
    }

    #[test]
    fn either_flag_selects_the_cgroup_manager() {
        assert_eq!(manager(&global(&[])).unwrap(), CgroupManager::Cgroupfs);
        assert_eq!(manager(&global(&["--systemd-cgroup"])).unwrap(), CgroupManager::Systemd);
        assert_eq!(manager(&global(&["--cgroup-manager=disabled"])).unwrap(), CgroupManager::Disabled);
        assert!(manager(&global(&["--cgroup-manager=best"])).is_err());
        assert!(manager(&global(&["--rootless=perhaps"])).is_err());
    }
}
