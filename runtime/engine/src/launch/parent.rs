//! The parent's side of a launch: seals the image, clones, serves init's requests in their order, and unwinds after a
//! failure.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use oci_spec::runtime::LinuxSeccomp;

use crate::channel::{self, Event, ParentEnd};
use crate::divert;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::handshake::{Confine, Devices, Filter, HostNode, Limits, Mounted, Ready, Recorded, Sibling, Step, Streams};
use crate::rootfs;
use crate::trace;
use brig_plan::idmap::IdMap;
use brig_plan::init::InitPlan;
use brig_plan::seccomp::flag::NEW_LISTENER;
use brig_sys::process::{self, Child, Exit, Spawn, Wait};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, cred, inherited, seal};

use super::guard::Guard;
use super::network::HandedOver;
use super::stall::{self, Freezer, StallLimit};
use super::unknown_syscalls::{UnknownSyscalls, report_unknown};
use super::{INIT_NAME, PLAN_VERSION, describe, faults, second_stage, streams};

/// User and group maps of a new user namespace.
#[derive(Debug)]
pub struct IdMaps {
    pub uids: IdMap,
    pub gids: IdMap,
    /// Denies setgroups(2) first, as the kernel requires of an unprivileged writer (user_namespaces(7)).
    pub deny_setgroups: bool,
}

/// The parameters of a launch.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Init's plan. [`launch`] fills in the fds `channel`, `gate` and `console`.
    pub plan: InitPlan,
    /// New namespaces of the clone.
    pub namespaces: u64,
    /// The maps of a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// A filter to compile while init runs its first steps.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// The handling of system calls in `seccomp` that no known architecture has.
    pub unknown_syscalls: UnknownSyscalls,
    /// An empty directory on a file system that overlay accepts, such as the container's own below the root.
    pub seal_beside: &'a Path,
    /// Keeps the sealed image until the exit of this process, for later launches.
    pub keep_image: bool,
    /// Fds whose numbers the plan names; they are closed in the parent after the clone.
    pub inherit: Vec<OwnedFd>,
    /// The cgroup v2 directory in which init starts.
    pub cgroup: Option<OwnedFd>,
    /// Files of v1 cgroups that init enters by itself, before everything else.
    pub enter: Vec<OwnedFd>,
    pub stdio: Option<[OwnedFd; 3]>,
    /// Init's end of the gate; without one the program starts at once.
    pub gate: Option<OwnedFd>,
    /// The destination of the terminal's master.
    pub console: Option<OwnedFd>,
    /// The limit for an init that makes no progress.
    pub stall: StallLimit,
}

/// The engine's reactions to the events of the handshake.
pub trait LaunchObserver: Freezer {
    /// Applies cgroups and limits to the process, which exists and waits.
    fn spawned(&mut self, pid: i32) -> Result<()>;
    /// Checks whether init waits for [`LaunchObserver::spawned`] before it does anything.
    fn must_wait(&self) -> bool;
    /// Continues after all mounts exist.
    fn mounted(&mut self, child: &Child) -> Result<()>;
    /// Writes the record after the set-up is complete.
    fn ready(&mut self, child: &Child) -> Result<()>;
    /// Delivers the listener of the seccomp filter in force to the agent that the configuration names.
    fn listening(&mut self, child: &Child, listener: OwnedFd) -> Result<()>;
    /// The possible cause of the process's exit, such as the OOM killer. Empty if it is unknown.
    fn exit_cause(&self) -> String;
}

/// Launches init, and returns after it waits at the gate, or without a gate after its program has started.
///
/// # Errors
/// Init's error, the observer's error, or the cause of init's exit. Nothing is left of the process then.
pub fn launch(launch: Launch, observer: &mut dyn LaunchObserver) -> Result<Child> {
    // The text is runc's, on which tools and users match.
    launch_and_serve(launch, observer).context("unable to start container process")
}

