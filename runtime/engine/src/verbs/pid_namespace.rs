//! Whether a pid namespace that is joined is entered last, by the second stage.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use brig_plan::init::InitPlan;
use brig_plan::mounts::MountKind;
use brig_plan::namespaces::NamespaceKind;
use brig_sys::mount;

/// Takes the pid namespace out of those that the first stage joins. Where the root cannot be built outside of it, the
/// container's process is inside from the beginning.
pub(super) fn enter_last(init: &mut InitPlan, clone_flags: &mut u64, joined: &[OwnedFd]) {
    let kind = NamespaceKind::Pid.clone_flag();
    let Some(place) = init.join.iter().position(|(_, flags)| *flags == kind).filter(|_| init.second_stage) else { return };
    let number = init.join[place].0;
    if joined.iter().any(|fd| fd.as_raw_fd() == number && builds_root_outside(init, fd)) {
        init.join.remove(place);
        init.pid_namespace = Some(number);
    } else {
        init.second_stage = false;
        init.sibling = Some(std::mem::take(clone_flags));
    }
}

/// Whether a process outside of `pid_namespace` can make all of the root. Before Linux 6.18 a procfs shows the pid
/// namespace of the process that mounts it: that process must be inside then, and is in reach of the others there.
fn builds_root_outside(init: &InitPlan, pid_namespace: &OwnedFd) -> bool {
    let mounts = init.rootfs.iter().flat_map(|rootfs| &rootfs.mounts);
    if !mounts.into_iter().any(|op| op.kind == MountKind::Proc) {
        return true;
    }
    match mount::Filesystem::new("proc").descriptor("pidns", pid_namespace.as_fd()).check_parameters() {
        Ok(()) => true,
        Err(error) => {
            tracing::debug!("the root is built inside of the pid namespace that is joined: {error}");
            false
        }
    }
}
