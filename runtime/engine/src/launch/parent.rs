//! The parent's side of a launch: seals the image, clones, and unwinds after a failure.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd};

use crate::channel::{self, ParentEnd};
use crate::divert;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::handshake::{Filter, INIT_VARIABLE, Step};
use crate::trace;
use brig_plan::seccomp::flag::NEW_LISTENER;
use brig_sys::process::{self, Child, Spawn, Wait};
use brig_sys::{SysError, inherited, seal};

use super::guard::Guard;
use super::handles::Handles;
use super::message::{self, Diagnosis};
use super::request::{Launch, LaunchObserver, Seccomp};
use super::supervisor::{Server, expected};
use super::unknown_syscalls::report_unknown;
use super::{INIT_NAME, faults, idmap, image};

/// Launches init, and returns after it waits at the gate, or without a gate after its program has started.
///
/// # Errors
/// Init's error, the observer's error, or the cause of init's exit. Nothing is left of the process then.
pub(crate) fn launch(launch: Launch<'_>, observer: &mut dyn LaunchObserver) -> Result<Child> {
    // The text is runc's, on which tools and users match.
    launch_and_serve(launch, observer).context("unable to start container process")
}

fn launch_and_serve(mut launch: Launch<'_>, observer: &mut dyn LaunchObserver) -> Result<Child> {
    divert::check()?;
    let entry = if launch.start.cgroup.is_some() { "starts in" } else { "is moved to" };
    tracing::debug!(
        "cgroup: init {entry} its cgroup of v2, if any; enters {} of v1 by itself",
        launch.start.enter.len()
    );
    let (gated, plan) = (launch.handles.gate.is_some(), launch.plan);
    // The user namespace belongs to the second-stage init if there is one, and so does the wait for its maps.
    let (maps, second_stage_maps) = match launch.start.id_maps.take() {
        maps if plan.early_second_stage().is_some() => (None, maps),
        maps => (maps, None),
    };
    let waits = match maps {
        Some(_) => Waits::ForMaps,
        None if observer.must_wait() => Waits::ForLimits,
        None => Waits::No,
    };
    let (seccomp, stdio, stall) = (launch.seccomp, launch.stdio.take(), launch.stall);
    let (parent, guard, mut image) = {
        let _phase = trace::phase("clone");
        clone(launch, stdio.as_ref(), waits)?
    };
    faults::parent("cloned");
    let child = guard.child();
    tracing::debug!("init: started as process {}", child.pid);
    {
        let _phase = trace::phase("limits");
        observer.spawned(child.pid)?;
    }
    if let Some(maps) = &maps {
        idmap::write(child.pid, maps)?;
    }
    if waits != Waits::No {
        parent.go()?;
    }
    faults::parent("went");
    let seccomp = seccomp.map(compile).transpose()?;
    let mut steps = expected(plan);
    steps.extend(seccomp.as_ref().filter(|filter| filter.flags & NEW_LISTENER != 0).map(|_| Step::Listening));
    // Each of the two closings of the image waits for a grace period: this one while init runs its steps, the other one
    // while its program runs.
    image.mount = None;
    let first_stage = None;
    let devices = None;
    let mut server =
        Server { devices, parent, guard, first_stage, observer, steps, plan, seccomp, second_stage_maps, stdio, stall };
    server.serve()?;
    faults::parent("answered");
    if !gated {
        let _phase = trace::phase("wait for the program");
        server.await_exec()?;
    }
    Ok(server.release())
}

/// Compiles the filter, and reports system calls that are unknown.
fn compile(seccomp: Seccomp<'_>) -> Result<Filter> {
    let _phase = trace::phase("compile seccomp");
    let compiled = crate::seccomp::compile(seccomp.profile)?;
    if compiled.refuses_exec {
        let text = "linux.seccomp refuses execve, so that the container's program cannot be executed: allow execve";
        return Err(Error::new(ErrorKind::InvalidConfig, text));
    }
    report_unknown(compiled.unknown, seccomp.unknown_syscalls)?;
    Ok(Filter { instructions: compiled.program.instructions, flags: compiled.program.flags })
}

/// The reason why init waits for the parent before it does anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    No,
    /// The observer applies cgroups and limits to it first.
    ForLimits,
    /// The parent writes the maps of its user namespace first; then it becomes root there.
    ForMaps,
}

/// Seals the image, writes the plan, clones, and closes the descriptors of the child: its exit then causes an end of
/// file.
fn clone(
    launch: Launch<'_>,
    stdio: Option<&[std::os::fd::OwnedFd; 3]>,
    waits: Waits,
) -> Result<(ParentEnd, Guard, seal::Image)> {
    let (parent, init) = channel::pair()?;
    let image = {
        let _phase = trace::phase("seal");
        image::open(launch.seal_beside, launch.image)?
    };
    let diagnosis = Diagnosis { log_steps: tracing::event_enabled!(tracing::Level::DEBUG), stop_at: faults::wanted() };
    let handles = Handles { channel: init.fd(), trace: trace::fd(), container: launch.handles.borrow() };
    let bytes = message::encode(launch.plan, &handles.numbers(), &launch.settings, &diagnosis)?;
    let plan = seal::memory_file(c"plan", &bytes)?;
    let mut inherit = handles.list();
    inherit.push(plan.as_fd());
    let inherited = inherited::variable(&inherit, launch.plan.preserve_fds);
    let variable = format!("{INIT_VARIABLE}={}", plan.as_raw_fd());
    let variable = CString::new(variable).map_err(|_| Error::other("a number with a NUL byte"))?;
    let enter: Vec<_> = launch.start.enter.iter().map(AsFd::as_fd).collect();
    let child = process::spawn_sealed(&Spawn {
        namespaces: launch.start.namespaces,
        cgroup: launch.start.cgroup.as_ref().map(AsFd::as_fd),
        enter: &enter,
        image: image.file.as_fd(),
        argv: &[INIT_NAME],
        env: &[&variable, &inherited],
        stdio: stdio.map(|fds| [fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()]),
        inherit: &inherit,
        preserve: launch.plan.preserve_fds,
        wait: (waits != Waits::No).then(|| Wait { from: init.fd(), peer: parent.fd() }),
        become_root: waits == Waits::ForMaps,
        report: init.fd(),
    })
    .map_err(no_process)?;
    Ok((parent, Guard::new(child), image))
}

fn no_process(error: SysError) -> Error {
    let advice = match error.errno() {
        rustix::io::Errno::AGAIN => {
            " (a limit on processes is reached: pids.max of a cgroup around the caller, or its RLIMIT_NPROC)"
        }
        _ => "",
    };
    Error::from(error).context(format!("unable to make the container's process{advice}"))
}
