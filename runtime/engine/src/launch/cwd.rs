//! The steps for process.cwd: the directory is created before the root becomes read-only, and entered afterwards.

use std::path::Path;

use crate::error::{Context, Result};
use brig_sys::path::{Dir, Links};
use brig_sys::{SysError, SysResult};

use super::context::Init;

/// Creates a missing working directory. For an exec a missing one is an error, as with runc.
pub(super) fn make_working_directory(init: &mut Init) -> Result<()> {
    let cwd = &init.plan.process.cwd;
    if init.plan.rootfs.is_none() || cwd.as_os_str().is_empty() || cwd == Path::new("/") {
        return Ok(());
    }
    match Dir::open_host(Path::new("/"))?.mkdir_all(cwd, 0o755, Links::Follow) {
        // A network file system may refuse root what it permits the container's user; see `working_directory`.
        Err(error) if error.errno() == rustix::io::Errno::ACCESS => {
            init.channel()?.log(false, format!("process.cwd: trying again as the container's user: {error}"))
        }
        made => made.map(drop).context("unable to make process.cwd"),
    }
}

pub(super) fn working_directory(init: &mut Init) -> Result<()> {
    let cwd = init.plan.process.cwd.clone();
    if cwd.as_os_str().is_empty() || cwd == Path::new("/") {
        return Ok(chdir(Path::new("/"))?);
    }
    match chdir(&cwd) {
        // A network file system may refuse root what it permits the container's user: try again as that user.
        Err(error) if init.identity.uid != 0 && error.errno() == rustix::io::Errno::ACCESS => {
            init.chdir_later = true;
            init.channel()?.log(false, format!("process.cwd: trying again as the container's user: {error}"))
        }
        other => other.context("unable to enter process.cwd"),
    }
}

pub(super) fn chdir(path: &Path) -> SysResult<()> {
    rustix::process::chdir(path).map_err(|error| SysError::new("chdir", format!("{path:?}"), error))
}
