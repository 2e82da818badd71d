//! What a process may do and how it is scheduled: ids, capabilities, no_new_privs, scheduler, I/O priority,
//! personality.

use super::{SysError, SysResult};

fn check(result: libc::c_long, call: &'static str, args: impl FnOnce() -> String) -> SysResult<()> {
    if result < 0 { Err(SysError::last(call, args())) } else { Ok(()) }
}

/// Five capability sets, bit N for capability N.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CapabilitySets {
    /// Limits what execve can give.
    pub bounding: u64,
    /// Checked by the kernel.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over execve of files with inheritable capabilities.
    pub inheritable: u64,
    /// Kept over execve by an unprivileged user.
    pub ambient: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3 (linux/capability.h).
const VERSION_3: u32 = 0x2008_0522;

/// This thread's effective capabilities.
pub fn effective_capabilities() -> SysResult<u64> {
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data elements, both valid for the whole call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(result, "capget", || "0".into())?;
    Ok(u64::from(data[0].effective) | u64::from(data[1].effective) << 32)
}

/// capset(2) on this thread.
pub fn set_capabilities(effective: u64, permitted: u64, inheritable: u64) -> SysResult<()> {
    let mut header = CapHeader { version: VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (effective >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: as in effective_capabilities.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check(result, "capset", || format!("effective {effective:#x}, permitted {permitted:#x}, inheritable {inheritable:#x}"))
}

/// Drops every capability that the kernel knows and that is not in `keep` from the bounding set. Needs CAP_SETPCAP.
/// The kernel itself says where they end, with EINVAL (capabilities(7)): no file need be opened for that, which a
/// small limit on open files would forbid.
pub fn limit_bounding(keep: u64) -> SysResult<()> {
    for capability in (0u8..64).filter(|capability| keep & (1 << capability) == 0) {
        // SAFETY: integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if result < 0 && nix::errno::Errno::last() == nix::errno::Errno::EINVAL {
            break;
        }
        check(result.into(), "prctl", || format!("PR_CAPBSET_DROP, {capability}"))?;
    }
    Ok(())
}

/// Makes the ambient set exactly `set`, each of which must be permitted and inheritable.
pub fn set_ambient(set: u64) -> SysResult<()> {
    // SAFETY: integers only.
    let result =
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) };
    check(result.into(), "prctl", || "PR_CAP_AMBIENT_CLEAR_ALL".into())?;
    for capability in (0u8..64).filter(|capability| set & (1 << capability) != 0) {
        // SAFETY: integers only.
        let result = unsafe {
            let raise = libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong;
            libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(capability), 0, 0)
        };
        check(result.into(), "prctl", || format!("PR_CAP_AMBIENT_RAISE, {capability}"))?;
    }
    Ok(())
}

/// Keeps the permitted capabilities over the next change of user ids (until the next exec).
pub fn keep_capabilities() -> SysResult<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }.into(), "prctl", || "PR_SET_KEEPCAPS, 1".into())
}

/// setgroups(2) of this thread alone.
pub fn set_groups(groups: &[u32]) -> SysResult<()> {
    // SAFETY: the pointer and the length describe a valid slice of gid_t.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    check(result, "setgroups", || format!("{groups:?}"))
}

/// setresgid(2), then setresuid(2), all three ids each. The group must go first, while the user still may.
///
/// # Errors
/// EINVAL for -1 too, which the calls would take for "leave it as it is".
pub fn set_ids(uid: u32, gid: u32) -> SysResult<()> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(SysError::new("setresuid", format!("{uid}, group {gid}: (uid_t)-1 is no id"), nix::errno::Errno::EINVAL));
    }
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }, "setresgid", || gid.to_string())?;
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }, "setresuid", || uid.to_string())
}

/// prctl(PR_SET_NO_NEW_PRIVS).
pub fn set_no_new_privs() -> SysResult<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into(), "prctl", || "PR_SET_NO_NEW_PRIVS".into())
}

