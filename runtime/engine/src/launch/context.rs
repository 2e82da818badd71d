//! The state that the steps of an init share.
//!
//! The plan is read only. What a step finds out, or opens, is a field of its own here; each handle is taken once.

use std::cell::OnceCell;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::channel::InitEnd;
use crate::error::{Error, Result};
use crate::handshake::Filter;
use crate::rootfs::Root;
use brig_plan::Finished;
use brig_plan::init::InitPlan;
use brig_sys::process::StandardStream;
use brig_sys::procfs::Proc;
use brig_sys::{SysError, SysResult, process};

use super::handles::ContainerHandles;
use super::message::Diagnosis;
use super::request::Settings;

/// The state that the steps share.
pub(super) struct Init {
    pub plan: Finished<InitPlan>,
    pub settings: Settings,
    pub diagnosis: Diagnosis,
    /// The inherited descriptors, until a step takes them.
    pub handles: ContainerHandles<OwnedFd>,
    /// The ids of the program, after the lookup of names.
    pub identity: Identity,
    /// The descriptors of `--preserve-fds`, in the order of their numbers.
    pub preserved: Vec<OwnedFd>,
    /// The channel, until the parent stops reading.
    pub channel: Option<InitEnd>,
    /// The procfs of [`Init::proc`].
    pub proc: OnceCell<Proc>,
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
    /// The filter that the first-stage init installs for itself before it creates the second-stage init.
    pub confinement: Option<Filter>,
}

/// The ids of the program, and its home directory.
#[derive(Debug, Default)]
pub(super) struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// The value of HOME, unless the plan's environment has one.
    pub home: Option<String>,
}

impl Init {
    /// The program's environment.
    pub fn environment(&self) -> impl Iterator<Item = std::borrow::Cow<'_, str>> {
        let home = self.identity.home.as_ref();
        let planned = self.plan.process.env.iter().filter(move |entry| home.is_none() || !entry.starts_with("HOME="));
        planned.map(|entry| entry.as_str().into()).chain(home.map(|home| format!("HOME={home}").into()))
    }

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

/// Duplicates a terminal's descriptor onto the three standard streams.
pub(super) fn onto_stdio(fd: BorrowedFd) -> Result<(), SysError> {
    StandardStream::ALL.into_iter().try_for_each(|stream| process::replace_stdio(stream, fd))
}
