//! runtime.md: the state, the lifecycle and the operations.

pub mod errors;
pub mod failing_hooks;
pub mod lifecycle;
pub mod operations;
pub mod signals;
pub mod state;
