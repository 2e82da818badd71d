//! A hook for tests: a process stops at a named step, reports it on standard error, and waits there to be killed.
//!
//! The feature `faults` alone compiles this module. The environment variable BRIG_STOP_AT of the caller names a step of
//! init's table (`root`) or of the parent (`parent:cloned`).

/// The step at which init is to stop.
pub(crate) fn wanted() -> Option<String> {
    if cfg!(feature = "faults") { std::env::var("BRIG_STOP_AT").ok() } else { None }
}

/// Stops this process for ever when `step` is the wanted one.
pub(crate) fn reached(wanted: Option<&str>, step: &str) {
    if cfg!(feature = "faults") && wanted == Some(step) {
        eprintln!("stopped at {step}");
        loop {
            // A stop signal has no effect: the first process of a pid namespace ignores its own signals.
            rustix::event::pause();
        }
    }
}

/// Stops the parent when it reaches `step`: see [`reached`].
pub(crate) fn parent(step: &str) {
    if cfg!(feature = "faults") {
        reached(wanted().as_deref(), &format!("parent:{step}"));
    }
}