fn launch_and_serve(mut launch: Launch, observer: &mut dyn LaunchObserver) -> Result<Child> {
    divert::check()?;
    let gated = launch.gate.is_some();
    launch.plan.seccomp = launch.seccomp.is_some();
    describe::plan(&launch);
    let mut steps = expected(&launch);
    let maps_now = launch.id_maps.is_some() && launch.plan.sibling.is_none();
    let waits = observer.must_wait() || maps_now;
    let (parent, guard, mut image) = {
        let _phase = trace::phase("clone");
        clone(&mut launch, waits, maps_now)?
    };
    faults::parent("cloned");
    let child = guard.child();
    tracing::debug!("init: started as process {}", child.pid);
    {
        let _phase = trace::phase("limits");
        observer.spawned(child.pid)?;
    }
    // The user namespace belongs to the second-stage init if there is one, and so does the wait for its maps.
    let second_stage_maps = if launch.plan.sibling.is_some() { launch.id_maps.take() } else { None };
    if let Some(maps) = &launch.id_maps {
        write_maps(child.pid, maps)?;
    }
    if waits {
        parent.go()?;
    }
    faults::parent("went");
    let seccomp = match launch.seccomp {
        Some(profile) => {
            let _phase = trace::phase("compile seccomp");
            let compiled = crate::seccomp::compile(profile)?;
            if compiled.refuses_exec {
                let text =
                    "linux.seccomp refuses execve, so that the container's program cannot be executed: allow execve";
                return Err(Error::new(ErrorKind::InvalidConfig, text));
            }
            report_unknown(compiled.unknown, launch.unknown_syscalls)?;
            if compiled.program.flags & NEW_LISTENER != 0 {
                steps.push(Step::Listening);
            }
            Some(Filter { instructions: compiled.program.instructions, flags: compiled.program.flags })
        }
        None => None,
    };
    // Each of the two closings of the image waits for a grace period: this one while init runs its steps, the other one
    // while its program runs.
    image.mount = None;
    let (stdio, stall) = (launch.stdio.take(), launch.stall);
    let mut server = Server {
        devices: None,
        parent,
        guard,
        first_stage: None,
        observer,
        steps,
        plan: &launch.plan,
        seccomp,
        second_stage_maps,
        stdio,
        stall,
    };
    server.serve()?;
    faults::parent("answered");
    if !gated {
        let _phase = trace::phase("wait for the program");
        server.await_exec()?;
    }
    if let Some(devices) = server.devices {
        devices.disarm();
    }
    Ok(server.guard.disarm())
}

/// The requests that this plan will cause, in order.
fn expected(launch: &Launch) -> Vec<Step> {
    let mut steps = Vec::with_capacity(4);
    if launch.plan.sibling.is_some() {
        steps.push(Step::Sibling);
    }
    if !launch.plan.net_devices.is_empty() {
        steps.push(Step::Devices);
    }
    if launch.plan.runtime_hooks {
        steps.push(Step::Mounted);
    }
    if launch.plan.confines_first_stage() {
        steps.push(Step::Confine);
    }
    if launch.plan.second_stage {
        steps.push(Step::Sibling);
    }
    steps.push(Step::Ready);
    steps
}

