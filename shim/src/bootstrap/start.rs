//! `start`: the address of the server for a container; the server is started if there is none.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use brig_engine::error::{Context, Error, ErrorKind, Result};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult, LogLevel};
use protobuf::Message;
use protobuf::well_known_types::any::Any;

use super::args::Args;
use super::socket::{self, Socket};
use super::version;
use crate::bundle::{BundleConfig, OPTIONS, remove_if_there};
use crate::options::{self, Options};
use crate::server;
use crate::setup;

/// The message on standard input. containerd up to 2.2 gives the runtime options or nothing, 2.3 and later a message of
/// its own, which has the options among its extensions.
#[derive(Debug, Default)]
struct Input {
    options: Option<Any>,
    params: Option<BootstrapParams>,
}

impl Input {
    /// Parses the input. An Any decodes as BootstrapParams too (its type would be the id): only a message that names
    /// this very container is one.
    fn parse(bytes: &[u8], args: &Args) -> Result<Input> {
        if let Ok(params) = BootstrapParams::parse_from_bytes(bytes)
            && params.instance_id == args.id
            && params.namespace == args.namespace
        {
            let values = params.extensions.iter().filter_map(|extension| extension.value.as_ref());
            let options = values.into_iter().find(|any| any.type_url.ends_with("Options")).cloned();
            return Ok(Input { options, params: Some(params) });
        }
        if bytes.is_empty() {
            return Ok(Input::default());
        }
        let any = Any::parse_from_bytes(bytes)
            .map_err(|error| Error::other(format!("standard input is neither parameters nor options: {error}")))?;
        Ok(Input { options: Some(any), params: None })
    }

    fn debug(&self, args: &Args) -> bool {
        // More verbose levels are negative.
        args.debug
            || self.params.as_ref().is_some_and(|params| params.log_level.value() <= LogLevel::LOG_LEVEL_DEBUG as i32)
    }
}

/// Writes the answer to standard output, and nothing else, because containerd reads all of it.
///
/// # Errors
/// The bundle, which is the working directory, cannot be read, or the socket or the server cannot be created.
pub fn run(args: &Args, name: &std::ffi::OsStr) -> Result<()> {
    let config = config_of_bundle(Path::new("."))?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("unable to read standard input")?;
    let input = Input::parse(&bytes, args)?;
    let options = options::parse(input.options.as_ref())?;
    if let (None, Some(options)) = (&config, &input.options) {
        store_options(options)?;
    }
    let config = config.unwrap_or_default();
    let group = config.group().unwrap_or(&args.id);
    let params = input.params.as_ref();
    let directory = params.and_then(|params| params.socket_dir.as_deref());
    let path = socket::path(directory, &args.address, &args.namespace, group)?;
    let mut served = version::Version::V3;
    match socket::claim(&path)? {
        Socket::Served => served = version::of_server(&path)?,
        Socket::New(listener, _lock) => {
            let started = prepare(&options).and_then(|()| {
                let ttrpc = params.map(|params| params.containerd_ttrpc_address.as_str());
                start_server(
                    &Server { args, name, group, debug: input.debug(args), ttrpc_address: ttrpc },
                    listener.into(),
                )
            });
            if let Err(error) = started {
                remove_if_there(&path)?;
                return Err(error);
            }
        }
    }
    let address = format!("unix://{}", path.display());
    brig_engine::replace(Path::new("address"), address.as_bytes(), 0o600)?;
    let answer = match params {
        Some(_) => {
            let result = BootstrapResult {
                version: served.number(),
                address,
                protocol: "ttrpc".to_owned(),
                ..Default::default()
            };
            result.write_to_bytes().map_err(|error| Error::other(error.to_string()))?
        }
        None => address.into_bytes(),
    };
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&answer).and_then(|()| stdout.flush()).context("unable to answer")
}

/// Reads config.json. A sandbox's bundle may have none: such a bundle is recognised by the log that containerd creates
/// in every bundle before it starts a shim.
fn config_of_bundle(bundle: &Path) -> Result<Option<BundleConfig>> {
    let config = BundleConfig::read_if_any(bundle)?;
    let log = std::fs::metadata(bundle.join("log"));
    if config.is_none() && !log.is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        let directory = std::env::current_dir().unwrap_or_else(|_| bundle.to_owned());
        let message = format!(
            "{} is no bundle: it has neither config.json nor the FIFO log; containerd starts this \
                               program in the container's bundle",
            directory.display()
        );
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    Ok(config)
}

