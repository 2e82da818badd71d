//! The supervisor of one init: serves its requests in the order that the plan has them, until its program runs.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::channel::{Event, ParentEnd};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::handshake::{
    Confine, Devices, Filter, HostNode, Limits, Mounted, Ready, Recorded, SecondStage, Source, Step, Streams,
};
use crate::{rootfs, trace};
use brig_plan::init::InitPlan;
use brig_sys::process::{self, Child, Exit};
use brig_sys::{SysResult, cred};

use super::guard::Guard;
use super::network::HandedOver;
use super::request::{IdMaps, LaunchObserver};
use super::stall::{self, StallLimit};
use super::{idmap, second_stage, streams};

/// The requests that this plan will cause, in order.
pub(super) fn expected(plan: &InitPlan) -> Vec<Step> {
    let mut steps = Vec::with_capacity(4);
    if plan.early_second_stage().is_some() {
        steps.push(Step::SecondStage);
    }
    if !plan.net_devices.is_empty() {
        steps.push(Step::Devices);
    }
    if plan.runtime_hooks {
        steps.push(Step::Mounted);
    }
    if plan.confines_first_stage() {
        steps.push(Step::Confine);
    }
    if plan.has_late_second_stage() {
        steps.push(Step::SecondStage);
    }
    steps.push(Step::Ready);
    steps
}

/// Adds runc's text to an error that init reported.
fn during_init(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Executable => error,
        _ => error.context("error during container init"),
    }
}

/// The server of one init until its program runs.
pub(super) struct Server<'a> {
    /// Must precede the guard in the order of drops, because the devices return from a process that still exists.
    pub devices: Option<HandedOver>,
    pub parent: ParentEnd,
    pub guard: Guard,
    /// The first-stage init, after it has created the second-stage init, and until it is reaped.
    pub first_stage: Option<Guard>,
    pub observer: &'a mut dyn LaunchObserver,
    pub steps: Vec<Step>,
    pub plan: &'a InitPlan,
    pub seccomp: Option<Filter>,
    pub second_stage_maps: Option<IdMaps<'a>>,
    pub stdio: Option<[OwnedFd; 3]>,
    pub stall: StallLimit,
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

    /// Serves the requests in their order, up to the last one.
    pub(super) fn serve(&mut self) -> Result<()> {
        let mut steps = std::mem::take(&mut self.steps).into_iter().peekable();
        let mut early = VecDeque::new();
        while let Some(&expected) = steps.peek() {
            let event = match expected {
                Step::SecondStage => self.next_of_first_stage(&mut early)?,
                _ => early.pop_front().map_or_else(|| self.next(), Ok)?,
            };
            let (step, body, fd) = match event {
                Event::Request(step, body, fd) => (step, body, fd),
                Event::Failed(error) => return Err(during_init(error)),
                Event::End => return Err(self.died()),
            };
            if self.serves_aside(step, expected, &body)? {
                continue;
            }
            if step != expected {
                return Err(Error::other(format!("init requests {step:?}; expected {expected:?}")));
            }
            steps.next();
            tracing::debug!("init (pid {}) asks for {step:?}", self.guard.child().pid);
            match step {
                Step::SecondStage => self.replace_first_stage(&body, fd)?,
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
                Step::Source | Step::Limits | Step::HostNode | Step::Streams => {}
            }
        }
        Ok(())
    }

    /// Serves a request that few plans cause, and that the expected ones do not include. Each precedes `Ready`. Returns
    /// false for any other request.
    fn serves_aside(&self, step: Step, expected: Step, body: &[u8]) -> Result<bool> {
        match step {
            // Init may not open the source itself.
            Step::Source => self.open_source(body)?,
            // Init could not set the limits itself.
            Step::Limits if expected == Step::Ready => self.limit(body)?,
            // The container has no device of its own for a standard stream.
            Step::HostNode if expected == Step::Ready || self.plan.has_late_second_stage() => {
                self.hand_over_node(body)?
            }
            // It follows those requests, if init may not change the owner of the streams itself.
            Step::Streams if expected == Step::Ready || self.plan.has_late_second_stage() => {
                streams::change_owner(&self.parent.read(body)?, self.guard.child().pid, self.stdio.as_ref())?;
                self.parent.answer::<Streams>(&())?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Receives the next event of the first-stage init. The second-stage init, which does not wait for it, may be
    /// quicker: its events go to `early`, and are handled after the first-stage init has reported it. If the
    /// first-stage init exits without a report, no process can name the second-stage init, which exits by itself when
    /// this end of the channel closes.
    fn next_of_first_stage(&self, early: &mut VecDeque<Event>) -> Result<Event> {
        loop {
            let (channel, pidfd) = (self.parent.fd(), self.guard.child().pidfd.as_fd());
            if !self.wait(|timeout| process::readable_before_exit(channel, pidfd, timeout))? {
                return Ok(early.pop_front().filter(|event| matches!(event, Event::Failed(_))).unwrap_or(Event::End));
            }
            match self.next()? {
                Event::End => return Ok(early.pop_front().unwrap_or(Event::End)),
                report @ Event::Request(Step::SecondStage, ..) => return Ok(report),
                // The first-stage init sends it, if it creates the second-stage init last.
                aside @ Event::Request(Step::Source | Step::HostNode | Step::Streams, ..)
                    if self.plan.has_late_second_stage() =>
                {
                    return Ok(aside);
                }
                other => early.push_back(other),
            }
        }
    }

    /// Replaces the first-stage init, which exits by itself, by the second-stage init.
    fn replace_first_stage(&mut self, body: &[u8], fd: Option<OwnedFd>) -> Result<()> {
        let SecondStage { pid } = self.parent.read(body)?;
        let missing = || Error::other("the first-stage init reported the second-stage init without a pidfd");
        let pidfd = fd.ok_or_else(missing)?;
        self.first_stage = Some(std::mem::replace(&mut self.guard, Guard::new(Child { pid, pidfd })));
        match &self.second_stage_maps {
            Some(maps) => {
                idmap::write(pid, maps)?;
                self.parent.answer::<SecondStage>(&())
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

    fn open_source(&self, body: &[u8]) -> Result<()> {
        let Source { index } = self.parent.read(body)?;
        let plan = self.plan.rootfs.as_ref().ok_or_else(|| Error::other("init requests a source without a root"))?;
        let source = rootfs::open_source_for(plan, index, self.guard.child().pid)?;
        self.parent.answer_with::<Source>(&(), &[source.as_fd()])
    }

    fn hand_over_node(&self, body: &[u8]) -> Result<()> {
        let HostNode { device } = self.parent.read(body)?;
        let node = rootfs::open_protected(device)?;
        let fds: Vec<BorrowedFd> = node.iter().map(AsFd::as_fd).collect();
        self.parent.answer_with::<HostNode>(&(), &fds)
    }

    /// Waits until the exec closes the channel; an error is the reason why it failed.
    pub(super) fn await_exec(&mut self) -> Result<()> {
        match self.next()? {
            Event::End => Ok(()),
            Event::Failed(error) => Err(during_init(error)),
            Event::Request(step, ..) => Err(Error::other(format!("init requests {step:?} after its last step"))),
        }
    }

    /// Leaves the process and its devices to the container.
    pub(super) fn release(self) -> Child {
        if let Some(devices) = self.devices {
            devices.disarm();
        }
        self.guard.disarm()
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
