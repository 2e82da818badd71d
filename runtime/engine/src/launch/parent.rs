//! The parent's side: seals the image, clones, serves init's requests in their order, and unwinds what failed.

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
use brig_plan::idmap::IdMap;
use brig_plan::init::InitPlan;
use brig_plan::seccomp::flag::NEW_LISTENER;
use crate::rootfs;
use brig_sys::process::{self, Child, Exit, Spawn};
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, cred, inherited, seal};
use crate::trace;

use super::unknown_syscalls::{UnknownSyscalls, report_unknown};
use super::network::HandedOver;
use super::guard::Guard;
use super::stall::{self, StallLimit};
use super::{INIT_NAME, PLAN_VERSION, describe, faults, second_stage, streams};

/// User and group maps of a new user namespace.
#[derive(Debug)]
pub struct IdMaps {
    /// uid_map
    pub uids: IdMap,
    /// gid_map
    pub gids: IdMap,
    /// setgroups(2) is denied first, as the kernel asks of an unprivileged writer (user_namespaces(7)).
    pub deny_setgroups: bool,
}

/// What to launch.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What init is told. The fds `channel`, `gate` and `console` are filled in here.
    pub plan: InitPlan,
    /// New namespaces of the clone.
    pub namespaces: u64,
    /// Maps, with a new user namespace.
    pub id_maps: Option<IdMaps>,
    /// A filter to compile while init is at work.
    pub seccomp: Option<&'a LinuxSeccomp>,
    /// What a system call in `seccomp` is that no architecture knows.
    pub unknown_syscalls: UnknownSyscalls,
    /// An empty directory on a file system that overlay accepts, such as the container's own below the root.
    pub seal_beside: &'a Path,
    /// This process will launch again: it keeps the sealed image for that, as long as it lives.
    pub keep_image: bool,
    /// Fds whose numbers the plan names; they are closed here after the clone.
    pub inherit: Vec<OwnedFd>,
    /// The cgroup v2 directory in which init is born.
    pub cgroup: Option<OwnedFd>,
    /// Files of v1 cgroups that init enters by itself, first of all.
    pub enter: Vec<OwnedFd>,
    /// Standard streams.
    pub stdio: Option<[OwnedFd; 3]>,
    /// Init's end of the gate; without one the program runs at once.
    pub gate: Option<OwnedFd>,
    /// Where the terminal's master goes.
    pub console: Option<OwnedFd>,
    /// When init is given up, because it makes no progress.
    pub stall: StallLimit,
}

/// What the engine does at the moments that the handshake gives it.
pub trait Moments {
    /// The process exists, and waits: it is put under its limits.
    fn born(&mut self, pid: i32) -> Result<()>;
    /// Whether init waits for [`Moments::born`] to end before it does anything.
    fn must_wait(&self) -> bool;
    /// The mounts stand.
    fn mounted(&mut self, child: &Child) -> Result<()>;
    /// All is set up: it goes on record.
    fn ready(&mut self, child: &Child) -> Result<()>;
    /// A seccomp filter is in force, and this is its listener, for the agent that the configuration names.
    fn listening(&mut self, child: &Child, listener: OwnedFd) -> Result<()>;
    /// The container is paused: init stands still until it is resumed, and is waited for.
    fn is_frozen(&self) -> bool {
        false
    }
    /// Why the process may have died: the out-of-memory killer, say. Empty when nothing is known.
    fn died(&self) -> String;
}

/// Launches init, and returns once it waits at the gate, or without a gate once its program runs.
///
/// # Errors
/// What init reports, what a moment of the engine's reports, or how init died. Nothing is left of the process then.
pub fn launch(launch: Launch, moments: &mut dyn Moments) -> Result<Child> {
    // runc's words, which its callers' users look for.
    launch_and_serve(launch, moments).context("unable to start container process")
}

fn launch_and_serve(mut launch: Launch, moments: &mut dyn Moments) -> Result<Child> {
    divert::check()?;
    let gated = launch.gate.is_some();
    launch.plan.seccomp = launch.seccomp.is_some();
    describe::plan(&launch);
    let mut steps = expected(&launch);
    let maps_now = launch.id_maps.is_some() && launch.plan.sibling.is_none();
    let waits = moments.must_wait() || maps_now;
    let (parent, guard, mut image) = {
        let _phase = trace::phase("clone");
        clone(&mut launch, waits, maps_now)?
    };
    faults::parent("cloned");
    let child = guard.child();
    tracing::debug!("init is process {}", child.pid);
    {
        let _phase = trace::phase("limits");
        moments.born(child.pid)?;
    }
    // With a sibling the user namespace is the sibling's, and so is the wait for its maps.
    let sibling_maps = if launch.plan.sibling.is_some() { launch.id_maps.take() } else { None };
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
                let text = "linux.seccomp refuses execve, so that the container's program cannot be executed: allow execve";
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
    // Both closings of the image wait for a grace period: this one while init is at work, the other in its program's time.
    image.mount = None;
    let (stdio, stall) = (launch.stdio.take(), launch.stall);
    let mut server = Server {
        devices: None, parent, guard, stage_1: None, moments, steps, plan: &launch.plan, seccomp, sibling_maps, stdio,
        stall,
    };
    server.serve()?;
    faults::parent("answered");
    if !gated {
        let _phase = trace::phase("wait for the program");
        server.await_exec()?;
    }
    if let Some(devices) = server.devices {
        devices.keep();
    }
    Ok(server.guard.keep())
}