/// personality(2).
pub fn set_personality(persona: u64) -> SysResult<()> {
    // SAFETY: integers only.
    let result = unsafe { libc::personality(persona as libc::c_ulong) };
    check(result.into(), "personality", || format!("{persona:#x}"))
}

/// ioprio_set(2) of this process. `class` 1 realtime, 2 best effort, 3 idle; `level` 0 to 7.
pub fn set_io_priority(class: u16, level: u16) -> SysResult<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(level);
    // SAFETY: integers only.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    check(result, "ioprio_set", || format!("class {class}, level {level}"))
}

/// The attributes of sched_setattr(2), in the kernel's layout (linux/sched/types.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SchedulerAttributes {
    /// Set by [`set_scheduler`].
    pub size: u32,
    /// SCHED_* number.
    pub policy: u32,
    /// SCHED_FLAG_* bits.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, nanoseconds.
    pub period: u64,
}

impl SchedulerAttributes {
    /// A child inherits them. SCHED_DEADLINE forbids the making of one, and SCHED_FLAG_RESET_ON_FORK gives it others
    /// (sched(7)).
    pub fn is_inherited(&self) -> bool {
        const SCHED_DEADLINE: u32 = 6;
        const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
        self.policy != SCHED_DEADLINE && self.flags & SCHED_FLAG_RESET_ON_FORK == 0
    }
}

/// sched_setattr(2) of this thread.
pub fn set_scheduler(attributes: &SchedulerAttributes) -> SysResult<()> {
    set_scheduler_of(0, attributes)
}

/// sched_setattr(2) of the main thread of a process.
pub fn set_scheduler_of(pid: i32, attributes: &SchedulerAttributes) -> SysResult<()> {
    let mut attributes = *attributes;
    attributes.size = size_of::<SchedulerAttributes>() as u32;
    // SAFETY: the struct says its own size and is valid for the whole call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, pid, &raw const attributes, 0) };
    check(result, "sched_setattr", || format!("{pid}, {attributes:?}"))
}

/// set_mempolicy(2) of this thread: MPOL_* with its MPOL_F_* flags, and numbers of memory nodes. It stays over execve.
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
    // The kernel takes one bit less than it is told of (mm/mempolicy.c, get_nodes).
    let bits = if words == 0 { 0 } else { words * 64 + 1 };
    let pointer = if words == 0 { std::ptr::null() } else { mask.as_ptr() };
    // SAFETY: the pointer is null, or to a mask of at least `bits` - 1 bits that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) };
    check(result, "set_mempolicy", || format!("{mode:#x}, {nodes:?}"))
}

/// Allows this thread every CPU, those that are not there yet too. The kernel keeps to its cpuset, also when that changes
/// later.
pub fn reset_affinity() -> SysResult<()> {
    // More than any kernel is built for; what is above its number is cut off (kernel/sched/syscalls.c, get_user_cpu_mask).
    const WORDS: usize = 1024;
    let mask = [u64::MAX; WORDS];
    // SAFETY: the mask is of the length that is given, and outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, WORDS * 8, mask.as_ptr()) };
    check(result, "sched_setaffinity", || "every CPU".to_owned())
}

/// sched_setaffinity(2) of this thread to these CPU numbers.
///
/// # Errors
/// EINVAL when none of them is in this thread's cpuset.
pub fn set_affinity(cpus: &[u32]) -> SysResult<()> {
    let words = cpus.iter().max().map_or(1, |last| *last as usize / 64 + 1);
    let mut mask = vec![0u64; words];
    for cpu in cpus {
        mask[*cpu as usize / 64] |= 1 << (cpu % 64);
    }
    // SAFETY: the pointer and the byte length describe the mask.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, words * 8, mask.as_ptr()) };
    check(result, "sched_setaffinity", || format!("{cpus:?}"))
}
