//! Additions to `std::process::Command`.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Null-terminated strings and the array of pointers to them, as execve(2) takes both.
struct StringArray {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

// SAFETY: `pointers` points into the heap memory of `_strings`, which the struct owns and never changes, so that moving
// it to another thread leaves the pointers valid.
unsafe impl Send for StringArray {}
// SAFETY: as above; a shared reference gives read access alone.
unsafe impl Sync for StringArray {}

impl StringArray {
    fn new(strings: Vec<CString>) -> StringArray {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        StringArray { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

/// Has the child of `command` execute `path` with these arguments and this environment instead of the command's own.
/// An environment may hold entries without `=`, which `Command` cannot express. Everything else that `command` asks
/// for has happened by then, if this is the last addition to it.
pub fn replace_exec(command: &mut Command, path: CString, args: Vec<CString>, env: Vec<CString>) {
    let (args, env) = (StringArray::new(args), StringArray::new(env));
    let execute = move || {
        let path: &CStr = &path;
        // SAFETY: path and strings end in NUL and the arrays in null (StringArray::new); this closure owns them all.
        unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
        Err(io::Error::last_os_error())
    };
    // SAFETY: the closure makes one system call, which is async-signal-safe, on memory that it owns and that was
    // prepared before the fork.
    unsafe { command.pre_exec(execute) };
}