/// The requests that this plan will bring, in order.
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

/// Seals, writes the plan, clones, and closes what was the child's alone: its death is then seen as an end of file.
fn clone(launch: &mut Launch, waits: bool, become_root: bool) -> Result<(ParentEnd, Guard, seal::Image)> {
    let (parent, init) = channel::pair()?;
    let image = {
        let _phase = trace::phase("seal");
        if launch.keep_image { kept_image(launch.seal_beside)? } else { image(launch.seal_beside)? }
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
        wait: waits.then(|| init.fd()),
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
        nix::errno::Errno::EAGAIN => " (a limit on processes is reached: pids.max of a cgroup around the caller, or its RLIMIT_NPROC)",
        _ => "",
    };
    Error::from(error).context(format!("unable to make the container's process{advice}"))
}

/// The image that an earlier launch of this process executed, or a new one. It is read-only for whoever meets it, so that
/// it can be shared; an overlay that stays saves making it and both waits for its end. A copy in memory would weigh as much
/// as this process, and is not kept.
fn kept_image(beside: &Path) -> Result<seal::Image> {
    static KEPT: Mutex<Option<OwnedFd>> = Mutex::new(None);
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(file) = &*kept {
        return Ok(seal::Image { file: file.try_clone().context("unable to copy an fd")?, mount: None });
    }
    let image = image(beside)?;
    if image.mount.is_some() {
        *kept = Some(image.file.try_clone().context("unable to copy an fd")?);
    }
    Ok(image)
}

/// The image that the child executes: through an overlay where the kernel lets us, else a sealed copy in memory.
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

/// An error that init reported, in runc's words.
fn during_init(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Executable => error,
        _ => error.context("error during container init"),
    }
}

/// Serves one init until its program runs.
struct Server<'a> {
    /// Before the guard, because they come back from a process that still lives.
    devices: Option<HandedOver>,
    parent: ParentEnd,
    guard: Guard,
    /// Once it has made the sibling, and until it is reaped.
    stage_1: Option<Guard>,
    moments: &'a mut dyn Moments,
    steps: Vec<Step>,
    plan: &'a InitPlan,
    seccomp: Option<Filter>,
    sibling_maps: Option<IdMaps>,
    stdio: Option<[OwnedFd; 3]>,
    stall: StallLimit,
}

