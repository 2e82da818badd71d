//! The server: one process for a group of containers, on one thread, with further threads for calls that block
//! ([`calls`]).

mod connections;
mod frames;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use brig_engine::error::{Context, Error, ErrorKind, Result};
use brig_engine::process;
use nix::sys::signal::{SigSet, Signal};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use ttrpc::r#async::Server;
use ttrpc::asynchronous::transport::Listener;

use crate::bootstrap::args::Args;
use crate::bundle::remove_if_there;
use crate::calls;
use crate::events::Publisher;
use crate::reaper::Reaper;
use crate::service;
use crate::setup;
use crate::tasks::Shim;
use crate::trace::Tracer;
use connections::Connections;

/// The time after which an idle thread for blocking calls exits.
const THREAD_IDLE_TIMEOUT: Duration = Duration::from_millis(500);
/// The time that containerd has to take the last events, and a collector the last spans.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(5);
/// The time that pending answers may take, and that clients have to hang up after theirs.
const ANSWERS_TIMEOUT: Duration = Duration::from_secs(1);
/// The time that containers may take to exit when the server is terminated.
const CONTAINERS_TIMEOUT: Duration = Duration::from_secs(10);

/// The signals that the server handles, and that would kill it before its handlers are installed.
pub fn held_signals() -> SigSet {
    [Signal::SIGTERM, Signal::SIGUSR1].into_iter().collect()
}

/// Serves until no container is left. Standard input is the listening socket that `start` created, the working
/// directory the bundle of the first container.
///
/// # Errors
/// There is no socket, or the server cannot be set up.
pub fn run(args: &Args) -> Result<()> {
    let listener = inherited_listener()?;
    crate::log::init(Path::new("log"), args.debug, &[("ns", &args.namespace), ("shim", &args.id)])?;
    setup::become_subreaper()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(calls::MAX_THREADS)
        .thread_keep_alive(THREAD_IDLE_TIMEOUT)
        // An exiting thread has been idle for a while; so has the server, which may now wait for days.
        .on_thread_stop(release_program)
        .build()
        .context("unable to set up the server")?;
    let result = runtime.block_on(serve(args, listener));
    // A call that hangs, for example in a hook, must not keep this process running.
    runtime.shutdown_timeout(ANSWERS_TIMEOUT);
    result
}

/// Releases the pages of this program, of which the next call needs few.
fn release_program() {
    if let Err(error) = process::release_program_pages() {
        tracing::debug!("{error}");
    }
}

/// Takes the socket from standard input, which is replaced by /dev/null.
fn inherited_listener() -> Result<StdListener> {
    let stdin = std::io::stdin();
    let is_socket = std::fs::File::from(stdin.as_fd().try_clone_to_owned().context("standard input is closed")?)
        .metadata()
        .is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        let message = "containerd starts this program, with the action start or delete; by hand, try -v or -info";
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    let socket: OwnedFd = stdin.as_fd().try_clone_to_owned().context("unable to take the socket")?;
    let null = std::fs::File::open("/dev/null").context("unable to open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("unable to close standard input")?;
    let listener = StdListener::from(socket);
    listener.set_nonblocking(true).context("unable to take the socket")?;
    Ok(listener)
}

async fn serve(args: &Args, listener: StdListener) -> Result<()> {
    let unable = "unable to set up the server";
    let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(Path::to_owned));
    let mut terminate = signal(SignalKind::terminate()).context(unable)?;
    let mut dump = signal(SignalKind::user_defined1()).context(unable)?;
    // `start` has blocked them until here; children must not inherit the mask.
    held_signals().thread_unblock().map_err(std::io::Error::from).context(unable)?;
    let reaper = Arc::new(Reaper::default());
    let reaping = tokio::spawn(Arc::clone(&reaper).run());
    let publisher = Publisher::start(std::env::var("TTRPC_ADDRESS").ok().as_deref(), &args.namespace);
    let tracer = Tracer::from_environment(&args.id);
    let shim = Shim::new(&args.namespace, reaper, publisher, tracer)?;
    let listener = UnixListener::from_std(listener).context(unable)?;
    let connections = Connections::new();
    let mut server = Server::new()
        .add_listener(Listener::new(connections.accept(listener)))
        .register_service(service::methods(&shim))
        .register_service(crate::sandbox::methods(&shim));
    server.start().await.map_err(|error| Error::other(error.to_string()).context(unable))?;
    tracing::debug!("the server is running");
    loop {
        tokio::select! {
            () = shim.exiting.notified() => break,
            _ = terminate.recv() => {
                tracing::info!("SIGTERM: killing the containers, then exiting");
                kill_all(&shim).await;
                break;
            }
            _ = dump.recv() => shim.describe().iter().for_each(|line| tracing::info!("{line}")),
        }
    }
    // The socket must be removed first: a container of this group that is started from here on gets a server of its
    // own.
    if let Some(Err(error)) = path.as_deref().map(remove_if_there) {
        tracing::warn!("{error}");
    }
    shim.context.publisher.close(EVENTS_TIMEOUT).await;
    shim.tracer.close(EVENTS_TIMEOUT).await;
    connections.leave(ANSWERS_TIMEOUT).await;
    if tokio::time::timeout(ANSWERS_TIMEOUT, server.shutdown()).await.is_err() {
        tracing::debug!("exiting while calls are still being answered");
    }
    reaping.abort();
    Ok(())
}

async fn kill_all(shim: &Arc<Shim>) {
    shim.close();
    let ends = shim.all().into_iter().map(|task| async move {
        if let Err(error) = shim.kill_and_delete(&task).await {
            tracing::error!(id = task.id, "unable to kill and remove the container: {error}");
        }
    });
    let all = futures_util::future::join_all(ends);
    if tokio::time::timeout(CONTAINERS_TIMEOUT, all).await.is_err() {
        tracing::error!("exiting although some containers did not exit within {CONTAINERS_TIMEOUT:?}");
    }
}
