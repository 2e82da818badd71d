//! The init stage: the fresh, single-threaded process that becomes the container's program.
//!
//! Privilege: first that of the caller in the new namespaces, with all capabilities there; after the step `credentials`
//! that of the container's user. The process runs from a sealed image, is not dumpable, never calls NSS, and opens
//! paths only through [`brig_sys::path`] and [`brig_sys::procfs`].

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::channel::InitEnd;
use crate::divert;
use crate::error::{Context, Error, Result};
use crate::handshake::Filter;
use crate::rootfs::Root;
use brig_plan::init::{self, InitPlan};
use brig_sys::inherited::Inherited;
use brig_sys::process::StandardStream;
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, process};

use super::{gate, table};

/// The state that the steps share.
pub(super) struct Init {
    pub plan: InitPlan,
    /// Descriptors that the plan names, until a step takes them.
    pub inherited: Inherited,
    /// The descriptors of `--preserve-fds`, in the order of their numbers.
    pub preserved: Vec<OwnedFd>,
    /// The channel, until the parent stops reading.
    pub channel: Option<InitEnd>,
    /// The procfs of [`Init::proc`].
    proc: OnceCell<Proc>,
    /// The root during its set-up.
    pub root: Option<Root>,
    /// The terminal's slave side.
    pub terminal: Option<OwnedFd>,
    /// The filter, after the parent has sent it.
    pub seccomp: Option<Filter>,
    /// The program's path, after the lookup.
    pub program: Option<std::ffi::CString>,
    /// A defect of the program's file that may prevent its execution.
    pub program_flaw: Option<String>,
    /// Init's end of the gate, after it was opened; the exec closes it.
    pub gate: Option<OwnedFd>,
    /// chdir(2) failed for the privileged user, and is tried again as the container's user.
    pub chdir_later: bool,
    /// The pid namespace in which the second stage starts, until it is entered for children.
    pub pid_namespace: Option<OwnedFd>,
    /// The filter that the first-stage init installs for itself before it creates the second-stage init.
    pub confinement: Option<Filter>,
}

impl Init {
    /// The channel to the parent.
    ///
    /// # Errors
    /// After the parent stopped reading: a step stands on the wrong side of `ready`.
    pub fn channel(&self) -> Result<&InitEnd> {
        self.channel.as_ref().ok_or_else(|| Error::other("the parent does not read the channel any more"))
    }

    /// The host's /proc, opened before any namespace was joined. A process that the container's processes can trace
    /// must not hold it (CVE-2016-9962), and uses the container's /proc, opened on first use: the second stage, and an
    /// exec that shares both the pid and the user namespace with its caller. With a user namespace of the container's
    /// between them, its programs cannot trace this process (ptrace(2), the dumpable attribute).
    pub fn proc(&self) -> SysResult<&Proc> {
        match self.proc.get() {
            Some(proc) => Ok(proc),
            None => {
                let opened = Proc::open_inside()?;
                Ok(self.proc.get_or_init(|| opened))
            }
        }
    }

    /// Closes /proc after the last lookup, because the process may wait for long.
    pub fn close_proc(&mut self) {
        self.proc.take();
    }
}

/// Runs an init whose plan is in the memory file with the descriptor number `plan`. Returns an exit status only after a
/// failure; the parent has received the error then.
pub(crate) fn main(plan: &OsStr) -> i32 {
    // Must precede everything else: from here on no process in a joined namespace can reach this process's memory or
    // descriptors.
    if process::set_undumpable().is_err() {
        return 1;
    }
    let mut inherited = Inherited::of_this_process();
    let (plan, channel) = match receive(plan, &mut inherited) {
        Ok(received) => received,
        Err(error) => {
            // There is no channel for the error: the init stage was started by hand, or by another version.
            eprintln!("brig: {} is internal; do not set it: {error}", divert::VARIABLE);
            return 1;
        }
    };
    match run(plan, inherited, channel) {
        Ok(never) => match never {},
        Err(()) => 1,
    }
}

fn receive(plan: &OsStr, inherited: &mut Inherited) -> Result<(InitPlan, InitEnd)> {
    let number = plan.to_str().and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| Error::other("no plan was given"))?;
    let mut bytes = Vec::new();
    File::from(inherited.take(number)?).read_to_end(&mut bytes).context("unable to read the plan")?;
    let (version, plan): (String, InitPlan) =
        postcard::from_bytes(&bytes).map_err(|error| Error::other(format!("unable to read the plan: {error}")))?;
    if version != super::PLAN_VERSION {
        return Err(Error::other(format!("the plan is of brig {version}, and this is {}", super::PLAN_VERSION)));
    }
    if let Some(number) = plan.trace {
        crate::trace::continue_in(inherited.take(number)?);
    }
    let channel = InitEnd::from_fd(inherited.take(plan.channel)?);
    Ok((plan, channel))
}

fn run(plan: InitPlan, mut inherited: Inherited, channel: InitEnd) -> Result<std::convert::Infallible, ()> {
    let (proc, preserved) = match prepare(&plan, &mut inherited) {
        Ok(prepared) => prepared,
        Err(error) => {
            say(&channel, &error);
            return Err(());
        }
    };
    let mut init = Init {
        plan,
        inherited,
        preserved,
        channel: Some(channel),
        proc,
        root: None,
        terminal: None,
        seccomp: None,
        program: None,
        program_flaw: None,
        gate: None,
        chdir_later: false,
        pid_namespace: None,
        confinement: None,
    };
    let error = match table::walk(&mut init) {
        Ok(never) => return Ok(never),
        Err(error) => error,
    };
    match &init.channel {
        Some(channel) => say(channel, &error),
        // The gate is open and the parent has exited. A start that waits reads the error there; else standard error is
        // all that is left, as for runc.
        None => {
            eprintln!("brig: {error}");
            if let Some(Err(unreported)) = init.gate.take().map(|gate| gate::report(gate, &error)) {
                eprintln!("brig: {unreported}");
            }
        }
    }
    Err(())
}

fn prepare(plan: &InitPlan, inherited: &mut Inherited) -> Result<(OnceCell<Proc>, Vec<OwnedFd>)> {
    // The exec closes every inherited descriptor unless a step keeps it: none can leak by omission.
    process::set_cloexec_on_all()?;
    process::reset_signals()?;
    let mut preserve =
        |number| inherited.take(number).with_context(|| format!("fd {number} of --preserve-fds is not open"));
    let preserved = (3..3 + plan.preserve_fds as i32).map(&mut preserve).collect::<Result<_>>()?;
    let comes_into_reach = plan.rootfs.is_none() && !plan.user_namespace && !plan.second_stage;
    let proc = if comes_into_reach { OnceCell::new() } else { OnceCell::from(Proc::open()?) };
    Ok((proc, preserved))
}

fn say(channel: &InitEnd, error: &Error) {
    // A parent that has exited has either reported its own failure, which caused this one; or it was killed, and there
    // is no reader.
    let _ = channel.failed(error);
}

/// Takes a descriptor that the plan names.
pub(super) fn take(inherited: &mut Inherited, number: init::Inherited) -> Result<OwnedFd> {
    inherited
        .take(number)
        .context("the plan names a descriptor that was not inherited, or that a step has taken before")
}

/// Duplicates a terminal's descriptor onto the three standard streams.
pub(super) fn onto_stdio(fd: BorrowedFd) -> Result<(), SysError> {
    StandardStream::ALL.into_iter().try_for_each(|stream| process::replace_stdio(stream, fd))
}