impl Server<'_> {
    fn next(&self) -> Result<Event> {
        let _phase = trace::phase("wait for init");
        let readable = |timeout| process::poll_readable(self.parent.fd(), timeout).map(|ready| ready.then_some(()));
        let ready = || self.wait(readable);
        self.parent.next(ready, |warning, line| if warning { tracing::warn!("{line}") } else { tracing::debug!("{line}") })
    }

    /// Waits for what `poll` waits for, as long as init makes progress.
    fn wait<T>(&self, poll: impl Fn(Option<Duration>) -> SysResult<Option<T>>) -> Result<T> {
        stall::wait(self.stall, self.guard.child().pid, || self.moments.is_frozen(), poll)
    }

    fn serve(&mut self) -> Result<()> {
        let mut steps = std::mem::take(&mut self.steps).into_iter().peekable();
        let mut early = VecDeque::new();
        while let Some(&expected) = steps.peek() {
            let event = match expected {
                Step::Sibling => self.next_of_stage_1(&mut early)?,
                _ => early.pop_front().map_or_else(|| self.next(), Ok)?,
            };
            let (step, body, fd) = match event {
                Event::Request(step, body, fd) => (step, body, fd),
                Event::Failed(error) => return Err(during_init(error)),
                Event::End => return Err(self.died()),
            };
            // Limits come only when init could not set them itself, always just before Ready.
            if step == Step::Limits && expected == Step::Ready {
                self.limit(&body)?;
                continue;
            }
            // As rare: the container has no device of its own for a standard stream.
            if step == Step::HostNode && (expected == Step::Ready || self.plan.second_stage) {
                self.hand_over_node(&body)?;
                continue;
            }
            // After them, where init may not give the streams away itself.
            if step == Step::Streams && (expected == Step::Ready || self.plan.second_stage) {
                streams::give(&self.parent.read(&body)?, self.guard.child().pid, self.stdio.as_ref())?;
                self.parent.answer::<Streams>(&())?;
                continue;
            }
            if step != expected {
                return Err(Error::other(format!("init is at the step {step:?}; {expected:?} was expected")));
            }
            steps.next();
            tracing::debug!("init (pid {}) asks for {step:?}", self.guard.child().pid);
            match step {
                Step::Sibling => self.adopt(&body, fd)?,
                Step::Devices => {
                    let Devices { taken } = self.parent.read(&body)?;
                    let devices = HandedOver::new(&self.plan.net_devices, self.guard.child().pid, &taken)?;
                    let told = devices.told();
                    self.devices = Some(devices);
                    self.parent.answer::<Devices>(&told)?;
                }
                Step::Mounted => {
                    self.moments.mounted(self.guard.child())?;
                    self.parent.answer::<Mounted>(&())?;
                }
                Step::Confine => {
                    let early = self.seccomp.take_if(|filter| second_stage::runs_under(filter));
                    self.parent.answer::<Confine>(&early)?;
                }
                Step::Ready => {
                    let _phase = trace::phase("put on record");
                    self.moments.ready(self.guard.child())?;
                    let recorded = Recorded { seccomp: self.seccomp.take() };
                    self.parent.answer::<Ready>(&recorded)?;
                    // While init is at work: it has ended by now, and is reaped.
                    self.stage_1 = None;
                }
                Step::Listening => {
                    let listener = fd.ok_or_else(|| Error::other("the seccomp listener did not come"))?;
                    self.moments.listening(self.guard.child(), listener)?;
                }
                Step::Limits | Step::HostNode | Step::Streams => {}
            }
        }
        Ok(())
    }

    /// What stage 1 has to say. The sibling, which does not wait for it, may be quicker: its words go to `early`, and
    /// count once stage 1 has told of it. A stage 1 that ends without that leaves a process that nobody can name; it
    /// ends by itself when this end of the channel goes.
    fn next_of_stage_1(&self, early: &mut VecDeque<Event>) -> Result<Event> {
        loop {
            let (channel, pidfd) = (self.parent.fd(), self.guard.child().pidfd.as_fd());
            if !self.wait(|timeout| process::readable_before_end(channel, pidfd, timeout))? {
                return Ok(early.pop_front().filter(|event| matches!(event, Event::Failed(_))).unwrap_or(Event::End));
            }
            match self.next()? {
                Event::End => return Ok(early.pop_front().unwrap_or(Event::End)),
                sibling @ Event::Request(Step::Sibling, ..) => return Ok(sibling),
                // Of the first stage's, where the second one is made last.
                streams @ Event::Request(Step::HostNode | Step::Streams, ..) if self.plan.second_stage => return Ok(streams),
                other => early.push_back(other),
            }
        }
    }

    /// The sibling takes the place of stage 1, which ends by itself.
    fn adopt(&mut self, body: &[u8], fd: Option<OwnedFd>) -> Result<()> {
        let Sibling { pid } = self.parent.read(body)?;
        let pidfd = fd.ok_or_else(|| Error::other("the new process came without its pidfd"))?;
        self.stage_1 = Some(std::mem::replace(&mut self.guard, Guard::new(Child { pid, pidfd })));
        match &self.sibling_maps {
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

    /// Waits until the exec closes the channel; without one, this is why.
    fn await_exec(&mut self) -> Result<()> {
        match self.next()? {
            Event::End => Ok(()),
            Event::Failed(error) => Err(during_init(error)),
            Event::Request(step, ..) => Err(Error::other(format!("init is at the step {step:?} after its end"))),
        }
    }

    /// Init died without a word: how, and if it can be known, of what.
    fn died(&self) -> Error {
        let how = match process::wait(self.guard.child().pidfd.as_fd()) {
            Ok(Exit::Code(code)) => format!("it exited with status {code}"),
            Ok(Exit::Signal(signal)) => format!("signal {signal} killed it"),
            Err(error) => format!("its end was not seen: {error}"),
        };
        let cause = self.moments.died();
        let cause = if cause.is_empty() { cause } else { format!(": {cause}") };
        Error::new(ErrorKind::Other, format!("init died while it was set up: {how}{cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_launches_again_keeps_its_image() {
        let beside = tempfile::tempdir().unwrap();
        let first = kept_image(beside.path()).unwrap();
        let second = kept_image(beside.path()).unwrap();
        let identity = |image: &seal::Image| rustix::fs::fstat(&image.file).map(|stat| (stat.st_dev, stat.st_ino)).unwrap();
        // Without the right to mount an overlay each is a copy of its own.
        assert_eq!(identity(&first) == identity(&second), first.mount.is_some());
        assert!(second.mount.is_none());
    }
}
