//! Memory of this process itself.

use nix::errno::Errno;

use super::{SysError, SysResult};

/// Lets go of the resident pages of this program's read-only segments (madvise(2), MADV_DONTNEED), where it is going to
/// wait for long. They are pages of a file: what is needed again is mapped again when it is touched.
pub fn release_program() -> SysResult<()> {
    let mut errno = 0;
    // SAFETY: the callback has the type that dl_iterate_phdr(3) wants, and `errno`, which outlives the call, is the
    // i32 that it is told of.
    unsafe { libc::dl_iterate_phdr(Some(release_segments), (&raw mut errno).cast()) };
    match errno {
        0 => Ok(()),
        errno => Err(SysError::new("madvise", "the program's read-only segments, MADV_DONTNEED", Errno::from_raw(errno))),
    }
}

/// For each object that is loaded: the program itself comes first, and ends the iteration.
unsafe extern "C" fn release_segments(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    errno: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library gives a valid object whose program headers are as many as it says, and the caller of
    // dl_iterate_phdr gives a valid i32.
    let (info, headers, errno) = unsafe {
        let info = &*info;
        (info, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()), &mut *errno.cast::<i32>())
    };
    // Not by rustix, which reads /proc/self/auxv on kernels before 6.4: that file is closed to a process that is not
    // dumpable and is no longer root.
    // SAFETY: an integer only; the C library knows the answer since it started.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    for header in headers {
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let begin = (info.dlpi_addr + header.p_vaddr) / page * page;
        let end = info.dlpi_addr + header.p_vaddr + header.p_memsz;
        // SAFETY: the range is that of a private mapping of a file that nobody can have written to: its pages come
        // back with the same content, those of this very function included.
        if unsafe { libc::madvise(begin as *mut libc::c_void, (end - begin) as usize, libc::MADV_DONTNEED) } != 0 {
            *errno = Errno::last_raw();
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
    fn the_program_goes_and_comes_back() {
        let words: Vec<String> = (0..1000).map(|number| format!("{number}")).collect();
        // Other threads have pages brought back meanwhile.
        let went = (0..100).any(|_| {
            let before = resident_file();
            release_program().unwrap();
            resident_file() < before
        });
        assert!(went, "there are never fewer resident pages of files than before");
        assert_eq!(words.concat().len(), 2890);
    }
}
