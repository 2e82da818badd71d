//! A hook for tests: a process stops itself at a named step, so that the test can kill it there.
//!
//! It is compiled with the feature `faults` alone. The environment variable BRIG_STOP_AT of the caller names a step
//! of init's table (`root`) or of the parent (`parent:cloned`).
#![forbid(unsafe_code)]

/// The step at which init shall stop.
pub(crate) fn wanted() -> Option<String> {
    if cfg!(feature = "faults") { std::env::var("BRIG_STOP_AT").ok() } else { None }
}

/// Stops this process when `step` is the wanted one, until someone continues or kills it.
pub(crate) fn reached(wanted: Option<&str>, step: &str) {
    #[cfg(feature = "faults")]
    if wanted == Some(step)
        && let Err(errno) = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)
    {
        tracing::error!("unable to stop at {step}: {errno}");
    }
    #[cfg(not(feature = "faults"))]
    let _ = (wanted, step);
}

/// [`reached`] for a step of the parent.
pub(crate) fn parent(step: &str) {
    if cfg!(feature = "faults") {
        reached(wanted().as_deref(), &format!("parent:{step}"));
    }
}
