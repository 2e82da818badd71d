//! The entry into a pid namespace that is joined: the first-stage init stays outside until it has released everything
//! of the host, and then creates the container's process inside.
//!
//! The processes of the pid namespace see the second-stage init from its start on. Those with CAP_SYS_PTRACE
//! over its user namespace can use everything that it has, dumpable or not (ptrace(2), "Ptrace access mode checking"):
//! memory, descriptors, root and capabilities. Therefore it starts with no more than the container is to have. The
//! first-stage init is out of reach, because a pid namespace does not show the processes of its parent.

use std::os::fd::AsFd;

use super::context::Init;
use super::join::continue_in_child;
use crate::error::{Context, Result};
use crate::handshake::{Confine, Filter, Limits};
use crate::seccomp::{Call, permits};
use brig_plan::seccomp::flag::NEW_LISTENER;
use brig_sys::{SysError, SysResult, ns, process, tty};

/// Selects the pid namespace in which the second-stage init starts. An exec has selected it with the namespaces that it
/// joined.
pub(super) fn children_namespace(init: &mut Init) -> Result<()> {
    match init.handles.pid_namespace.take() {
        Some(namespace) => {
            ns::join(namespace.as_fd(), libc::CLONE_NEWPID as u64).context("unable to join the pid namespace")
        }
        None => Ok(()),
    }
}

/// Requests the seccomp filter from the parent, which sends it if the filter permits the remaining steps.
/// [`late_second_stage`] installs it just before it creates the second-stage init, and drops the capability that this
/// requires. Else the second-stage init has CAP_SYS_ADMIN until the last step has installed the filter.
pub(super) fn confine(init: &mut Init) -> Result<()> {
    if !init.plan.confines_first_stage() {
        return Ok(());
    }
    init.confinement = init.channel()?.ask(&Confine)?;
    Ok(())
}

/// Creates the second-stage init, which sets the attributes that it cannot inherit. The first-stage init exits here.
pub(super) fn late_second_stage(init: &mut Init) -> Result<()> {
    if !init.plan.has_late_second_stage() {
        return Ok(());
    }
    init.close_proc();
    continue_in_child(init, 0)?;
    new_session()?;
    if init.plan.process.terminal {
        tty::make_controlling(std::io::stdin().as_fd()).context("unable to take the terminal")?;
    }
    let scheduler = init.plan.process.scheduler.as_ref().is_some_and(|scheduler| !scheduler.is_inherited());
    set_limits(init, scheduler)
}

pub(super) fn new_session() -> SysResult<()> {
    rustix::process::setsid().map(drop).map_err(|error| SysError::new("setsid", "", error))
}

/// Sets the resource limits. With `scheduler` the parent is to set the scheduler as well.
pub(super) fn set_limits(init: &Init, scheduler: bool) -> Result<()> {
    let set = |limit: &brig_plan::process::Rlimit| process::set_rlimit(0, limit.resource, limit.soft, limit.hard);
    let limits = init.plan.process.rlimits.iter().enumerate();
    // A process in a user namespace may not raise a hard limit (setrlimit(2)), nor may one that has its container's
    // capabilities already; but the parent may have the right.
    let failed: Vec<usize> = limits.filter(|(_, limit)| set(limit).is_err()).map(|(index, _)| index).collect();
    if failed.is_empty() && !scheduler {
        return Ok(());
    }
    init.channel()?.ask(&Limits { failed, scheduler })
}

/// Checks that everything after [`confine`] is permitted under the filter: the remaining steps, the C library's
/// allocator, and the exit of a process that fails. False with a listener, which `listener` has to deliver in its own
/// step.
pub(super) fn runs_under(filter: &Filter) -> bool {
    let clone = Call { number: libc::SYS_clone, first: Some(process::CLONE_PARENT_FLAGS) };
    let calls: Vec<Call> = REMAINING.iter().map(|&number| Call { number, first: None }).chain([clone]).collect();
    filter.flags & NEW_LISTENER == 0 && permits(&filter.instructions, &calls)
}

/// System calls after [`confine`]; a test runs them under a filter that kills on all others.
const REMAINING: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_capset,
    libc::SYS_close,
    libc::SYS_execve,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_read,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setsid,
    libc::SYS_sigaltstack,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_write,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(profile: &str) -> Filter {
        let compiled = crate::seccomp::compile(&serde_json::from_str(profile).unwrap()).unwrap();
        Filter { instructions: compiled.program.instructions, flags: compiled.program.flags }
    }

    #[test]
    fn the_remaining_steps_run_under_dockers_profile_but_not_under_one_that_denies_a_call_of_theirs() {
        assert!(runs_under(&filter(include_str!("../../../../spec-tests/data/docker-default-seccomp.json"))));
        assert!(runs_under(&filter(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)));
        for name in ["sendmsg", "clone", "setsid"] {
            let rule = format!(r#"{{"names":["{name}"],"action":"SCMP_ACT_ERRNO"}}"#);
            assert!(
                !runs_under(&filter(&format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#))),
                "{name}"
            );
        }
    }
}
