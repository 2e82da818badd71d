//! POSIX extended regular expressions, as the C library matches them (regex(3), regex(7)).

use std::ffi::CString;
use std::mem::MaybeUninit;

use rustix::io::Errno;

use super::{SysError, SysResult};

/// A compiled expression.
pub struct Pattern(libc::regex_t);

impl Pattern {
    /// Compiles an extended regular expression.
    ///
    /// # Errors
    /// EINVAL for a malformed expression.
    pub fn new(expression: &str) -> SysResult<Pattern> {
        let error = || SysError::new("regcomp", format!("{expression:?}"), Errno::INVAL);
        let text = CString::new(expression).map_err(|_| error())?;
        let mut compiled = MaybeUninit::uninit();
        // SAFETY: `text` is NUL-terminated and outlives the call, and regcomp accepts an uninitialised regex_t.
        let result =
            unsafe { libc::regcomp(compiled.as_mut_ptr(), text.as_ptr(), libc::REG_EXTENDED | libc::REG_NOSUB) };
        if result != 0 {
            return Err(error());
        }
        // SAFETY: a successful regcomp has initialised the value. Its pointers lead to the heap and not into the
        // regex_t, which may therefore be moved.
        Ok(Pattern(unsafe { compiled.assume_init() }))
    }

    /// Whether some part of `text` matches. A text with a NUL byte never matches.
    pub fn matches(&self, text: &str) -> bool {
        let Ok(text) = CString::new(text) else { return false };
        // SAFETY: `new` compiled the expression, and only `drop` frees it. With 0 sub-matches nothing is written.
        unsafe { libc::regexec(&self.0, text.as_ptr(), 0, std::ptr::null_mut(), 0) == 0 }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: `new` compiled the expression, and only this function frees it, once.
        unsafe { libc::regfree(&mut self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_extended_and_match_anywhere() {
        let pattern = Pattern::new("^box[0-9]+$|web").unwrap();
        assert!(pattern.matches("box12") && pattern.matches("a-web-b"));
        assert!(!pattern.matches("box") && !pattern.matches("box1\0"));
        assert!(Pattern::new("a(").is_err() && Pattern::new("a\0").is_err());
    }
}