/// Seals the image, writes the plan, clones, and closes the descriptors of the child: its exit then causes an end of
/// file.
fn clone(launch: &mut Launch, waits: bool, become_root: bool) -> Result<(ParentEnd, Guard, seal::Image)> {
    let (parent, init) = channel::pair()?;
    let image = {
        let _phase = trace::phase("seal");
        if launch.keep_image { cached_image(launch.seal_beside)? } else { image(launch.seal_beside)? }
    };
    launch.plan.channel = init.number();
    launch.plan.gate = launch.gate.as_ref().map(AsRawFd::as_raw_fd);
    launch.plan.console = launch.console.as_ref().map(AsRawFd::as_raw_fd);
    launch.plan.stop_at = faults::wanted();
    launch.plan.trace = trace::fd().map(|fd| fd.as_raw_fd());
    launch.plan.debug = tracing::event_enabled!(tracing::Level::DEBUG);
    let bytes = postcard::to_stdvec(&(PLAN_VERSION, &launch.plan))
        .map_err(|error| Error::other(format!("unable to write the plan: {error}")))?;
    let plan = seal::memory_file(c"plan", &bytes)?;
    let mut inherit: Vec<_> = launch.inherit.iter().map(AsFd::as_fd).collect();
    inherit.extend([init.fd(), plan.as_fd()]);
    inherit.extend(trace::fd());
    inherit.extend(launch.gate.iter().chain(&launch.console).map(AsFd::as_fd));
    let inherited = inherited::variable(&inherit, launch.plan.preserve_fds);
    let variable = format!("{}={}", divert::VARIABLE, plan.as_raw_fd());
    let variable = CString::new(variable).map_err(|_| Error::other("a number with a NUL byte"))?;
    let enter: Vec<_> = launch.enter.iter().map(AsFd::as_fd).collect();
    let child = process::spawn_sealed(&Spawn {
        namespaces: launch.namespaces,
        cgroup: launch.cgroup.as_ref().map(AsFd::as_fd),
        enter: &enter,
        image: image.file.as_fd(),
        argv: &[INIT_NAME],
        env: &[&variable, &inherited],
        stdio: launch.stdio.as_ref().map(|fds| [fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()]),
        inherit: &inherit,
        wait: waits.then(|| Wait { from: init.fd(), peer: parent.fd() }),
        become_root,
        report: init.fd(),
    })
    .map_err(no_process)?;
    launch.inherit.clear();
    launch.enter.clear();
    launch.gate = None;
    launch.console = None;
    Ok((parent, Guard::new(child), image))
}

fn no_process(error: SysError) -> Error {
    let advice = match error.errno() {
        nix::errno::Errno::EAGAIN => {
            " (a limit on processes is reached: pids.max of a cgroup around the caller, or its RLIMIT_NPROC)"
        }
        _ => "",
    };
    Error::from(error).context(format!("unable to make the container's process{advice}"))
}

/// The image that an earlier launch of this process executed, or a new one. No process can write to it, and therefore
/// launches can share it; a kept overlay saves its creation and both waits for its removal. A copy in memory would take
/// as much memory as this process, and is not kept.
fn cached_image(beside: &Path) -> Result<seal::Image> {
    static CACHED: Mutex<Option<OwnedFd>> = Mutex::new(None);
    let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &*cached {
        return Ok(seal::Image { file: file.try_clone().context("unable to copy an fd")?, mount: None });
    }
    let image = image(beside)?;
    if image.mount.is_some() {
        *cached = Some(image.file.try_clone().context("unable to copy an fd")?);
    }
    Ok(image)
}

/// The image that the child executes: through an overlay if the kernel permits it, else a sealed copy in memory.
fn image(beside: &Path) -> Result<seal::Image> {
    match seal::overlay(beside) {
        Ok(image) => Ok(image),
        Err(error) => {
            tracing::debug!("the init stage runs from a copy in memory: {error}");
            Ok(seal::memory_copy(c"brig").context("unable to copy this program's binary")?)
        }
    }
}

fn write_maps(pid: i32, maps: &IdMaps) -> Result<()> {
    let proc = Proc::open()?;
    let unable = "unable to map the ids of the user namespace";
    if maps.deny_setgroups {
        proc.write(format!("{pid}/setgroups"), b"deny").context(unable)?;
    }
    proc.write(format!("{pid}/gid_map"), maps.gids.text().as_bytes()).context(unable)?;
    proc.write(format!("{pid}/uid_map"), maps.uids.text().as_bytes()).context(unable)?;
    Ok(())
}

/// Adds runc's text to an error that init reported.
fn during_init(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Executable => error,
        _ => error.context("error during container init"),
    }
}

/// The server of one init until its program runs.
struct Server<'a> {
    /// Must precede the guard in the order of drops, because the devices return from a process that still exists.
    devices: Option<HandedOver>,
    parent: ParentEnd,
    guard: Guard,
    /// The first-stage init, after it has created the second-stage init, and until it is reaped.
    first_stage: Option<Guard>,
    observer: &'a mut dyn LaunchObserver,
    steps: Vec<Step>,
    plan: &'a InitPlan,
    seccomp: Option<Filter>,
    second_stage_maps: Option<IdMaps>,
    stdio: Option<[OwnedFd; 3]>,
    stall: StallLimit,
}

