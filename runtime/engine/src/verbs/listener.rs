//! Hand-over of a seccomp listener to the agent (config-linux.md, "The Container Process State").

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde::Serialize;

use crate::error::{Context, Error, Result};
use brig_plan::init::{HookState, StateNow};
use brig_plan::seccomp::notifies;
use brig_plan::{Finished, container};
use brig_sys::socket;

/// The listener's name in the list of descriptors sent.
const SECCOMP_FD: &str = "seccompFd";

/// Destination of a container's seccomp listener, and the state sent with it.
pub(super) struct Listener {
    path: PathBuf,
    metadata: String,
    state: Finished<HookState>,
}

/// The message to the agent. Fields are serialised in this order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: StateNow<'a>,
}

impl Listener {
    /// The listener of a container whose profile uses SCMP_ACT_NOTIFY.
    pub(super) fn from_spec(spec: &Spec, id: &str, bundle: &Path) -> Option<Listener> {
        let profile = spec.linux().as_ref()?.seccomp().as_ref().filter(|profile| notifies(profile))?;
        Some(Listener {
            path: profile.listener_path().clone()?,
            metadata: profile.listener_metadata().clone().unwrap_or_default(),
            state: container::hook_state(spec, id, bundle),
        })
    }

    /// Sends the listener of process `pid` over a new connection. `init` and `status` are the container's.
    ///
    /// # Errors
    /// When no agent listens there: programs would wait forever, or calls would fail with ENOSYS.
    pub(super) fn send(&self, listener: OwnedFd, pid: i32, status: &str, init: i32) -> Result<()> {
        let state = self.state.now(status, init);
        let message = ProcessState {
            oci_version: &self.state.oci_version,
            fds: [SECCOMP_FD],
            pid,
            metadata: &self.metadata,
            state,
        };
        let text = serde_json::to_vec(&message)
            .map_err(|error| Error::other(format!("unable to write the container process state: {error}")))?;
        let unable = || {
            format!(
                "unable to hand the seccomp listener to linux.seccomp.listenerPath {} (is the agent running, and does \
                 it listen on a stream socket?)",
                self.path.display()
            )
        };
        let agent = socket::connect(&self.path).with_context(unable)?;
        socket::send_stream(agent.as_fd(), &text, &[listener.as_fd()]).with_context(unable)
    }
}
