//! The id maps of a new user namespace, which its parent writes.

use crate::error::{Context, Result};
use brig_sys::procfs::Proc;

use super::request::{IdMaps, Setgroups};

/// Writes the maps of the user namespace of the process `pid`.
///
/// # Errors
/// EPERM when the writer lacks the right to map these ids (user_namespaces(7)).
pub(super) fn write(pid: i32, maps: &IdMaps<'_>) -> Result<()> {
    let proc = Proc::open()?;
    let unable = "unable to map the ids of the user namespace";
    if maps.setgroups == Setgroups::Deny {
        proc.write(format!("{pid}/setgroups"), b"deny").context(unable)?;
    }
    proc.write(format!("{pid}/gid_map"), maps.gids.text().as_bytes()).context(unable)?;
    proc.write(format!("{pid}/uid_map"), maps.uids.text().as_bytes()).context(unable)?;
    Ok(())
}
