//! The first steps of an init that joins namespaces: the entry into them, and the creation of a process that is in all
//! of them.

use std::os::fd::AsFd;

use super::context::Init;
use super::faults;
use crate::error::{Context, Error, Result};
use crate::handshake::SecondStage;
use brig_sys::{SysError, cred, ns, process};

/// Joins the namespaces, in their order.
pub(super) fn join(init: &mut Init) -> Result<()> {
    const CLONE_NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
    for (namespace, flags) in std::mem::take(&mut init.handles.join) {
        ns::join(namespace.as_fd(), flags).context("unable to join a namespace")?;
        if flags & CLONE_NEWUSER != 0 {
            // The ids of the caller are mostly not mapped in the joined user namespace.
            become_root()?;
        }
    }
    Ok(())
}

/// Enters the root of a container that has no mount namespace of its own. setns(2) enters the root of any other.
pub(super) fn container_root(init: &mut Init) -> Result<()> {
    let Some(root) = init.handles.root.take() else { return Ok(()) };
    let context = "unable to enter the container's root";
    rustix::process::fchdir(&root).map_err(|error| SysError::new("fchdir", "", error)).context(context)?;
    rustix::process::chroot(".").map_err(|error| SysError::new("chroot", "\".\"", error)).context(context)
}

fn become_root() -> Result<()> {
    match cred::set_groups(&[]) {
        // setgroups is denied where an unprivileged user wrote the maps (user_namespaces(7)).
        Err(error) if error.errno() != rustix::io::Errno::PERM => return Err(error.into()),
        _ => {}
    }
    cred::set_ids(0, 0).context("unable to become root in the user namespace; it must map id 0")?;
    // Must follow the change of ids, which made this process dumpable by the value of fs.suid_dumpable.
    Ok(process::set_undumpable()?)
}

/// Creates the second-stage init, which becomes the container's process, and exits.
pub(super) fn early_second_stage(init: &mut Init) -> Result<()> {
    let Some(namespaces) = init.plan.early_second_stage() else { return Ok(()) };
    continue_in_child(init, namespaces)?;
    // The parent writes the maps of a user namespace that is created with the second-stage init.
    if namespaces & libc::CLONE_NEWUSER as u64 != 0 {
        init.channel()?.await_reply::<SecondStage>()?;
        become_root()?;
    }
    Ok(())
}

fn not_made(error: SysError) -> Error {
    let context = match error.call() {
        "seccomp" => "unable to install the seccomp filter",
        "capset" => "unable to set process.capabilities",
        _ => "unable to make the container's process",
    };
    Error::from(error).context(context)
}

/// Continues in a new child of the parent's. This process reports the child to the parent, and exits.
pub(super) fn continue_in_child(init: &mut Init, namespaces: u64) -> Result<()> {
    let filter = init.confinement.take();
    let confinement = filter.as_ref().map(|filter| process::Confinement {
        filter: &filter.instructions,
        filter_flags: filter.flags,
        capabilities: init.plan.process.capabilities,
    });
    let made = process::clone_parent(namespaces, confinement.as_ref()).map_err(not_made)?;
    let Some(child) = made else { return Ok(()) };
    faults::reached(init.diagnosis.stop_at.as_deref(), "second_stage_created");
    let reported = init.channel()?.send(&SecondStage { pid: child.pid }, &[child.pidfd.as_fd()]);
    if reported.is_err() {
        // Without a report no process would know of the child, which may have exited by itself.
        let _ = process::pidfd_send_signal(child.pidfd.as_fd(), libc::SIGKILL);
    }
    std::process::exit(i32::from(reported.is_err()));
}
