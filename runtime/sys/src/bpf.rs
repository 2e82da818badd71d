//! bpf(2) for cgroup device programs: load, attach, replace, list, detach.
//!
//! RLIMIT_MEMLOCK is left alone: since Linux 5.11 programs are charged to the memory cgroup, and raising the limit
//! needs CAP_SYS_RESOURCE, which many callers lack.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::{SysError, SysResult, error};

/// One instruction, as the kernel reads it (linux/bpf.h, struct bpf_insn).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Operation code: class, operation and source.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high four.
    pub registers: u8,
    /// Jump distance, or offset of a memory access.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

// linux/bpf.h, enum bpf_cmd, bpf_prog_type, bpf_attach_type and the attach flags.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;

/// The most programs of one kind that a cgroup carries (BPF_CGROUP_MAX_PROGS).
const MOST_PROGRAMS: u32 = 64;

#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

fn bpf<A>(command: libc::c_long, attr: &mut A) -> Result<libc::c_long, Errno> {
    // SAFETY: `attr` is one of this file's #[repr(C)] structs, a prefix of the kernel's union bpf_attr, passed with its
    // own size, beyond which the kernel reads and writes nothing. The callers, all in this file, keep every buffer that
    // it points to alive across the call, and give its true length.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result == -1 { Err(error::last()) } else { Ok(result) }
}

fn own(fd: libc::c_long) -> SysResult<OwnedFd> {
    let raw = RawFd::try_from(fd).map_err(|_| SysError::new("bpf", "", Errno::BADF))?;
    // SAFETY: the callers pass the result of a bpf command that returns a new descriptor (close-on-exec), of which
    // nothing else knows the number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn number(fd: impl AsFd) -> u32 {
    // A borrowed descriptor is never negative.
    fd.as_fd().as_raw_fd().unsigned_abs()
}

/// Loads a program of type BPF_PROG_TYPE_CGROUP_DEVICE. The descriptor keeps it alive until it is attached.
///
/// # Errors
/// EINVAL or EACCES when the verifier refuses it (the message ends with the last line of the verifier's log), EPERM
/// without CAP_BPF or CAP_SYS_ADMIN, ENOSYS or EINVAL on a kernel without CONFIG_CGROUP_BPF.
pub fn load_device_program(program: &[Instruction]) -> SysResult<OwnedFd> {
    const LICENSE: &[u8] = b"Apache-2.0\0";
    const LOG_SIZE: u32 = 64 * 1024;
    let mut attr = LoadAttr {
        prog_type: PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr().addr() as u64,
        license: LICENSE.as_ptr().addr() as u64,
        prog_name: *b"brig_devices\0\0\0\0",
        ..LoadAttr::default()
    };
    match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => own(fd),
        Err(Errno::PERM) => Err(SysError::new("bpf", "BPF_PROG_LOAD, cgroup_device", Errno::PERM)),
        // The log is requested only after a failure: it makes the verifier slow, and most programs pass.
        Err(_) => {
            let mut log = vec![0u8; LOG_SIZE as usize];
            attr.log_level = 1;
            attr.log_size = LOG_SIZE;
            attr.log_buf = log.as_mut_ptr().addr() as u64;
            match bpf(PROG_LOAD, &mut attr) {
                Ok(fd) => own(fd),
                Err(errno) => {
                    let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
                    let text = String::from_utf8_lossy(&log[..end]);
                    let last = text.trim_end().lines().last().unwrap_or_default().to_owned();
                    Err(SysError::new("bpf", format!("BPF_PROG_LOAD, cgroup_device, \"{last}\""), errno))
                }
            }
        }
    }
}

/// Attaches `program` to the cgroup directory `cgroup` beside the programs that are attached already (all must allow).
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN, or below a program that admits no others; E2BIG with 64 programs
/// attached.
pub fn attach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> SysResult<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI,
        replace_bpf_fd: 0,
    };
    bpf(PROG_ATTACH, &mut attr).map(drop).map_err(|errno| SysError::new("bpf", "BPF_PROG_ATTACH, cgroup_device", errno))
}

/// Replaces `old` by `program` in one step.
///
/// # Errors
/// EINVAL before Linux 5.6; ENOENT when `old` is not attached; else as [`attach_device_program`].
pub fn replace_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, old: BorrowedFd<'_>) -> SysResult<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        attach_flags: ALLOW_MULTI | REPLACE,
        replace_bpf_fd: number(old),
    };
    bpf(PROG_ATTACH, &mut attr)
        .map(drop)
        .map_err(|errno| SysError::new("bpf", "BPF_PROG_ATTACH, cgroup_device, BPF_F_REPLACE", errno))
}

/// Detaches `program` from the cgroup directory `cgroup`.
///
/// # Errors
/// ENOENT when `program` is not attached; EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN.
pub fn detach_device_program(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> SysResult<()> {
    let mut attr = AttachAttr {
        target_fd: number(cgroup),
        attach_bpf_fd: number(program),
        attach_type: ATTACH_CGROUP_DEVICE,
        ..AttachAttr::default()
    };
    bpf(PROG_DETACH, &mut attr).map(drop).map_err(|errno| SysError::new("bpf", "BPF_PROG_DETACH, cgroup_device", errno))
}

/// The device programs that are attached to `cgroup` itself, without those of its ancestors, oldest first.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN or CAP_SYS_ADMIN; EINVAL on a kernel without CONFIG_CGROUP_BPF.
pub fn attached_device_programs(cgroup: BorrowedFd<'_>) -> SysResult<Vec<OwnedFd>> {
    let mut ids = [0u32; MOST_PROGRAMS as usize];
    let mut attr = QueryAttr {
        target_fd: number(cgroup),
        attach_type: ATTACH_CGROUP_DEVICE,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: MOST_PROGRAMS,
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr).map_err(|errno| SysError::new("bpf", "BPF_PROG_QUERY, cgroup_device", errno))?;
    let mut programs = Vec::with_capacity(attr.prog_cnt as usize);
    for &id in ids.iter().take(attr.prog_cnt as usize) {
        let mut by_id = IdAttr { prog_id: id, ..IdAttr::default() };
        match bpf(PROG_GET_FD_BY_ID, &mut by_id) {
            Ok(fd) => programs.push(own(fd)?),
            // Detached and freed since the query.
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(SysError::new("bpf", format!("BPF_PROG_GET_FD_BY_ID, {id}"), errno)),
        }
    }
    Ok(programs)
}
