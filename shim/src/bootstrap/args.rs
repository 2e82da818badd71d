//! The command line, in the manner of Go's flag package: `-name value`, `-name=value`, `--name`; then the action.

use std::ffi::OsString;
use std::path::PathBuf;

use brig_engine::error::{Error, ErrorKind, Result};

/// The action of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// `-help`: print the flags.
    Help,
    /// `-v`: print the version.
    Version,
    /// `-info`: print the features of the shim and its runtime.
    Info,
    /// `start`: answer with the address of a server, and start that server if there is none.
    Start,
    /// `delete`: remove the remains of a container whose server is gone.
    Delete,
    /// No action: run as the server, whose listening socket is standard input.
    Serve,
}

/// The output of `-help`.
pub const USAGE: &str = "\
Usage: containerd-shim-brig-v2 [FLAG ...] start | delete

containerd's shim for brig. containerd starts it, with the bundle as working directory: start prints the address of a
server for the container and makes that server if there is none; delete removes what a container has left whose server
is gone.

  -namespace NAME       containerd's namespace
  -id ID                the container's id
  -address PATH         containerd's gRPC address
  -bundle PATH          the bundle, for delete; the working directory unless given
  -publish-binary PATH  not used: events go to TTRPC_ADDRESS
  -socket PATH          not used
  -debug                log more
  -info                 print what the runtime can do; reads its options from standard input
  -v                    print the version
  -help                 print this text
";

/// The parsed command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// The action to run.
    pub action: Action,
    /// containerd's namespace.
    pub namespace: String,
    /// The container's id; for the server, the group's.
    pub id: String,
    /// containerd's gRPC address.
    pub address: String,
    /// The bundle, which `delete` is also given by its path.
    pub bundle: Option<PathBuf>,
    /// Whether containerd logs at debug level.
    pub debug: bool,
}

impl Args {
    /// Parses argv without its name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] for an unknown flag or action, a missing value, or without -namespace or -id
    /// where they are needed.
    pub fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Args> {
        let wrong = |message: String| Error::new(ErrorKind::InvalidConfig, message);
        let mut args = Args {
            action: Action::Serve,
            namespace: String::new(),
            id: String::new(),
            address: String::new(),
            bundle: None,
            debug: false,
        };
        let mut arguments = arguments.map(|argument| {
            argument.into_string().map_err(|argument| wrong(format!("argument {argument:?} is not UTF-8")))
        });
        while let Some(argument) = arguments.next().transpose()? {
            let Some(flag) = argument.strip_prefix('-').map(|flag| flag.strip_prefix('-').unwrap_or(flag)) else {
                args.action = match argument.as_str() {
                    "start" => Action::Start,
                    "delete" => Action::Delete,
                    _ => return Err(wrong(format!("unknown action {argument:?}: start or delete was expected"))),
                };
                break;
            };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            match name {
                "h" | "help" => args.action = Action::Help,
                "v" | "version" => args.action = Action::Version,
                "info" => args.action = Action::Info,
                "debug" => args.debug = value.is_none_or(|value| value == "true"),
                "namespace" | "id" | "address" | "bundle" | "publish-binary" | "socket" => {
                    let value = match value {
                        Some(value) => value,
                        None => {
                            arguments.next().transpose()?.ok_or_else(|| wrong(format!("flag -{name} needs a value")))?
                        }
                    };
                    match name {
                        "namespace" => args.namespace = value,
                        "id" => args.id = value,
                        "address" => args.address = value,
                        "bundle" => args.bundle = Some(value.into()).filter(|path: &PathBuf| *path != PathBuf::new()),
                        // Events go to TTRPC_ADDRESS, and `start` creates the socket.
                        _ => {}
                    }
                }
                _ => return Err(wrong(format!("unknown flag -{name}; -help prints those that there are"))),
            }
            if matches!(args.action, Action::Help | Action::Version | Action::Info) {
                return Ok(args);
            }
        }
        args.check()
    }

    fn check(self) -> Result<Args> {
        for (flag, value) in [("namespace", &self.namespace), ("id", &self.id)] {
            // Both values become parts of paths.
            if value.is_empty() || value.contains('/') || value == "." || value == ".." {
                return Err(Error::new(
                    ErrorKind::InvalidConfig,
                    format!("flag -{flag}: {value:?} is no {flag}; containerd starts this program, not a person"),
                ));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Args> {
        Args::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn containerd_s_own_lines_are_understood() {
        let line = "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id a -debug start";
        let args = parse(line).unwrap();
        assert_eq!((args.action, args.debug), (Action::Start, true));
        assert_eq!((args.namespace.as_str(), args.id.as_str(), args.address.as_str()), ("default", "a", "/run/c.sock"));
        let args = parse("--namespace=x -address=y -id z -bundle /b delete").unwrap();
        assert_eq!((args.action, args.bundle), (Action::Delete, Some("/b".into())));
        assert_eq!(parse("-v").unwrap().action, Action::Version);
        for help in ["-h", "-help", "--help"] {
            assert_eq!(parse(help).unwrap().action, Action::Help);
        }
        assert_eq!(parse("-info").unwrap().action, Action::Info);
        assert_eq!(parse("-namespace a -id b").unwrap().action, Action::Serve);
    }

    #[test]
    fn what_containerd_never_says_is_refused() {
        for line in
            ["", "start", "-namespace n start", "-namespace ../a -id b start", "-nope", "-id", "-namespace a -id b go"]
        {
            assert_eq!(parse(line).unwrap_err().kind(), ErrorKind::InvalidConfig, "{line}");
        }
    }
}
