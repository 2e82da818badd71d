//! `delete`: removes the remains of a container whose server is gone. containerd runs it whenever a connection to a
//! server ends, also after a clean exit, so it is quick, and may find nothing to do.

use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use brig_engine::error::{Context, Error, Result};
use brig_engine::root_mounts;
use containerd_shim_protos::api::DeleteResponse;
use protobuf::Message;

use super::args::Args;
use super::socket;
use crate::bundle::{RuntimeRecord, read_stored};
use crate::events::timestamp;
use crate::exit_record::ExitRecord;
use crate::runtime::Runtime;
use crate::sandbox;

/// The status of a process killed by SIGKILL: the answer where the container's own status is unknown.
const KILLED: u32 = 128 + libc::SIGKILL.cast_unsigned();

/// Removes the container, and writes the answer to standard output.
///
/// # Errors
/// Something is left; no answer is written then, so that containerd keeps the bundle.
pub fn run(args: &Args) -> Result<()> {
    let bundle = match &args.bundle {
        Some(bundle) => bundle.clone(),
        None => std::env::current_dir().context("unable to find the bundle")?,
    };
    if let Some(record) = RuntimeRecord::read(&bundle)? {
        Runtime::new(&record, &bundle).delete_own(&args.id, &bundle)?;
    }
    root_mounts::unmount(&bundle.join("rootfs"))?;
    sandbox::empty_rootfs(&bundle)?;
    // A server that was killed has left its socket.
    if let Some(address) = stored_text(&bundle.join("address"))
        && let Some(path) = address.strip_prefix("unix://").map(Path::new)
        && path.is_absolute()
    {
        socket::remove_dead(path)?;
    }
    let (pid, exit_status, exited_at) = exit_of_init(&bundle);
    let response = DeleteResponse { pid, exit_status, exited_at: timestamp(exited_at), ..Default::default() };
    let bytes = response.write_to_bytes().map_err(|error| Error::other(error.to_string()))?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).context("unable to answer")
}

/// Pid, status and time of init's exit: as its server has recorded it, else those of the SIGKILL that the deletion has
/// sent. Exits of execs, which have no field in the answer, are logged.
fn exit_of_init(bundle: &Path) -> (u32, u32, SystemTime) {
    let read = |exec_id: &str| {
        ExitRecord::read(bundle, exec_id).unwrap_or_else(|error| {
            tracing::warn!("an exit status is lost: {error}");
            None
        })
    };
    for id in ExitRecord::execs(bundle).unwrap_or_default() {
        if let Some(exit) = read(&id) {
            tracing::info!(exec = id, pid = exit.pid, "the exec had exited with status {}", exit.status);
        }
    }
    match read("") {
        Some(exit) => (exit.pid, exit.status, exit.exited_at()),
        None => (init_pid(bundle), KILLED, SystemTime::now()),
    }
}

/// Init's former pid; 0 when it is not known.
fn init_pid(bundle: &Path) -> u32 {
    stored_text(&bundle.join("init.pid")).and_then(|pid| pid.trim().parse().ok()).unwrap_or(0)
}

/// The text of a file that the shim has stored. A damaged file must not stop the deletion.
fn stored_text(path: &Path) -> Option<String> {
    let bytes = read_stored(path).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        None
    });
    bytes.and_then(|bytes| String::from_utf8(bytes).ok())
}
