//! The typed messages between parent and init.
//!
//! One SOCK_SEQPACKET pair connects them, one packet is one message, and each request names its reply by type. The
//! parent computes the requests and their order from the plan; anything early, late or missing is an error that names
//! the step.
//!
//! ```text
//! parent                                   init
//!   clone3 ───────────────────────────────► starts
//!   id maps, cgroup, oom score ── Go ─────► executes the sealed image, reads the plan
//!                      ◄── SecondStage {pid} ── only with an early second-stage init: the first-stage init cloned it, and
//!   id maps              ── () ───────────► exits; the second-stage init waits only where it needs maps
//!                      ◄── Source ───────── only with a user namespace, for a bind mount that init may not open or map
//!   copies it there      ── the fd ───────►
//!                      ◄── Devices ──────── only with network devices to move
//!   moves them           ── their addresses ►  sets those, and brings the devices up
//!                      ◄── Mounted ──────── only with hooks of create
//!   runs those hooks     ── () ───────────►
//!                      ◄── Confine ──────── only where the first-stage init may install the seccomp filter
//!   whether it can       ── Program ──────►
//!                      ◄── SecondStage {pid} ── only with a late second-stage init: the first-stage init, which stayed
//!                                           outside the pid namespace, cloned it, and exits
//!                      ◄── Limits ───────── only where init may not raise its own limits
//!   prlimit              ── () ───────────►
//!                      ◄── HostNode ─────── only for a standard stream on a memory device without such a device inside
//!   opens it read-only   ── the fd ───────►
//!                      ◄── Streams ──────── only where init may not give the streams to the container's user
//!   fchown               ── () ───────────►
//!                      ◄── Ready ────────── everything is set up, and the program is found
//!   writes the record    ── Program ──────► waits at the gate; hooks; seccomp; exec
//!                      ◄── Listening ────── only with a seccomp filter that has a listener: the fd
//!   hands it to the agent
//!                      ◄── end of file ──── the exec closed the socket: the program runs
//! ```
//!
//! Init may send a log line at any time, or `Failed` as its last message. An end of file before `Ready` means that
//! init exited, and the parent reports the cause.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::rootfs::MemoryDevice;

/// The environment variable that makes a process an init. Its value is the descriptor number of the plan's memory file.
/// musl passes no arguments to the entries of `.init_array`, and no /proc is there in an empty mount namespace; the
/// environment is in place with every C library.
pub(crate) const INIT_VARIABLE: &str = "_BRIG_INIT";

/// A request of init. Its reply has its own type, so that the compiler checks both ends.
pub trait Request: Serialize + DeserializeOwned {
    /// The step that the request belongs to.
    const STEP: Step;
    /// The parent's reply.
    type Reply: Serialize + DeserializeOwned;
}

/// The requests, in their only valid order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// [`SecondStage`]
    SecondStage,
    /// [`Source`]
    Source,
    /// [`Devices`]
    Devices,
    /// [`Mounted`]
    Mounted,
    /// [`Confine`]
    Confine,
    /// [`Limits`]
    Limits,
    /// [`HostNode`]
    HostNode,
    /// [`Streams`]
    Streams,
    /// [`Ready`]
    Ready,
    /// [`Listening`]
    Listening,
}

/// The first-stage init has cloned the second-stage init. Its pidfd is sent with the packet. The reply goes to the
/// second-stage init if that is in a new user namespace, whose maps the parent writes; else it does not wait for one.
#[derive(Debug, Serialize, Deserialize)]
pub struct SecondStage {
    /// Pid in the parent's pid namespace.
    pub pid: i32,
}

/// The source of a bind mount that init may not open itself, or that is idmapped. A detached copy of it, from init's
/// mount namespace, travels with the reply.
#[derive(Debug, Serialize, Deserialize)]
pub struct Source {
    /// Index of the mount in the plan.
    pub index: usize,
}

/// The network namespace exists, and can receive the devices of the plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct Devices {
    /// Interface indices that are in use there.
    pub taken: Vec<i32>,
}