impl Server<'_> {
    fn next(&self) -> Result<Event> {
        let _phase = trace::phase("wait for init");
        let readable = |timeout| process::poll_readable(self.parent.fd(), timeout).map(|ready| ready.then_some(()));
        let ready = || self.wait(readable);
        self.parent
            .next(ready, |warning, line| if warning { tracing::warn!("{line}") } else { tracing::debug!("{line}") })
    }

    /// Waits until `poll` has a result, as long as init makes progress.
    fn wait<T>(&self, poll: impl Fn(Option<Duration>) -> SysResult<Option<T>>) -> Result<T> {
        stall::wait(self.stall, self.guard.child().pid, &*self.observer, poll)
    }

    fn serve(&mut self) -> Result<()> {
        let mut steps = std::mem::take(&mut self.steps).into_iter().peekable();
        let mut early = VecDeque::new();
        while let Some(&expected) = steps.peek() {
            let event = match expected {
                Step::Sibling => self.next_of_first_stage(&mut early)?,
                _ => early.pop_front().map_or_else(|| self.next(), Ok)?,
            };
            let (step, body, fd) = match event {
                Event::Request(step, body, fd) => (step, body, fd),
                Event::Failed(error) => return Err(during_init(error)),
                Event::End => return Err(self.died()),
            };
            // A rare request: init could not set the limits itself. It always precedes Ready.
            if step == Step::Limits && expected == Step::Ready {
                self.limit(&body)?;
                continue;
            }
            // Another rare request: the container has no device of its own for a standard stream.
            if step == Step::HostNode && (expected == Step::Ready || self.plan.second_stage) {
                self.hand_over_node(&body)?;
                continue;
            }
            // It follows those requests, if init may not change the owner of the streams itself.
            if step == Step::Streams && (expected == Step::Ready || self.plan.second_stage) {
                streams::change_owner(&self.parent.read(&body)?, self.guard.child().pid, self.stdio.as_ref())?;
                self.parent.answer::<Streams>(&())?;
                continue;
            }
            if step != expected {
                return Err(Error::other(format!("init requests {step:?}; expected {expected:?}")));
            }
            steps.next();
            tracing::debug!("init (pid {}) asks for {step:?}", self.guard.child().pid);
            match step {
                Step::Sibling => self.replace_first_stage(&body, fd)?,
                Step::Devices => {
                    let Devices { taken } = self.parent.read(&body)?;
                    let devices = HandedOver::new(&self.plan.net_devices, self.guard.child().pid, &taken)?;
                    let devices_for_init = devices.for_init();
                    self.devices = Some(devices);
                    self.parent.answer::<Devices>(&devices_for_init)?;
                }
                Step::Mounted => {
                    self.observer.mounted(self.guard.child())?;
                    self.parent.answer::<Mounted>(&())?;
                }
                Step::Confine => {
                    let early = self.seccomp.take_if(|filter| second_stage::runs_under(filter));
                    self.parent.answer::<Confine>(&early)?;
                }
                Step::Ready => {
                    let _phase = trace::phase("put on record");
                    self.observer.ready(self.guard.child())?;
                    let recorded = Recorded { seccomp: self.seccomp.take() };
                    // Must precede the answer, after which the program may start: until the first-stage init is reaped, it
                    // counts towards RLIMIT_NPROC of the container's user.
                    self.first_stage = None;
                    self.parent.answer::<Ready>(&recorded)?;
                }
                Step::Listening => {
                    let listener = fd.ok_or_else(|| Error::other("init sent no seccomp listener"))?;
                    self.observer.listening(self.guard.child(), listener)?;
                }
                Step::Limits | Step::HostNode | Step::Streams => {}
            }
        }
        Ok(())
    }

    /// Receives the next event of the first-stage init. The second-stage init, which does not wait for it, may be
    /// quicker: its events go to `early`, and are handled after the first-stage init has reported it. If the
    /// first-stage init exits without a report, no process can name the second-stage init, which exits by itself when
    /// this end of the channel closes.
    fn next_of_first_stage(&self, early: &mut VecDeque<Event>) -> Result<Event> {
        loop {
            let (channel, pidfd) = (self.parent.fd(), self.guard.child().pidfd.as_fd());
            if !self.wait(|timeout| process::readable_before_end(channel, pidfd, timeout))? {
                return Ok(early.pop_front().filter(|event| matches!(event, Event::Failed(_))).unwrap_or(Event::End));
            }
            match self.next()? {
                Event::End => return Ok(early.pop_front().unwrap_or(Event::End)),
                report @ Event::Request(Step::Sibling, ..) => return Ok(report),
                // The first-stage init sends it, if it creates the second-stage init last.
                streams @ Event::Request(Step::HostNode | Step::Streams, ..) if self.plan.second_stage => {
                    return Ok(streams);
                }
                other => early.push_back(other),
            }
        }
    }

    /// Replaces the first-stage init, which exits by itself, by the second-stage init.
    fn replace_first_stage(&mut self, body: &[u8], fd: Option<OwnedFd>) -> Result<()> {
        let Sibling { pid } = self.parent.read(body)?;
        let missing = || Error::other("the first-stage init reported the second-stage init without a pidfd");
        let pidfd = fd.ok_or_else(missing)?;
        self.first_stage = Some(std::mem::replace(&mut self.guard, Guard::new(Child { pid, pidfd })));
        match &self.second_stage_maps {
            Some(maps) => {
                write_maps(pid, maps)?;
                self.parent.answer::<Sibling>(&())
            }
            None => Ok(()),
        }
    }

    fn limit(&self, body: &[u8]) -> Result<()> {
        let Limits { failed, scheduler } = self.parent.read(body)?;
        for index in failed {
            let limit = self.plan.process.rlimits.get(index).ok_or_else(|| Error::other("no such resource limit"))?;
            process::set_rlimit(self.guard.child().pid, limit.resource, limit.soft, limit.hard).with_context(|| {
                format!(
                    "error setting rlimit process.rlimits[{index}] (a hard limit above the caller's own takes \
                     CAP_SYS_RESOURCE; ask for less, or raise the caller's)"
                )
            })?;
        }
        if let Some(attributes) = self.plan.process.scheduler.as_ref().filter(|_| scheduler) {
            cred::set_scheduler_of(self.guard.child().pid, attributes).context("unable to set process.scheduler")?;
        }
        self.parent.answer::<Limits>(&())
    }

    fn hand_over_node(&self, body: &[u8]) -> Result<()> {
        let HostNode { device } = self.parent.read(body)?;
        let node = rootfs::open_protected(device)?;
        let fds: Vec<BorrowedFd> = node.iter().map(AsFd::as_fd).collect();
        self.parent.answer_with::<HostNode>(&(), &fds)
    }

    /// Waits until the exec closes the channel; an error is the reason why it failed.
    fn await_exec(&mut self) -> Result<()> {
        match self.next()? {
            Event::End => Ok(()),
            Event::Failed(error) => Err(during_init(error)),
            Event::Request(step, ..) => Err(Error::other(format!("init requests {step:?} after its last step"))),
        }
    }

    /// The error for an init that exited without a message: its exit status, and the cause if it is known.
    fn died(&self) -> Error {
        let how = match process::wait(self.guard.child().pidfd.as_fd()) {
            Ok(Exit::Code(code)) => format!("it exited with status {code}"),
            Ok(Exit::Signal(signal)) => format!("signal {signal} killed it"),
            Err(error) => format!("its exit status is unknown: {error}"),
        };
        let cause = self.observer.exit_cause();
        let cause = if cause.is_empty() { cause } else { format!(": {cause}") };
        Error::new(ErrorKind::Other, format!("init exited during its set-up: {how}{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_launches_again_reuses_its_image() {
        let beside = tempfile::tempdir().unwrap();
        let first = cached_image(beside.path()).unwrap();
        let second = cached_image(beside.path()).unwrap();
        let identity =
            |image: &seal::Image| rustix::fs::fstat(&image.file).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
        // Without the right to mount an overlay each image is a copy of its own.
        assert_eq!(identity(&first) == identity(&second), first.mount.is_some());
        assert!(second.mount.is_none());
    }
}
