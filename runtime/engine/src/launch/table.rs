//! The one table of an init's steps, for create and for exec. An exec skips the steps that its plan leaves empty, and
//! cannot omit one that both need.

use std::convert::Infallible;

use crate::error::Result;
use crate::trace;

use super::context::Init;
use super::cwd::{make_working_directory, working_directory};
use super::join::{container_root, early_second_stage, join};
use super::network::network_devices;
use super::second_stage::{children_namespace, confine, late_second_stage};
use super::steps::{
    affinity, cgroup_namespace, console, container_hooks, credentials, enter, filter, finish, identity, labels, limits,
    listener, lookup, loopback, names, preserve, ready, root, runtime_hooks, scheduling, session, standard_streams,
    start_hooks, sysctl, time_namespace, wait_at_gate,
};
use super::{faults, program};

/// The rights of a process at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Privilege {
    /// The caller's, with all capabilities in the new namespaces.
    Caller,
    /// Those of the container's process.
    Container,
}

pub(super) struct Step {
    /// The name of the step and of its function; of its phase in a trace, and in the log of `--debug`.
    pub name: &'static str,
    run: fn(&mut Init) -> Result<()>,
    /// The rights during the step; `credentials` is the one that changes them.
    privilege: Privilege,
    /// The steps that precede it.
    after: &'static [&'static str],
}

