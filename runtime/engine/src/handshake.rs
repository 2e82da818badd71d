//! The typed steps between parent and init.
//!
//! One SOCK_SEQPACKET pair joins them, one packet is one message, and each request names its reply by type. The
//! parent computes from the plan which requests will come, in which order; anything early, late or missing is an
//! error that names the step.
//!
//! ```text
//! parent                                   init
//!   clone3 ───────────────────────────────► born
//!   id maps, cgroup, oom score ── Go ─────► executes the sealed image, reads the plan
//!                      ◄── Sibling {pid} ── only where a user namespace is joined: stage 1 made the real init, and
//!   id maps              ── () ───────────► ends; that one waits only where it needs maps
//!                      ◄── Devices ──────── only with network devices to move
//!   moves them           ── their addresses ►  sets those, and brings the devices up
//!                      ◄── Mounted ──────── only with hooks of create
//!   runs those hooks     ── () ───────────►
//!                      ◄── Confine ──────── only where that stage may install the seccomp filter
//!   whether it can       ── Program ──────►
//!                      ◄── Sibling {pid} ── only where a pid namespace alone is joined: stage 1, which has stayed
//!                                           outside, made the real init, and ends
//!                      ◄── Limits ───────── only where init may not raise its own limits
//!   prlimit              ── () ───────────►
//!                      ◄── HostNode ─────── only for a standard stream on a memory device without such a device inside
//!   opens it read-only   ── the fd ───────►
//!                      ◄── Streams ──────── only where init may not give the streams to the container's user
//!   fchown               ── () ───────────►
//!                      ◄── Ready ────────── all is set up and looked up
//!   writes the record    ── Program ──────► waits at the gate; hooks; seccomp; exec
//!                      ◄── Listening ────── only with a seccomp filter that has a listener: the fd
//!   hands it to the agent
//!                      ◄── end of file ──── the exec closed the socket: the program runs
//! ```
//!
//! At any moment init may send a log line, or `Failed` as its last word. An end of file before `Ready` means that
//! it died, and the parent reports from what.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::ErrorKind;
use crate::rootfs::MemoryDevice;

/// A request of init's. Its reply is a type of its own, so that both ends are held to it.
pub trait Request: Serialize + DeserializeOwned {
    /// Its step.
    const STEP: Step;
    /// What the parent answers.
    type Reply: Serialize + DeserializeOwned;
}

/// The requests, in their only order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// [`Sibling`]
    Sibling,
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

/// Stage 1 has made the process that becomes the container's. Its pidfd travels with the packet. A reply
/// goes to the new process where that is in a new user namespace, whose maps the parent writes; else it does not wait.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sibling {
    /// Its pid, in the parent's pid namespace.
    pub pid: i32,
}

/// The network namespace is there, and can take the devices of the plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct Devices {
    /// Numbers of devices that are in use there.
    pub taken: Vec<i32>,
}

/// One network device, in answer to [`Devices`]; they are in the plan's order.
#[derive(Debug, Serialize, Deserialize)]
pub struct Device {
    /// Its number in the container's network namespace.
    pub index: i32,
    /// The addresses that it is to get back.
    pub addresses: Vec<brig_sys::netlink::Address>,
}

/// The mounts stand and pivot_root has not been called: the moment of the prestart and createRuntime hooks.
#[derive(Debug, Serialize, Deserialize)]
pub struct Mounted;

/// The first of two stages has done all that the seccomp filter might forbid. The reply is the filter, or `None` where the
/// remaining steps need calls that it does not allow.
#[derive(Debug, Serialize, Deserialize)]
pub struct Confine;

/// These could not be set from inside.
#[derive(Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Resource limits, as indices into the plan's list.
    pub failed: Vec<usize>,
    /// The plan's scheduler, which is to be set in any case.
    pub scheduler: bool,
}

/// A standard stream is a memory device of the host's, and the container has no such device that could take its place. An
/// fd of the same device on a read-only mount travels with the reply, unless the parent may not make one.
#[derive(Debug, Serialize, Deserialize)]
pub struct HostNode {
    /// The device.
    pub device: MemoryDevice,
}

/// These standard streams are pipes and sockets whose owner has no id in the container's user namespace.
#[derive(Debug, Serialize, Deserialize)]
pub struct Streams {
    /// The user that is to own them, by its id inside.
    pub uid: u32,
    /// 0, 1 or 2.
    pub numbers: Vec<u8>,
}

/// Everything is set up; what is left is the gate, seccomp and the exec.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready;

/// The seccomp filter is installed; the listener travels with the packet. Nobody waits for a reply: init is under the
/// filter by now, and may not be able to read one.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listening;

/// A seccomp filter.
#[derive(Debug, Serialize, Deserialize)]
pub struct Filter {
    /// The program.
    pub instructions: Vec<brig_sys::seccomp::Instruction>,
    /// SECCOMP_FILTER_FLAG_* bits.
    pub flags: u32,
}

/// The reply to [`Ready`]: the container is on record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// The seccomp filter, compiled by the parent while init was at work.
    pub seccomp: Option<Filter>,
}

impl Request for Sibling {
    const STEP: Step = Step::Sibling;
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

/// What init sends.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromInit {
    /// A request; the body is the request's own type.
    Request {
        /// Which.
        step: Step,
        /// The request, serialised.
        body: Vec<u8>,
    },
    /// A line for the log.
    Log {
        /// True for a warning, false for a debug line.
        warning: bool,
        /// The line.
        message: String,
    },
    /// Init could not go on, and ends.
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
    /// The host cannot do it.
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
