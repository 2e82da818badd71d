//! The rights and the scheduling of a process: ids, capabilities, no_new_privs, scheduler, I/O priority, personality.
//!
//! Ids and capabilities are those of the calling thread: the system calls are made directly, because the C library's
//! functions would change every thread.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, Gid, Uid};

use super::{SysError, SysResult};

fn check(result: libc::c_long, call: &'static str, args: impl FnOnce() -> String) -> SysResult<()> {
    if result < 0 { Err(SysError::last(call, args())) } else { Ok(()) }
}

/// Five capability sets, bit N for capability N (capabilities(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CapabilitySets {
    /// The limit of what execve can give.
    pub bounding: u64,
    /// Capabilities that the kernel checks.
    pub effective: u64,
    /// Capabilities that may be made effective.
    pub permitted: u64,
    /// Capabilities that are kept over execve of files with inheritable capabilities.
    pub inheritable: u64,
    /// Capabilities that an unprivileged user keeps over execve.
    pub ambient: u64,
}

/// This thread's effective capabilities.
///
/// # Errors
/// As capget(2): EPERM where a seccomp filter refuses the call.
pub fn effective_capabilities() -> SysResult<u64> {
    let sets = rustix::thread::capabilities(None).map_err(|error| SysError::new("capget", "0", error))?;
    Ok(sets.effective.bits())
}

/// Sets this thread's capabilities (capset(2)).
///
/// # Errors
/// EPERM for a permitted capability that this thread lacks, an effective one that is not permitted, or an inheritable
/// one beyond the bounding set.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> SysResult<()> {
    let sets = rustix::thread::CapabilitySets {
        effective: CapabilitySet::from_bits_retain(effective),
        permitted: CapabilitySet::from_bits_retain(permitted),
        inheritable: CapabilitySet::from_bits_retain(inheritable),
    };
    rustix::thread::set_capabilities(None, sets).map_err(|error| {
        let args = format!("effective {effective:#x}, permitted {permitted:#x}, inheritable {inheritable:#x}");
        SysError::new("capset", args, error)
    })
}

/// The capabilities in `set`, one by one, with their numbers.
fn each(set: u64) -> impl Iterator<Item = (u8, CapabilitySet)> {
    (0u8..64)
        .map(|number| (number, 1u64 << number))
        .filter(move |(_, bit)| set & bit != 0)
        .map(|(number, bit)| (number, CapabilitySet::from_bits_retain(bit)))
}

/// Drops every capability that the kernel knows and that is not in `keep` from the bounding set. Needs CAP_SETPCAP.
///
/// The kernel reports the end of its capabilities with EINVAL (capabilities(7)), so that no file need be opened, which
/// a small limit on open files would forbid.
///
/// # Errors
/// EPERM without CAP_SETPCAP in this thread's user namespace.
pub fn limit_bounding(keep: u64) -> SysResult<()> {
    for (number, capability) in each(!keep) {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::INVAL) => break,
            Err(error) => return Err(SysError::new("prctl", format!("PR_CAPBSET_DROP, {number}"), error)),
        }
    }
    Ok(())
}

/// Makes the ambient set exactly `set`, each of which must be permitted and inheritable.
///
/// # Errors
/// EPERM for a capability that is not both permitted and inheritable, or under SECBIT_NO_CAP_AMBIENT_RAISE.
pub fn set_ambient(set: u64) -> SysResult<()> {
    rustix::thread::clear_ambient_capability_set()
        .map_err(|error| SysError::new("prctl", "PR_CAP_AMBIENT_CLEAR_ALL", error))?;
    for (number, capability) in each(set) {
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .map_err(|error| SysError::new("prctl", format!("PR_CAP_AMBIENT_RAISE, {number}"), error))?;
    }
    Ok(())
}