/// Stores a sandbox's runtime options in the bundle until it is created.
fn store_options(options: &Any) -> Result<()> {
    let bytes = options.write_to_bytes().map_err(|error| Error::other(format!("runtime options: {error}")))?;
    brig_engine::replace(Path::new(OPTIONS), &bytes, 0o600)
}

/// Sets the attributes of the server on this process, from which it inherits them.
fn prepare(options: &Options) -> Result<()> {
    let own = rustix::process::getpid().as_raw_pid();
    let parent = rustix::process::getppid().map_or(0, |parent| parent.as_raw_pid());
    setup::adjust_oom_score(own, parent);
    setup::join_cgroup(&options.shim_cgroup, own)?;
    setup::share_core()
}

/// The command line and the environment of a server.
struct Server<'a> {
    /// The arguments of this command, from which the server takes namespace and address.
    args: &'a Args,
    /// Argument 0.
    name: &'a std::ffi::OsStr,
    group: &'a str,
    debug: bool,
    /// TTRPC_ADDRESS, if containerd names it.
    ttrpc_address: Option<&'a str>,
}

/// Starts the server: this binary, without an action, with the socket `listener` as its standard input.
fn start_server(server: &Server<'_>, listener: OwnedFd) -> Result<()> {
    let Server { args, name, group, debug, ttrpc_address } = *server;
    let binary = std::env::current_exe().context("unable to find this program's own binary")?;
    let mut command = Command::new(binary);
    command
        .arg0(name)
        .args(["-namespace", &args.namespace, "-id", group, "-address", &args.address])
        .stdin(Stdio::from(listener))
        // containerd reads until the last writer has closed these.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if debug {
        command.arg("-debug");
    }
    if let Some(address) = ttrpc_address.filter(|address| !address.is_empty()) {
        command.env("TTRPC_ADDRESS", address);
    }
    // Signals that arrive before the server's handlers stay pending until then (execve(2) keeps the mask).
    server::held_signals().thread_block().map_err(std::io::Error::from).context("unable to hold signals")?;
    // The server outlives this process, so no wait follows.
    command.spawn().map(drop).context("unable to start the server")
}

#[cfg(test)]
mod tests {
    use super::*;
    use containerd_shim_protos::bootstrap_api::Extension;
    use protobuf::MessageField;

    fn args() -> Args {
        let line = "-namespace n -id a start";
        Args::parse(line.split(' ').map(Into::into)).unwrap()
    }

    #[test]
    fn options_are_not_taken_for_parameters() {
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: b"n".to_vec(), ..Any::default() };
        let input = Input::parse(&any.write_to_bytes().unwrap(), &args()).unwrap();
        assert!(input.params.is_none());
        assert_eq!(input.options.unwrap().type_url, any.type_url);
        let nothing = Input::parse(b"", &args()).unwrap();
        assert!(nothing.params.is_none() && nothing.options.is_none());
    }

    #[test]
    fn parameters_carry_the_options_among_their_extensions() {
        let any = Any { type_url: "containerd.runc.v1.Options".into(), ..Any::default() };
        let params = BootstrapParams {
            instance_id: "a".into(),
            namespace: "n".into(),
            extensions: vec![Extension { value: MessageField::some(any.clone()), ..Extension::default() }],
            log_level: LogLevel::LOG_LEVEL_DEBUG.into(),
            ..BootstrapParams::default()
        };
        let input = Input::parse(&params.write_to_bytes().unwrap(), &args()).unwrap();
        assert!(input.debug(&args()));
        assert_eq!(input.options.unwrap(), any);
        assert!(input.params.is_some());
        // Parameters of another container are ignored.
        let other = BootstrapParams { instance_id: "b".into(), ..params };
        assert!(Input::parse(&other.write_to_bytes().unwrap(), &args()).map_or(true, |input| input.params.is_none()));
    }
}
