//! Memory of this process itself.

use rustix::io::Errno;

use super::{SysError, SysResult, error};

/// Releases the resident pages of this program's read-only segments (madvise(2), MADV_DONTNEED) before a long wait.
/// They are pages of a file, which the kernel maps again at the next access.
///
/// # Errors
/// As madvise(2): EINVAL for pages that are locked in memory.
pub fn release_program() -> SysResult<()> {
    let mut errno = 0;
    // SAFETY: the callback has the type of dl_iterate_phdr(3), and its last argument is `errno`, an i32 that outlives
    // the call, as `release_segments` requires.
    unsafe { libc::dl_iterate_phdr(Some(release_segments), (&raw mut errno).cast()) };
    match errno {
        0 => Ok(()),
        errno => Err(SysError::new(
            "madvise",
            "the program's read-only segments, MADV_DONTNEED",
            Errno::from_raw_os_error(errno),
        )),
    }
}

/// Releases the segments of one loaded object. The program itself is the first object, and ends the iteration.
///
/// # Safety
/// Called by dl_iterate_phdr(3), with a valid i32 as its last argument.
unsafe extern "C" fn release_segments(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    errno: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library passes a valid object with `dlpi_phnum` program headers; the caller passes a valid i32,
    // which nothing else refers to.
    let (info, headers, errno) = unsafe {
        let info = &*info;
        (info, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()), &mut *errno.cast::<i32>())
    };
    // Not by rustix, which reads /proc/self/auxv on kernels before 6.4: that file is closed to a process that is not
    // dumpable and is no longer root.
    // SAFETY: sysconf takes its argument by value and returns a constant of the process.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.unsigned_abs();
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = (info.dlpi_addr + header.p_vaddr) / page * page;
        let end = info.dlpi_addr + header.p_vaddr + header.p_memsz;
        // The segment is mapped, so that its length is one of this address space.
        let length = usize::try_from(end - begin).unwrap_or_default();
        // SAFETY: the linker gave the segment no PF_W, so that its pages are unmodified pages of the program's file:
        // the next access, also by this function's own code, finds the same content.
        if unsafe { libc::madvise(begin as *mut libc::c_void, length, libc::MADV_DONTNEED) } != 0 {
            *errno = error::last().raw_os_error();
            return 1;
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Resident pages of files, in KiB.
    fn resident_file() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn released_pages_are_mapped_again() {
        let words: Vec<String> = (0..1000).map(|number| format!("{number}")).collect();
        // Other threads map pages again meanwhile.
        let went = (0..100).any(|_| {
            let before = resident_file();
            release_program().unwrap();
            resident_file() < before
        });
        assert!(went, "there are never fewer resident pages of files than before");
        assert_eq!(words.concat().len(), 2890);
    }
}
