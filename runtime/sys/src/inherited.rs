//! Descriptors that a process inherits over its exec, each taken by value once.
//!
//! A number alone is no proof of ownership: taking it twice, or taking the number of a file that this process opened
//! itself, closes a descriptor under its owner. Therefore ownership of inherited descriptors is settled before `main`.
//!
//! | step | where | operation |
//! |---|---|---|
//! | name | parent | [`variable`] writes the numbers of the descriptors that a child inherits into its environment |
//! | claim | child, before `main` | an entry of `.init_array` marks each number close-on-exec, which fails for one that is not open, and puts the descriptor into a table |
//! | take | child | [`Inherited::of_this_process`] gives the table to its first caller; [`Inherited::take`] moves a descriptor out of it |
//!
//! Before `main` no Rust code of this process owns a descriptor: each open number was inherited, and has no other
//! owner. The table is empty in a program that was started without the variable, and in one that has this crate in a
//! shared library, whose entries may run after `main` began.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt::Write;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::{SysError, SysResult};

/// The environment variable that names the descriptors.
pub const VARIABLE: &str = "_BRIG_INHERITED";

/// The first number that is no standard stream.
const FIRST: RawFd = 3;

/// The descriptors that were claimed before `main`, until [`Inherited::of_this_process`].
static CLAIMED: Mutex<BTreeMap<RawFd, OwnedFd>> = Mutex::new(BTreeMap::new());

/// The entry of the environment for a child that inherits `fds`, and `preserved` more descriptors from number 3 on,
/// which the caller's own parent chose.
pub fn variable(fds: &[BorrowedFd<'_>], preserved: u32) -> CString {
    let mut text = format!("{VARIABLE}={preserved}");
    for fd in fds {
        // Writing to a String does not fail.
        let _ = write!(text, ",{}", fd.as_raw_fd());
    }
    // Neither the name nor a number has a NUL byte.
    CString::new(text).unwrap_or_default()
}

/// How many descriptors from number 3 on a value of the variable preserves, and the numbers that it lists.
fn parse(text: &str) -> (RawFd, impl Iterator<Item = RawFd>) {
    let mut numbers = text.split(',').map(str::parse::<RawFd>);
    let preserved = numbers.next().and_then(Result::ok).unwrap_or(0);
    (preserved, numbers.filter_map(Result::ok).filter(|number| *number >= FIRST))
}

/// The inherited descriptors of this process that were not taken yet.
#[derive(Debug, Default)]
pub struct Inherited(BTreeMap<RawFd, OwnedFd>);

impl Inherited {
    /// The descriptors that the parent named. Every call after the first gives an empty table.
    pub fn of_this_process() -> Inherited {
        Inherited(std::mem::take(&mut *CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Takes the descriptor `number`. Close-on-exec is set.
    ///
    /// # Errors
    /// EBADF for a number that the parent did not name, that was not open at the exec, or that was taken before.
    pub fn take(&mut self, number: RawFd) -> SysResult<OwnedFd> {
        let taken = self.0.remove(&number);
        taken.ok_or_else(|| SysError::new("take", format!("inherited descriptor {number}"), Errno::BADF))
    }

    /// Adds a descriptor, and gives the number to take it by. For callers that prepare a table without an exec.
    pub fn insert(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.0.insert(number, fd);
        number
    }
}

/// True when this process has an open descriptor of this number, inherited or not.
pub fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD reads the flags of a number of this process's own table, and fails for one that is not open; no
    // descriptor is borrowed beyond the call.
    number >= 0 && unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0
}

#[cfg(not(miri))]
mod before_main {
    use std::os::fd::{FromRawFd, OwnedFd};
    use std::sync::PoisonError;

    use super::{CLAIMED, FIRST, VARIABLE, parse};
    use crate::executable;

    /// Called by the C library's start code before `main`, in the only thread, and before entries without a number,
    /// which may already take descriptors. The environment is in place by then with every C library.
    #[used]
    #[unsafe(link_section = ".init_array.00101")]
    static CLAIM: extern "C" fn() = claim;

    extern "C" fn claim() {
        let Some(text) = std::env::var_os(VARIABLE) else { return };
        if !executable::contains((&raw const CLAIM).cast()) {
            return;
        }
        let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
        let mut claim_number = |number| {
            // SAFETY: F_SETFD changes a flag of a number of this process's own table, and fails for one that is not
            // open.
            let is_open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
            if is_open && !claimed.contains_key(&number) {
                // SAFETY: the number is open, and this function is the only code that runs: it is an entry of the
                // executable, so that `main` has not begun and no Rust value owns the number, and the lookup above
                // keeps it from being claimed twice.
                claimed.insert(number, unsafe { OwnedFd::from_raw_fd(number) });
            }
            is_open
        };
        let (preserved, listed) = parse(text.to_str().unwrap_or_default());
        // Ends at the first that is not open, which is reported when it is taken: a wrong count costs nothing.
        let _ = (FIRST..FIRST.saturating_add(preserved)).all(&mut claim_number);
        listed.for_each(|number| _ = claim_number(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_variable_is_parsed_to_the_numbers_that_it_was_made_of() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let text = variable(&[file.as_fd()], 2).into_string().unwrap();
        let (preserved, listed) = parse(text.strip_prefix("_BRIG_INHERITED=").unwrap());
        assert_eq!((preserved, listed.collect::<Vec<_>>()), (2, vec![file.as_raw_fd()]));
    }

    #[test]
    fn standard_streams_and_foreign_texts_give_no_number() {
        for text in ["", "create", "0,2,-1,x", "x,1"] {
            let (preserved, listed) = parse(text);
            assert_eq!((preserved, listed.count()), (0, 0), "{text}");
        }
    }

    #[test]
    fn a_descriptor_number_can_be_taken_once() {
        let mut table = Inherited::default();
        let number = table.insert(std::fs::File::open("/dev/null").unwrap().into());
        assert!(table.take(number + 1).is_err());
        assert!(table.take(number).is_ok());
        assert!(table.take(number).is_err());
    }

    /// Runs this test again in a child that inherits two descriptors, of which one is named.
    #[test]
    #[cfg_attr(miri, ignore = "starts a process")]
    fn a_child_takes_what_its_parent_named_and_nothing_else() {
        const NAME: &str = "inherited::tests::a_child_takes_what_its_parent_named_and_nothing_else";
        if let Some(numbers) = std::env::var_os("BRIG_TEST_INHERITED") {
            let numbers: Vec<RawFd> =
                numbers.to_str().unwrap().split(',').map(|number| number.parse().unwrap()).collect();
            let mut table = Inherited::of_this_process();
            let fd = table.take(numbers[0]).unwrap();
            assert!(rustix::io::fcntl_getfd(&fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
            assert!(table.take(numbers[0]).is_err());
            assert!(is_open(numbers[1]) && table.take(numbers[1]).is_err());
            assert!(Inherited::of_this_process().0.is_empty());
            return;
        }
        let open = || {
            let file = std::fs::File::open("/dev/null").unwrap();
            rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
            file
        };
        let (named, unnamed) = (open(), open());
        let done = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME])
            .env(VARIABLE, format!("0,{}", named.as_raw_fd()))
            .env("BRIG_TEST_INHERITED", format!("{},{}", named.as_raw_fd(), unnamed.as_raw_fd()))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && text.contains("1 passed"), "{text}");
    }
}
