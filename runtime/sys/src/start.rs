//! The first instructions of a static binary: what glibc does before `main`, without its inventory of the processor.
//!
//! glibc reads some thirty leaves of CPUID at every start, to choose among versions of memcpy. In a virtual machine each
//! of these instructions leaves the guest: 20 to 40 microseconds where machines are nested, and a millisecond for the
//! start of a program that lives for two. brig starts twice for each container, and moves little memory: what every
//! x86-64 processor can do is enough for it. An empty static program starts in 0.13 ms instead of 0.75 this way.
//!
//! `__libc_start_main` is the symbol that crt1.o calls. A program that defines it, and all else that libc-start.o
//! defines, is linked without libc-start.o. What is called here is internal to glibc, so build.rs lets this file in only
//! beside a libc.a whose libc-start.o is known; beside any other, glibc's own is linked. The order is that of glibc's
//! csu/libc-start.c without SHARED.
//!
//! Until `_dl_relocate_static_pie` and the loop behind it are through, nothing here may call a function that has several
//! versions (memcpy, strlen); until `__libc_setup_tls` is, nothing may touch thread-local storage, errno among it.

use std::arch::asm;
use std::ffi::{c_char, c_int, c_long, c_void};

type Main = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;
type Initializer = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char);
type Finalizer = unsafe extern "C" fn();

/// Elf64_Rela (elf.h). Only R_X86_64_IRELATIVE comes here, whose addend is the function that chooses.
#[repr(C)]
struct Relocation {
    offset: *mut usize,
    info: u64,
    addend: unsafe extern "C" fn() -> usize,
}

// SAFETY: the names and types are those of glibc 2.36 and of the linker's own symbols; build.rs has looked at the archive.
unsafe extern "C" {
    static mut __environ: *mut *mut c_char;
    static mut __libc_stack_end: *mut c_void;
    static mut __libc_enable_secure: c_int;
    static mut _dl_random: *const usize;

    static __rela_iplt_start: [Relocation; 0];
    static __rela_iplt_end: [Relocation; 0];
    static __preinit_array_start: [Initializer; 0];
    static __preinit_array_end: [Initializer; 0];
    static __init_array_start: [Initializer; 0];
    static __init_array_end: [Initializer; 0];
    static __fini_array_start: [Finalizer; 0];
    static __fini_array_end: [Finalizer; 0];

    fn _dl_aux_init(auxiliary: *const c_void);
    fn __tunables_init(environment: *mut *mut c_char);
    fn _dl_relocate_static_pie();
    fn __libc_setup_tls();
    fn __libc_early_init(initial: bool);
    fn __libc_init_first(count: c_int, arguments: *mut *mut c_char, environment: *mut *mut c_char);
    fn __libc_check_standard_fds();
    fn _dl_debug_initialize(base: usize) -> *mut c_void;
    fn _init();
    fn _fini();
    fn __cxa_atexit(function: unsafe extern "C" fn(*mut c_void), argument: *mut c_void, object: *mut c_void) -> c_int;
    fn exit(status: c_int) -> !;
}

/// What libc-start.o defines for memcpy and its kin, with glibc's own defaults for a processor of which nothing is known:
/// bytes from which on they change their ways.
#[unsafe(no_mangle)]
static __x86_data_cache_size: c_long = 32 << 10;
#[unsafe(no_mangle)]
static __x86_data_cache_size_half: c_long = 16 << 10;
#[unsafe(no_mangle)]
static __x86_shared_cache_size: c_long = 1 << 20;
#[unsafe(no_mangle)]
static __x86_shared_cache_size_half: c_long = 512 << 10;
#[unsafe(no_mangle)]
static __x86_shared_non_temporal_threshold: c_long = 768 << 10;
#[unsafe(no_mangle)]
static __x86_rep_movsb_threshold: c_long = 2048;
#[unsafe(no_mangle)]
static __x86_rep_stosb_threshold: c_long = 2048;
#[unsafe(no_mangle)]
static __x86_rep_movsb_stop_threshold: c_long = 768 << 10;
#[unsafe(no_mangle)]
static __x86_string_control: c_int = 0;

/// crt1.o's `_start` calls this with `main`, the arguments, what to call at exit on behalf of a dynamic linker (none),
/// and the end of the stack. Does not return.
///
/// # Safety
/// To be called by `_start`, once, as the kernel left the stack: `arguments` is followed by the environment and the
/// auxiliary vector.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_start_main(
    main: Main,
    count: c_int,
    arguments: *mut *mut c_char,
    _init_of_old: *const c_void,
    _fini_of_old: *const c_void,
    at_exit: Option<unsafe extern "C" fn(*mut c_void)>,
    stack_end: *mut c_void,
) -> ! {
    // SAFETY: the caller's promise for the vectors; the calls are glibc's own, in glibc's own order, in the only thread.
    unsafe {
        let environment = arguments.add(count as usize + 1);
        __environ = environment;
        __libc_stack_end = stack_end;
        let mut end = environment;
        while !(*end).is_null() {
            end = end.add(1);
        }
        _dl_aux_init(end.add(1).cast());
        __tunables_init(environment);
        // Here glibc would take its inventory. _dl_x86_cpu_features stays zero, which chooses what all processors have.
        _dl_relocate_static_pie();
        let mut relocation = (&raw const __rela_iplt_start).cast::<Relocation>();
        while relocation < (&raw const __rela_iplt_end).cast() {
            *(*relocation).offset = ((*relocation).addend)();
            relocation = relocation.add(1);
        }
        __libc_setup_tls();
        // The stack protector's canary, whose lowest byte ends strings, and the guard that setjmp's pointers are mixed with.
        let canary = *_dl_random & !0xff;
        asm!("mov fs:0x28, {}", in(reg) canary, options(nostack));
        let guard = *_dl_random.add(1);
        asm!("mov fs:0x30, {}", in(reg) guard, options(nostack));
        if let Some(function) = at_exit {
            __cxa_atexit(function, std::ptr::null_mut(), std::ptr::null_mut());
        }
        __libc_early_init(true);
        __libc_init_first(count, arguments, environment);
        __cxa_atexit(finalize, std::ptr::null_mut(), std::ptr::null_mut());
        if __libc_enable_secure != 0 {
            __libc_check_standard_fds();
        }
        let initialize = |from: *const Initializer, to: *const Initializer| {
            let mut next = from;
            while next < to {
                (*next)(count, arguments, __environ);
                next = next.add(1);
            }
        };
        initialize((&raw const __preinit_array_start).cast(), (&raw const __preinit_array_end).cast());
        _init();
        initialize((&raw const __init_array_start).cast(), (&raw const __init_array_end).cast());
        _dl_debug_initialize(0);
        exit(main(count, arguments, __environ))
    }
}

/// The destructors of the program itself, the last one first.
///
/// # Safety
/// To be called by exit(3), once.
unsafe extern "C" fn finalize(_: *mut c_void) {
    // SAFETY: the linker made the array.
    unsafe {
        let begin = (&raw const __fini_array_start).cast::<Finalizer>();
        let mut next = (&raw const __fini_array_end).cast::<Finalizer>();
        while next > begin {
            next = next.sub(1);
            (*next)();
        }
        _fini();
    }
}