/// A network device, in the reply to [`Devices`], in the plan's order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Device {
    /// Interface index in the container's network namespace.
    pub index: i32,
    /// Addresses to restore.
    pub addresses: Vec<brig_sys::netlink::Address>,
}

/// The mounts are in place and pivot_root has not been called: the time of the prestart and createRuntime hooks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mounted;

/// The first-stage init has done everything that the seccomp filter might forbid. The reply is the filter, or `None`
/// where the remaining steps need calls that it does not allow.
#[derive(Debug, Serialize, Deserialize)]
pub struct Confine;

/// Limits that init could not set itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Resource limits, as indices into the plan's list.
    pub failed: Vec<usize>,
    /// Whether to set the plan's scheduler.
    pub scheduler: bool,
}

/// A standard stream is a memory device of the host's, and the container has no such device that could take its place.
/// An fd of the same device on a read-only mount travels with the reply, unless the parent may not make one.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostNode {
    pub device: MemoryDevice,
}

/// Standard streams that are pipes and sockets whose owner has no id in the container's user namespace.
#[derive(Debug, Serialize, Deserialize)]
pub struct Streams {
    /// The user to own them, by its id inside.
    pub uid: u32,
    /// Descriptor numbers: 0, 1 or 2.
    pub numbers: Vec<u8>,
}

/// Everything is set up; the gate, seccomp and the exec remain.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready;

/// The seccomp filter is installed; the listener is sent with the packet. There is no reply: init is under the
/// filter, and may be unable to read one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening;

/// A compiled seccomp filter.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filter {
    /// Instructions of the program.
    pub instructions: Vec<brig_sys::seccomp::Instruction>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
}

/// The reply to [`Ready`]: the container is on record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// The seccomp filter, which the parent compiled while init was running.
    pub seccomp: Option<Filter>,
}

impl Request for SecondStage {
    const STEP: Step = Step::SecondStage;
    type Reply = ();
}
impl Request for Source {
    const STEP: Step = Step::Source;
    type Reply = ();
}
impl Request for Devices {
    const STEP: Step = Step::Devices;
    type Reply = Vec<Device>;
}
impl Request for Mounted {
    const STEP: Step = Step::Mounted;
    type Reply = ();
}
impl Request for Confine {
    const STEP: Step = Step::Confine;
    type Reply = Option<Filter>;
}
impl Request for Limits {
    const STEP: Step = Step::Limits;
    type Reply = ();
}
impl Request for HostNode {
    const STEP: Step = Step::HostNode;
    type Reply = ();
}
impl Request for Streams {
    const STEP: Step = Step::Streams;
    type Reply = ();
}
impl Request for Ready {
    const STEP: Step = Step::Ready;
    type Reply = Recorded;
}

impl Request for Listening {
    const STEP: Step = Step::Listening;
    type Reply = ();
}

/// A message of init.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// A request; the body is encoded as the request's own type.
    Request {
        step: Step,
        /// The encoded request.
        body: Vec<u8>,
    },
    /// A line for the log.
    Log {
        /// Whether the line is a warning; else it is for the debug level.
        warning: bool,
        message: String,
    },
    /// Init failed, and exits.
    Failed {
        /// The kind of the error.
        kind: Kind,
        /// The whole error in one line.
        message: String,
    },
}

/// [`ErrorKind`] on the wire: the kinds that init can cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The program cannot be executed.
    Executable,
    /// The host lacks a feature.
    Unsupported,
    /// Anything else.
    Other,
}

impl From<ErrorKind> for Kind {
    fn from(kind: ErrorKind) -> Kind {
        match kind {
            ErrorKind::Executable => Kind::Executable,
            ErrorKind::Unsupported => Kind::Unsupported,
            _ => Kind::Other,
        }
    }
}

impl From<Kind> for ErrorKind {
    fn from(kind: Kind) -> ErrorKind {
        match kind {
            Kind::Executable => ErrorKind::Executable,
            Kind::Unsupported => ErrorKind::Unsupported,
            Kind::Other => ErrorKind::Other,
        }
    }
}
