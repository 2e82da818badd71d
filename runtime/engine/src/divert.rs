//! The diversion of a process that is to be an init, before `main`.
//!
//! The init of a container is a further execution of the running program (see [`crate::launch`]). `main` belongs to the
//! program that embeds the engine and must never run inside a container, as root and in the container's namespaces. So
//! the engine does not rely on `main`: an entry of the executable's `.init_array` (System V ABI, "Initialization and
//! Termination Functions") runs before it, takes over when the environment says that this process is an init, and
//! exits. Launching is refused where such an entry cannot be relied on.
#![allow(unsafe_code, reason = "a link section is an unsafe attribute; the module has no unsafe block")]

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, ErrorKind, Result};
use crate::handshake::INIT_VARIABLE;
use crate::launch::init;

static HAS_RUN: AtomicBool = AtomicBool::new(false);

/// The entry. The linker keeps it because [`check`] refers to this module, and it must be in the executable itself.
// SAFETY: the section holds pointers to functions of this type, which the C library calls with arguments that the C
// calling convention lets a function ignore. It runs after the C library has set itself up, on the only thread.
#[used]
#[unsafe(link_section = ".init_array")]
static ENTRY: extern "C" fn() = divert;

extern "C" fn divert() {
    HAS_RUN.store(true, Ordering::Relaxed);
    if let Some(plan) = std::env::var_os(INIT_VARIABLE) {
        std::process::exit(init::main(&plan));
    }
}

/// Checks that a further execution of this program would be diverted.
///
/// # Errors
/// [`ErrorKind::Unsupported`] when the engine is in a shared library, whose entries run too late or not at all, or
/// when the linker left the entry out.
pub(crate) fn check() -> Result<()> {
    let in_executable = brig_sys::executable::contains((&raw const ENTRY).cast());
    if in_executable && HAS_RUN.load(Ordering::Relaxed) {
        return Ok(());
    }
    let found = if in_executable { "its .init_array entry has not run" } else { "it is part of a shared library" };
    let text = format!(
        "the engine cannot start containers from this program: expected it to be linked into the executable, which is \
         executed again inside the container and diverted before main; found that {found}"
    );
    Err(Error::new(ErrorKind::Unsupported, text))
}
