//! The executable of this process, among the objects that are mapped.

/// Whether `address` is in the executable itself, and not in a shared library.
pub fn contains(address: *const ()) -> bool {
    /// dl_iterate_phdr(3): the first object is the main program; a nonzero answer ends the iteration.
    unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: usize, data: *mut libc::c_void) -> libc::c_int {
        // SAFETY: the C library passes a valid `info` whose headers are mapped, and `data` is the pair below, which
        // outlives the call and which nothing else refers to.
        unsafe {
            let (address, found) = &mut *data.cast::<(u64, bool)>();
            let info = &*info;
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            *found = headers.iter().filter(|header| header.p_type == libc::PT_LOAD).any(|header| {
                let begin = info.dlpi_addr.wrapping_add(header.p_vaddr);
                address.wrapping_sub(begin) < header.p_memsz
            });
        }
        1
    }
    let mut data = (address.addr() as u64, false);
    // SAFETY: `first` keeps to the contract of the callback, and `data` lives until the call returns.
    unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut data).cast()) };
    data.1
}

#[cfg(test)]
mod tests {
    use super::*;

    static HERE: u8 = 0;

    #[test]
    fn a_static_is_in_the_executable_and_the_heap_is_not() {
        assert!(contains((&raw const HERE).cast()));
        let heap = Box::new(0u8);
        assert!(!contains((&raw const *heap).cast()));
        if cfg!(not(target_feature = "crt-static")) {
            assert!(!contains(libc::getpid as *const ()), "the C library is a shared one");
        }
    }
}
