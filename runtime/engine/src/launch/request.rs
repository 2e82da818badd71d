//! The request for a launch: the plan, what exists at run time alone, and the caller's reactions.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use brig_plan::idmap::IdMap;
use brig_plan::init::InitPlan;
use brig_plan::mounts::CgroupMounts;
use brig_sys::process::Child;

use super::handles::ContainerHandles;
use super::image::ImageUse;
use super::stall::{Freezer, StallLimit};
use super::unknown_syscalls::UnknownSyscalls;

/// User and group maps of a new user namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdMaps<'a> {
    pub uids: &'a IdMap,
    pub gids: &'a IdMap,
    pub setgroups: Setgroups,
}

/// The permission of setgroups(2) in a new user namespace (user_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setgroups {
    /// Leave it allowed.
    Allow,
    /// Deny it before the maps are written, as the kernel requires of an unprivileged writer.
    Deny,
}

/// The namespaces and cgroups in which init starts.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// New namespaces of the clone, as CLONE_NEW* flags.
    pub namespaces: u64,
    /// The maps of a new user namespace.
    pub id_maps: Option<IdMaps<'a>>,
    /// The cgroup v2 directory in which init starts.
    pub cgroup: Option<OwnedFd>,
    /// Files of v1 cgroups that init enters by itself, before everything else.
    pub enter: Vec<OwnedFd>,
}

/// A seccomp filter to compile while init runs its first steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seccomp<'a> {
    pub profile: &'a LinuxSeccomp,
    /// The handling of system calls in `profile` that no known architecture has.
    pub unknown_syscalls: UnknownSyscalls,
}

/// The settings of a launch that no configuration has; written beside the plan.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// The terminal's settings, for a process that has one.
    pub terminal: TerminalSettings,
    /// The content of the root's cgroup mounts.
    pub cgroup: CgroupMounts,
}

/// The settings of a process's terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TerminalSettings {
    /// The initial size: rows, columns.
    pub size: Option<(u16, u16)>,
    pub newlines: Newlines,
}

/// The translation of newlines in a terminal's output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Newlines {
    /// The container's terminal translates them.
    #[default]
    Translated,
    /// Another terminal shows the output, and translates them.
    Raw,
}

/// The parameters of a launch.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub plan: &'a InitPlan,
    pub settings: Settings,
    /// Descriptors that init inherits; closed in the parent after the clone.
    pub handles: ContainerHandles<OwnedFd>,
    pub start: Start<'a>,
    pub seccomp: Option<Seccomp<'a>>,
    /// An empty directory on a file system that overlay accepts, such as the container's own below the root.
    pub seal_beside: &'a Path,
    pub image: ImageUse,
    pub stdio: Option<[OwnedFd; 3]>,
    /// The limit for an init that makes no progress.
    pub stall: StallLimit,
}

/// The engine's reactions to the events of the handshake.
pub(crate) trait LaunchObserver: Freezer {
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
