//! The init stage: the fresh, single-threaded process that becomes the container's program.
//!
//! Privilege: first that of the caller in the new namespaces, with all capabilities there; after the step `credentials`
//! that of the container's user. The process runs from a sealed image, is not dumpable, never calls NSS, and opens
//! paths only through [`brig_sys::path`] and [`brig_sys::procfs`].

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use crate::channel::InitEnd;
use crate::error::{Context, Error, Result};
use crate::handshake::INIT_VARIABLE;
use brig_plan::init::InitPlan;
use brig_sys::inherited::Inherited;
use brig_sys::process;
use brig_sys::procfs::Proc;

use super::context::{Identity, Init};
use super::handles::{ContainerHandles, Handles};
use super::message::{self, Message};
use super::{gate, table};

/// Runs an init whose plan is in the memory file with the descriptor number `plan`. Returns an exit status only after a
/// failure; the parent has received the error then.
pub(crate) fn main(plan: &OsStr) -> i32 {
    // Must precede everything else: from here on no process in a joined namespace can reach this process's memory or
    // descriptors.
    if process::set_undumpable().is_err() {
        return 1;
    }
    let mut inherited = Inherited::of_this_process();
    let (message, handles) = match receive(plan, &mut inherited) {
        Ok(received) => received,
        Err(error) => {
            // There is no channel for the error: the init stage was started by hand, or by another version.
            eprintln!("brig: {INIT_VARIABLE} is internal; do not set it: {error}");
            return 1;
        }
    };
    if let Some(trace) = handles.trace {
        crate::trace::continue_in(trace);
    }
    match run(message, handles.container, InitEnd::from_fd(handles.channel), inherited) {
        Ok(never) => match never {},
        Err(()) => 1,
    }
}

fn receive(plan: &OsStr, inherited: &mut Inherited) -> Result<(Message, Handles<OwnedFd>)> {
    let number = plan.to_str().and_then(|number| number.parse().ok());
    let number = number.ok_or_else(|| Error::other("no plan was given"))?;
    let mut bytes = Vec::new();
    File::from(inherited.take(number)?).read_to_end(&mut bytes).context("unable to read the plan")?;
    let message = message::decode(&bytes)?;
    let handles = message.handles.claim(inherited).context("the plan names a descriptor that was not inherited")?;
    Ok((message, handles))
}

fn run(
    message: Message,
    handles: ContainerHandles<OwnedFd>,
    channel: InitEnd,
    mut inherited: Inherited,
) -> Result<std::convert::Infallible, ()> {
    let Message { plan, settings, diagnosis, .. } = message;
    let (proc, preserved) = match prepare(&plan, &mut inherited) {
        Ok(prepared) => prepared,
        Err(error) => {
            report(&channel, &error);
            return Err(());
        }
    };
    let process = &plan.process;
    let identity = Identity { uid: process.uid, gid: process.gid, groups: process.groups.clone(), home: None };
    let mut init = Init {
        identity,
        plan,
        settings,
        diagnosis,
        handles,
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
        confinement: None,
    };
    let error = match table::walk(&mut init) {
        Ok(never) => return Ok(never),
        Err(error) => error,
    };
    match &init.channel {
        Some(channel) => report(channel, &error),
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
    process::reset_signals()?;
    let mut preserve =
        |number| inherited.take(number).with_context(|| format!("fd {number} of --preserve-fds is not open"));
    let preserved = (3..).zip(0..plan.preserve_fds).map(|(number, _)| preserve(number)).collect::<Result<_>>()?;
    let comes_into_reach = plan.rootfs.is_none() && !plan.has_user_namespace() && !plan.has_late_second_stage();
    let proc = if comes_into_reach { OnceCell::new() } else { OnceCell::from(Proc::open()?) };
    Ok((proc, preserved))
}

fn report(channel: &InitEnd, error: &Error) {
    // A parent that has exited has either reported its own failure, which caused this one; or it was killed, and there
    // is no reader.
    let _ = channel.failed(error);
}