/// Keeps the permitted capabilities over the next change of user ids (until the next exec).
///
/// # Errors
/// EPERM under SECBIT_KEEP_CAPS_LOCKED.
pub fn keep_capabilities() -> SysResult<()> {
    rustix::thread::set_keep_capabilities(true).map_err(|error| SysError::new("prctl", "PR_SET_KEEPCAPS, 1", error))
}

/// Sets the supplementary groups of this thread (setgroups(2)).
///
/// # Errors
/// EINVAL for -1, which is no id; else as setgroups(2).
pub fn set_groups(groups: &[u32]) -> SysResult<()> {
    let error = |error| SysError::new("setgroups", format!("{groups:?}"), error);
    if groups.contains(&u32::MAX) {
        return Err(error(Errno::INVAL));
    }
    let ids: Vec<Gid> = groups.iter().map(|id| Gid::from_raw(*id)).collect();
    rustix::thread::set_thread_groups(&ids).map_err(error)
}

/// Sets the real, effective and saved ids of this thread (setresgid(2), setresuid(2)). The group goes first, while the
/// user still may change it.
///
/// # Errors
/// EINVAL for -1 too, which the calls would take for "leave it as it is".
pub fn set_ids(uid: u32, gid: u32) -> SysResult<()> {
    if uid == u32::MAX || gid == u32::MAX {
        let args = format!("{uid}, group {gid}: (uid_t)-1 is no id");
        return Err(SysError::new("setresuid", args, Errno::INVAL));
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_res_gid(group, group, group)
        .map_err(|error| SysError::new("setresgid", gid.to_string(), error))?;
    rustix::thread::set_thread_res_uid(user, user, user)
        .map_err(|error| SysError::new("setresuid", uid.to_string(), error))
}

/// Keeps every later exec from gaining privileges (prctl(PR_SET_NO_NEW_PRIVS)).
///
/// # Errors
/// As prctl(2): EPERM where a seccomp filter refuses the call.
pub fn set_no_new_privs() -> SysResult<()> {
    rustix::thread::set_no_new_privs(true).map_err(|error| SysError::new("prctl", "PR_SET_NO_NEW_PRIVS", error))
}

/// Sets the execution domain of this process (personality(2)).
///
/// # Errors
/// EINVAL where the kernel cannot change to the domain.
pub fn set_personality(persona: u64) -> SysResult<()> {
    // SAFETY: the execution domain acts on later system calls and the next exec; it moves no memory of this process.
    let result = unsafe { libc::personality(persona as libc::c_ulong) };
    check(result.into(), "personality", || format!("{persona:#x}"))
}

/// Sets the I/O priority of this process (ioprio_set(2)). `class` is 1 for realtime, 2 for best effort or 3 for idle;
/// `level` is 0 to 7.
///
/// # Errors
/// EINVAL for a class or a level that does not exist; EPERM for the class realtime without CAP_SYS_ADMIN or
/// CAP_SYS_NICE.
pub fn set_io_priority(class: u16, level: u16) -> SysResult<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(level);
    // SAFETY: the call takes its arguments by value and accesses no memory.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    check(result, "ioprio_set", || format!("class {class}, level {level}"))
}

/// The attributes of sched_setattr(2), in the kernel's layout (linux/sched/types.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchedulerAttributes {
    /// The size of this struct, filled in by [`set_scheduler`].
    pub size: u32,
    /// A SCHED_* number.
    pub policy: u32,
    /// SCHED_FLAG_* bits.
    pub flags: u64,
    /// The nice value of SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// The priority of SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// The runtime of SCHED_DEADLINE in nanoseconds.
    pub runtime: u64,
    /// The deadline of SCHED_DEADLINE in nanoseconds.
    pub deadline: u64,
    /// The period of SCHED_DEADLINE in nanoseconds.
    pub period: u64,
}

impl SchedulerAttributes {
    /// The size of the struct, as its first member holds it.
    const SIZE: u32 = 48;

