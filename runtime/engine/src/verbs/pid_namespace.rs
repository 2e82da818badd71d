//! The order of joining a pid namespace: last, by the second-stage init, where the root allows it.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use brig_plan::init::InitPlan;
use brig_plan::mounts::MountKind;
use brig_plan::namespaces::NamespaceKind;
use brig_sys::mount;

/// Removes the pid namespace from those that the first-stage init joins. Where the root cannot be built outside of
/// it, the container's process is inside from the start.
pub(super) fn enter_last(init: &mut InitPlan, clone_flags: &mut u64, joined: &[OwnedFd]) {
    let kind = NamespaceKind::Pid.clone_flag();
    let Some(index) = init.join.iter().position(|(_, flags)| *flags == kind).filter(|_| init.second_stage) else {
        return;
    };
    let number = init.join[index].0;
    if joined.iter().any(|fd| fd.as_raw_fd() == number && builds_root_outside(init, fd)) {
        init.join.remove(index);
        init.pid_namespace = Some(number);
    } else {
        init.second_stage = false;
        init.sibling = Some(std::mem::take(clone_flags));
    }
}

/// Whether a process outside of `pid_namespace` can build the whole root. Before Linux 6.18 a procfs shows the pid
/// namespace of the process that mounts it, so that process must be inside, where others can reach it.
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