macro_rules! steps {
    ($($(#[doc = $why:literal])+ $name:ident($privilege:ident, [$($after:ident),*]),)+) => {
        /// All steps in order.
        pub(super) const STEPS: &[Step] = &[$(Step {
            name: stringify!($name),
            run: $name,
            privilege: Privilege::$privilege,
            after: &[$(stringify!($after)),*],
        }),+];
    };
}

// A comment gives the reason for what a step comes after, or for the rights that it needs.
steps! {
    /// The process is placed on its CPUs before it does work.
    affinity(Caller, []),
    /// Each later step acts on the namespaces that the process is in by then.
    join(Caller, [affinity]),
    /// A joined user namespace gives CAP_SYS_CHROOT. The step precedes `early_second_stage`, because the container's
    /// processes can trace this one once it is in their pid namespace, and must not find the host's root there.
    container_root(Caller, [join]),
    /// A thread cannot hand to another process what the later steps change: they run in the process that stays.
    early_second_stage(Caller, [join, container_root]),
    /// The session exists before the terminal, which becomes its controlling terminal.
    session(Caller, [early_second_stage]),
    /// The new namespace's root is the cgroup of this process; the proc and cgroup mounts of the root show it.
    cgroup_namespace(Caller, [early_second_stage]),
    /// Entering a time namespace takes a single-threaded process (setns(2)).
    time_namespace(Caller, [early_second_stage]),
    /// CAP_NET_ADMIN over the new network namespace, which the container's user may lack.
    loopback(Caller, [early_second_stage]),
    /// As `loopback`. The hooks of create may configure the devices further.
    network_devices(Caller, [early_second_stage]),
    /// CAP_SYS_ADMIN over the new UTS namespace.
    names(Caller, [early_second_stage]),
    /// Mounted file systems show the namespaces that their mounter is in: pid, network, ipc, cgroup.
    root(Caller, [early_second_stage, cgroup_namespace, time_namespace]),
    /// The specification gives these hooks the mounts and the host's paths (config.md, POSIX-platform Hooks).
    runtime_hooks(Caller, [root, network_devices]),
    /// The specification's order; in the container's namespaces, before pivot_root.
    container_hooks(Caller, [runtime_hooks]),
    /// /dev/console is bound onto the new root by descriptor, and the console socket gets the master.
    console(Caller, [session, root]),
    /// From here on the host's paths are out of reach.
    enter(Caller, [runtime_hooks, container_hooks, console]),
    /// A missing directory is made while the root can be written to.
    make_working_directory(Caller, [enter]),
    /// Read-only paths cover /proc/sys later.
    sysctl(Caller, [enter]),
    /// The root and its mounts turn read-only, and paths are masked, after the last write.
    finish(Caller, [make_working_directory, sysctl]),
    /// Names and HOME are read from the container's files, with privilege.
    identity(Caller, [enter]),
    /// A directory that the user may not read is entered with privilege.
    working_directory(Caller, [finish, identity]),
    /// /proc/self/attr can be written with privilege; the change comes with the exec.
    labels(Caller, [enter]),
    /// CAP_SYS_NICE.
    scheduling(Caller, [early_second_stage]),
    /// CAP_SYS_RESOURCE where there is one. Small limits must not stop the steps above.
    limits(Caller, [finish]),
    /// CAP_CHOWN: the user can open its own standard streams again by /proc/self/fd.
    standard_streams(Caller, [identity]),
    /// CAP_SYS_ADMIN. The processes of hooks would be in the pid namespace with the host's root.
    children_namespace(Caller, [container_hooks, enter]),
    /// Every step that needs privilege precedes it.
    credentials(Container, [working_directory, labels, scheduling, limits, standard_streams, children_namespace]),
    /// The filter need not allow the calls of `credentials`. This first-stage init keeps CAP_SYS_ADMIN for the filter.
    confine(Container, [credentials]),
    /// The host's root and files, and the capabilities, must be out of reach of the other processes of the pid
    /// namespace.
    late_second_stage(Container, [enter, finish, confine]),
    /// The permissions of the container's user decide what can be executed.
    lookup(Container, [credentials, late_second_stage]),
    /// Last of the steps that can fail because of the configuration: the parent puts the container on record.
    ready(Container, [lookup]),
    /// `ready` brings the filter, and the parent still listens: an agent that cannot be reached is an error of create.
    /// The agent sees the calls of what follows, as with runc.
    listener(Container, [ready]),
    /// From here on no process reads this one's errors.
    wait_at_gate(Container, [ready, listener]),
    /// The specification's order. The hooks are programs of the image, and have no more rights than the container's own
    /// process: its user, capabilities, label, no_new_privs and seccomp filter.
    start_hooks(Container, [wait_at_gate]),
    /// No descriptor is opened later that could take a number to be preserved.
    preserve(Container, [start_hooks]),
    /// A profile need not allow the calls of the steps above, and cannot kill them.
    filter(Container, [preserve]),
}

/// The name of the exec of the container's program, which ends the walk.
pub(super) const EXEC: &str = "exec";

/// Runs all steps, and executes the program.
///
/// # Errors
/// The error of the failed step. It names the action, not the step.
pub(super) fn walk(init: &mut Init) -> Result<Infallible> {
    for (place, step) in STEPS.iter().enumerate() {
        debug_assert!(is_in_order(place), "{}", step.name);
        faults::reached(init.diagnosis.stop_at.as_deref(), step.name);
        let _phase = trace::phase(step.name);
        log(init, step.name)?;
        (step.run)(init)?;
    }
    faults::reached(init.diagnosis.stop_at.as_deref(), EXEC);
    program::execute(init)
}

/// Logs a step, as long as the parent reads. The steps after `ready` run without the parent, and may run under a filter
/// that forbids the message.
fn log(init: &mut Init, name: &str) -> Result<()> {
    if init.diagnosis.log_steps {
        init.channel()?.log(false, format!("init: step {name}"))?;
        init.diagnosis.log_steps = name != "ready";
    }
    Ok(())
}

/// The steps of init at which a process can stop, in their order.
#[cfg(feature = "faults")]
pub fn init_steps() -> Vec<&'static str> {
    STEPS.iter().map(|step| step.name).chain([EXEC]).collect()
}

/// Checks that the step at `index` follows all steps that it depends on, and has the rights that it needs: the caller's
/// before `credentials`, and those of the container's process from there on.
fn is_in_order(index: usize) -> bool {
    let (earlier, step) = (&STEPS[..index], &STEPS[index]);
    let precedes = |name: &str| earlier.iter().any(|step| step.name == name);
    let rights =
        if step.name == "credentials" || precedes("credentials") { Privilege::Container } else { Privilege::Caller };
    step.privilege == rights && step.after.iter().all(|name| precedes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_follows_its_prerequisites_and_has_its_privilege() {
        for (place, step) in STEPS.iter().enumerate() {
            assert!(is_in_order(place), "{}", step.name);
            assert!(STEPS[..place].iter().all(|other| other.name != step.name), "{} stands there twice", step.name);
        }
    }
}