    /// Whether a child inherits these attributes. SCHED_DEADLINE forbids a process to make children, and
    /// SCHED_FLAG_RESET_ON_FORK gives them other attributes (sched(7)).
    pub fn is_inherited(&self) -> bool {
        self.policy != libc::SCHED_DEADLINE as u32 && self.flags & libc::SCHED_FLAG_RESET_ON_FORK as u64 == 0
    }
}

const _: () = assert!(size_of::<SchedulerAttributes>() == SchedulerAttributes::SIZE as usize);

/// Sets the scheduler of this thread (sched_setattr(2)).
///
/// # Errors
/// As for [`set_scheduler_of`].
pub fn set_scheduler(attributes: &SchedulerAttributes) -> SysResult<()> {
    set_scheduler_of(0, attributes)
}

/// Sets the scheduler of a process's main thread, or of this thread with pid 0 (sched_setattr(2)).
///
/// # Errors
/// EINVAL for a policy that does not exist or attributes out of its range; EPERM without CAP_SYS_NICE; EBUSY for a
/// deadline that the CPUs have no time for; ESRCH when no process has the pid.
pub fn set_scheduler_of(pid: i32, attributes: &SchedulerAttributes) -> SysResult<()> {
    let mut attributes = *attributes;
    attributes.size = SchedulerAttributes::SIZE;
    // SAFETY: the kernel reads as many bytes as `size` says, which is the size of the struct, a copy on this stack.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    check(result, "sched_setattr", || format!("{pid}, {attributes:?}"))
}

/// Sets the memory policy of this thread (set_mempolicy(2)): MPOL_* with its MPOL_F_* flags, and numbers of memory
/// nodes. The policy stays over execve.
///
/// # Errors
/// EINVAL for a mode that this kernel does not know, and for nodes that are not there or not in the cpuset; ENOSYS on a
/// kernel without NUMA.
pub fn set_memory_policy(mode: u32, nodes: &[u32]) -> SysResult<()> {
    let words = nodes.iter().max().map_or(0, |last| *last as usize / 64 + 1);
    let mut mask = vec![0u64; words];
    for node in nodes {
        mask[*node as usize / 64] |= 1 << (node % 64);
    }
    // The kernel takes one bit less than the argument says (mm/mempolicy.c, get_nodes).
    let bits = if words == 0 { 0 } else { words * 64 + 1 };
    let pointer = if words == 0 { std::ptr::null() } else { mask.as_ptr() };
    // SAFETY: the pointer is null, or points to `mask`, which has at least `bits` - 1 bits and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    check(result, "set_mempolicy", || format!("{mode:#x}, {nodes:?}"))
}

/// Allows this thread every CPU, also those that are not present yet. The kernel intersects them with the thread's
/// cpuset, also when that changes later.
///
/// # Errors
/// EINVAL when the thread's cpuset has no CPU.
pub fn reset_affinity() -> SysResult<()> {
    // More than any kernel is built for; the kernel ignores the bits above its own number (kernel/sched/syscalls.c,
    // get_user_cpu_mask).
    const WORDS: usize = 1024;
    let mask = [u64::MAX; WORDS];
    // SAFETY: the kernel reads WORDS * 8 bytes, which is the size of `mask`, a local variable.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, WORDS * 8, mask.as_ptr()) };
    check(result, "sched_setaffinity", || "every CPU".to_owned())
}

/// Restricts this thread to these CPU numbers (sched_setaffinity(2)).
///
/// # Errors
/// EINVAL when none of them is in this thread's cpuset.
pub fn set_affinity(cpus: &[u32]) -> SysResult<()> {
    let words = cpus.iter().max().map_or(1, |last| *last as usize / 64 + 1);
    let mut mask = vec![0u64; words];
    for cpu in cpus {
        mask[*cpu as usize / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the kernel reads `words` * 8 bytes, which is the size of `mask`, a local variable.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, words * 8, mask.as_ptr()) };
    check(result, "sched_setaffinity", || format!("{cpus:?}"))
}
